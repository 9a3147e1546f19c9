"""The small parts of goferd: its lock, signals, log formats, and what it tells the service manager."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.agent import logs
from gofer.agent.lock import AgentLock, AlreadyRunning
from gofer.agent.notify import notify
from gofer.agent.signals import Signals
from gofer.errors import ConfigError
from gofer.root import Root


class TestLock:
    def test_the_second_is_told_who_holds_it_and_may_have_it_afterwards(self, root: Path) -> None:
        with AgentLock(Root(root)):
            with pytest.raises(
                AlreadyRunning, match=f"process {os.getpid()} holds {root}/run/gofer/goferd.lock"
            ) as caught:
                AgentLock(Root(root)).__enter__()
            assert caught.value.holder == os.getpid()
        with AgentLock(Root(root)):
            pass

    def test_it_ends_with_its_process_and_not_with_those_that_were_started_from_it(self, root: Path) -> None:
        code = (
            "import os, subprocess, sys\n"
            "from pathlib import Path\n"
            "from gofer.agent.lock import AgentLock\n"
            "from gofer.root import Root\n"
            "AgentLock(Root(Path(sys.argv[1]))).__enter__()\n"
            "child = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=subprocess.DEVNULL)\n"
            "print(child.pid, flush=True)\n"
            "os.kill(os.getpid(), 9)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, timeout=30, check=False)
        try:
            with AgentLock(Root(root)):
                pass
        finally:
            os.kill(int(done.stdout), signal.SIGKILL)

    def test_it_ends_with_its_process_and_not_with_those_that_were_forked_from_it(self, root: Path) -> None:
        code = (
            "import os, sys, time\n"
            "from pathlib import Path\n"
            "from gofer.agent.lock import AgentLock\n"
            "from gofer.root import Root\n"
            "AgentLock(Root(Path(sys.argv[1]))).__enter__()\n"
            "child = os.fork()\n"
            "if not child:\n"
            "    os.close(1)\n"
            "    time.sleep(60)\n"
            "print(child, flush=True)\n"
            "os.kill(os.getpid(), 9)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, timeout=30, check=False)
        try:
            with AgentLock(Root(root)):
                pass
        finally:
            os.kill(int(done.stdout), signal.SIGKILL)

    def test_a_link_in_its_place_is_not_followed(self, root: Path, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.write_text("kept")
        (root / "run/gofer/goferd.lock").symlink_to(precious)

        with pytest.raises(ConfigError, match=r"goferd\.lock: cannot be opened"):
            AgentLock(Root(root)).__enter__()

        assert precious.read_text() == "kept"


class TestSignals:
    @pytest.fixture(autouse=True)
    def as_before(self) -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)}
        yield
        for number, handler in before.items():
            signal.signal(number, handler)

    def test_one_that_came_before_is_not_lost(self) -> None:
        with Signals([signal.SIGUSR1, signal.SIGUSR2]) as signals:
            os.kill(os.getpid(), signal.SIGUSR2)
            os.kill(os.getpid(), signal.SIGUSR1)

            assert [signals.wait(5), signals.wait(5)] == [signal.SIGUSR2, signal.SIGUSR1]
            assert signals.wait(0.01) is None

    def test_a_waiting_thread_is_woken_by_a_signal_and_by_wake(self) -> None:
        with Signals([signal.SIGUSR1]) as signals:
            for send, expected in (
                (lambda: os.kill(os.getpid(), signal.SIGUSR1), signal.SIGUSR1),
                (signals.wake, None),
            ):
                timer = threading.Timer(0.05, send)
                timer.start()
                begun = time.monotonic()
                assert signals.wait(20) == expected
                assert time.monotonic() - begun < 10
                timer.join()

    def test_at_the_end_they_are_ignored_and_a_late_thread_does_no_harm(self) -> None:
        with Signals([signal.SIGUSR1]) as signals:
            pass

        os.kill(os.getpid(), signal.SIGUSR1)
        signals.wake()

    # Python warns of locks that other threads may hold; the child here takes none.
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_what_is_forked_has_them_for_itself(self) -> None:
        with Signals([signal.SIGTERM]) as signals:
            child = os.fork()
            if not child:
                os.kill(os.getpid(), signal.SIGTERM)
                os._exit(0)

            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
            assert signals.wait(0) is None

    def test_what_is_started_inherits_no_mask(self) -> None:
        with Signals([signal.SIGTERM]):
            shown = subprocess.run(["grep", "SigBlk", "/proc/self/status"], stdout=subprocess.PIPE, check=True).stdout

        assert int(shown.split()[1], 16) == 0


class TestNotify:
    def test_a_state_is_sent_to_the_socket(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            for address in (str(tmp_path / "notify"), f"\0gofer-{os.getpid()}"):
                manager.close()
                manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # noqa: PLW2901 - one after the other
                manager.bind(address)
                assert notify({"NOTIFY_SOCKET": address.replace("\0", "@")}, "READY=1")
                assert manager.recv(100) == b"READY=1"
            manager.close()

    def test_nobody_there_is_no_trouble(self, tmp_path: Path) -> None:
        assert not notify({}, "READY=1")
        assert not notify({"NOTIFY_SOCKET": "relative"}, "READY=1")
        assert not notify({"NOTIFY_SOCKET": str(tmp_path / "nothing")}, "READY=1")


class TestLogs:
    @pytest.fixture(autouse=True)
    def as_before(self) -> Iterator[None]:
        root = logging.getLogger()
        handlers, level = list(root.handlers), root.level
        yield
        for handler in list(root.handlers):
            root.removeHandler(handler)
            if handler not in handlers:
                handler.close()
        for handler in handlers:
            root.addHandler(handler)
        root.setLevel(level)
        ours = logging.getLogger("gofer")
        for handler in list(ours.handlers):
            ours.removeHandler(handler)
            handler.close()
        ours.propagate = True
        logging.captureWarnings(capture=False)
        logging.getLogger("gofer.quiet").setLevel(logging.NOTSET)

    def record(self, message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
        info = None if error is None else (type(error), error, error.__traceback__)
        record = logging.LogRecord("gofer.some", logging.WARNING, __file__, 1, message, args, info)
        record.created, record.msecs = 1.25, 250.0
        return record

    def test_a_line_has_time_level_and_logger(self) -> None:
        line = logs.LineFormatter().format(self.record("hello %s", "you"))

        assert line == "1970-01-01T00:00:01.250Z WARNING gofer.some: hello you"

    def test_the_journal_gets_a_priority_on_each_line_and_no_time(self) -> None:
        text = logs.JournalFormatter().format(self.record("it failed", error=ValueError("bad")))

        assert text.split("\n")[0] == "<4>gofer.some: it failed"
        assert all(line.startswith("<4>") for line in text.split("\n"))
        assert text.endswith("ValueError: bad")

    def test_json_is_one_object_a_line(self) -> None:
        text = logs.JsonFormatter().format(self.record("two\nlines", error=ValueError("bad")))

        assert "\n" not in text
        assert json.loads(text) == {
            "time": "1970-01-01T00:00:01.250Z",
            "level": "WARNING",
            "logger": "gofer.some",
            "message": "two\nlines",
            "trace": "ValueError: bad",
        }

    def test_levels_are_by_logger_and_the_file_survives_its_rotation(self, tmp_path: Path) -> None:
        file = tmp_path / "agent"
        logs.configure({"root": logging.WARNING, "gofer.quiet": logging.ERROR}, file=file, environ={})

        logging.getLogger("gofer.other").info("no")
        logging.getLogger("gofer.other").warning("one")
        logging.getLogger("gofer.quiet").warning("no")
        file.rename(tmp_path / "agent.1")
        logging.getLogger("gofer.quiet").error("two")

        assert (tmp_path / "agent.1").read_text().endswith(" WARNING gofer.other: one\n")
        assert file.read_text().endswith(" ERROR gofer.quiet: two\n")

    def test_what_a_plugin_does_to_the_root_logger_leaves_our_lines_alone(self, tmp_path: Path) -> None:
        class Bad(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                raise RuntimeError("cannot log")

        file = tmp_path / "agent"
        logs.configure({}, file=file, environ={})
        logging.getLogger().addHandler(Bad())
        logging.getLogger("gofer.some").warning("one")
        logging.basicConfig(force=True)
        logging.getLogger("gofer.some").warning("two")

        assert [line.rpartition(" ")[2] for line in file.read_text().splitlines()] == ["one", "two"]

    def test_a_file_that_cannot_be_opened_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=f"log file {tmp_path}: cannot be opened: Is a directory"):
            logs.configure({}, file=tmp_path, environ={})

    def test_the_journal_is_known_by_its_device_and_inode(self, tmp_path: Path) -> None:
        with (tmp_path / "stream").open("w") as stream:
            found = os.fstat(stream.fileno())

            assert logs.is_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}, stream.fileno())
            assert not logs.is_journal({"JOURNAL_STREAM": f"{found.st_dev}:1"}, stream.fileno())
        for other in ({}, {"JOURNAL_STREAM": "x"}, {"JOURNAL_STREAM": "1:y"}):
            assert not logs.is_journal(other, 2)
