"""``goferd``: the agent as a process."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version

from gofer.agent import logs
from gofer.agent.certificates import CertificateWatch
from gofer.agent.check import check
from gofer.agent.config import AgentConfig, Descriptor, Problem, check_together, read_agent, read_descriptors
from gofer.agent.container import PluginContainer
from gofer.agent.management.operations import Operations
from gofer.agent.management.server import Management
from gofer.agent.process import AgentLock, Signals, give_memory_back, notify, watchdog_interval
from gofer.errors import ConfigError
from gofer.root import Root
from gofer.streams import open_missing

__all__ = ["main"]

log = logging.getLogger(__name__)

_STATUSES = """\
exit status:
  0    stopped as asked (SIGTERM or SIGINT); with --check: nothing is wrong
  1    not started: another goferd holds the root, or a directory or a log file
       cannot be used; with --check: something is wrong; or the agent has failed
  2    wrong arguments
  74   with --check: the output cannot be written, for example because the disk
       is full; 141: its reader has gone away
  130  stopped at once, by a second SIGINT

signals:
  SIGTERM, SIGINT  take no new requests, let running calls end within [main]
                   shutdown_timeout, and exit; the broker keeps all else
  SIGINT again     exit at once
  SIGHUP           read the descriptors again: load what is new, unload what is
                   gone, reload what has changed
"""
_ENDING = 5.0  # seconds that the interpreter has to end when all is stopped
_GREETING = 3.0  # seconds for the brokers to answer before the agent says that it is ready
_LOOK = 10.0  # seconds between two looks at whether the methods of plugins have changed the logging


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent until it is told to stop. Returns the exit status; see ``goferd --help`` for them."""
    open_missing()
    options = _parser().parse_args(argv)
    try:
        root = Root.from_environ(os.environ, options.root)
        os.environ["GOFER_ROOT"] = str(root.path)  # for local:// URLs, and for what plugins start
        config, problems = read_agent(root)
        if options.check:
            return check(root, config, problems)
        give_memory_back()
        logging_of_ours = _set_up_logging(root, config)
        with AgentLock(root), Signals((signal.SIGTERM, signal.SIGINT, signal.SIGHUP)) as signals:
            return _Daemon(root, config, signals, logging_of_ours).run(problems)
    except ConfigError as error:
        print(f"goferd: {error}", file=sys.stderr)
        return 1


class _Daemon:
    """One run of the agent: the main thread waits for signals, another one does what may take time."""

    def __init__(self, root: Root, config: AgentConfig, signals: Signals, logging_of_ours: logs.LogSetup) -> None:
        self.root = root
        self.signals = signals
        self.logging = logging_of_ours
        self.timeout = config.main.shutdown_timeout
        self.container = PluginContainer(root, config, imported=self._repair_logging)
        self.operations = Operations(self.container)
        self.management = Management(root, config.management, self.operations.do)
        self.certificates = CertificateWatch(self.container.clock, lambda: list(self.container.plugins.values()))
        self.failed = False

    def run(self, problems: Sequence[Problem]) -> int:
        """Start, wait for the word, stop. Returns the exit status."""
        log.info("goferd %s starts: pid %d, root %s", version("gofer-core"), os.getpid(), self.root.path)
        _report(problems)
        self.management.start()  # first: it shows what is being loaded
        working = self._do(self._start)
        interrupted = False
        again = False
        while not self.failed:
            number = self.signals.wait()
            if number == signal.SIGHUP:
                again = True
            elif number is not None:
                interrupted = number == signal.SIGINT
                log.info("%s: stopping; running calls have %g s", number.name, self.timeout)
                break
            if again and working.is_set():
                again = False
                working = self._do(self._reload)
        notify(os.environ, "STOPPING=1")
        return self._stop(interrupted)

    def _repair_logging(self, plugin: str | None = None) -> None:
        """Undo what a plugin's code did to the logging of the whole process, and tell that it did."""
        if changed := self.logging.repair():
            whose = "the code of a plugin" if plugin is None else f"plugin {plugin}, while it was loaded,"
            log.warning(
                "%s has changed the logging of the whole process; gofer has restored: %s", whose, "; ".join(changed)
            )

    def _watch_logging(self) -> None:
        self._repair_logging()
        self.container.clock.call_after(_LOOK, self._watch_logging)

    def _feed_watchdog(self, interval: float, complained: bool = False) -> None:
        """Tell the service manager that the agent works, unless it is deaf and does not know it; and again."""
        deaf = self.container.links.deaf()
        if deaf is None:
            notify(os.environ, "WATCHDOG=1")
        elif not complained:
            log.error("the agent is deaf, so the watchdog is not fed: %s", deaf)
        self.container.clock.call_after(interval, lambda: self._feed_watchdog(interval, deaf is not None))

    def _start(self) -> None:
        if (interval := watchdog_interval(os.environ)) is not None:
            self._feed_watchdog(interval)
        self.container.clock.call_after(_LOOK, self._watch_logging)
        self.container.start(*self._read())
        self.certificates.start()
        if self.operations.phase == "starting":
            self.operations.phase = "running"
        self._tell_ready()

    def _read(self) -> tuple[list[Descriptor], set[str]]:
        """Read the descriptors, and tell what is wrong. Returns them, and the files that cannot be used."""
        descriptors, problems = read_descriptors(self.root)
        # What is an error among these is told by the plugin that does not run for it.
        odd = [problem for problem in check_together(descriptors) if problem.severity == "warning"]
        _report([*problems, *odd])
        return descriptors, {problem.file for problem in problems if problem.severity == "error"}

    def _reload(self) -> None:
        notify(os.environ, f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        descriptors, wrong = self._read()
        self.container.update(descriptors, kept=wrong)
        self._tell_ready()

    def _tell_ready(self) -> None:
        # Who starts it, and calls it then, finds its queues: without a wait that was so nearly always.
        self.container.endpoints.wait(_GREETING)
        notify(os.environ, "READY=1")

    def _stop(self, interrupted: bool) -> int:
        deadline = time.monotonic() + self.timeout
        self.operations.phase = "stopping"
        stopping = self._do(lambda: self.container.stop(self.timeout))
        # A little more than the container itself keeps to: a plugin's code may hold it up.
        while not stopping.is_set() and (left := deadline + _ENDING - time.monotonic()) > 0:
            if self.signals.wait(left) == signal.SIGINT:
                if interrupted:
                    log.warning("second SIGINT: exiting at once")
                    _exit_now(130)
                interrupted = True
        status = 1 if self.failed else 0
        self.management.stop()
        if not stopping.is_set():
            log.warning("a plugin does not stop in time; exiting without it")
            _exit_now(status)
        log.info("goferd has stopped")
        _exit_by(time.monotonic() + _ENDING, status)
        return status

    def _do(self, work: Callable[[], None]) -> threading.Event:
        """Do something in a thread of its own; set what is returned, and wake the main thread, when that has ended."""
        ended = threading.Event()

        def doing() -> None:
            try:
                work()
            except BaseException:
                log.exception("the agent has failed")
                self.failed = True
            finally:
                ended.set()
                self.signals.wake()

        threading.Thread(target=doing, name="gofer-agent", daemon=True).start()
        return ended


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="goferd",
        description="Run the plugins of this machine, and answer the requests that the broker has for them.",
        epilog=_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-f", "--foreground", action="store_true", help="accepted; goferd always runs in the foreground"
    )
    parser.add_argument(
        "--root", metavar="DIR", help="put DIR before /etc/gofer, /var/lib/gofer ... (default: GOFER_ROOT, else /)"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="print all errors in the configuration and in the plugins' code, and exit",
    )
    parser.add_argument("--version", action="version", version=f"goferd {version('gofer-core')}")
    return parser


def _report(problems: Iterable[Problem]) -> None:
    for problem in problems:
        log.log(logging.ERROR if problem.severity == "error" else logging.WARNING, "%s", problem)


def _set_up_logging(root: Root, config: AgentConfig) -> logs.LogSetup:
    file = config.logging.file
    if file is not None and file.is_relative_to(root.log):
        root.ensure(root.log)
    return logs.configure(
        config.logging.levels, file=file, json_lines=config.logging.format == "json", environ=os.environ
    )


def _exit_by(deadline: float, status: int) -> None:
    """End the process at a deadline, should a plugin's thread or exit handler keep it from ending by itself."""

    def late() -> None:
        time.sleep(max(0.0, deadline - time.monotonic()))
        log.warning("some threads of plugins do not end; exiting without them")
        _exit_now(status)

    threading.Thread(target=late, name="gofer-exit", daemon=True).start()


def _exit_now(status: int) -> None:
    logging.shutdown()
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
