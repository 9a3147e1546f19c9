"""goferd as a process: started once a root, stopped softly, told by signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from gofer.errors import NotFound
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer.testing.proxy import Proxy
from support import forkserver
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.plugins import describe, install
from support.presence import answers, until_it_answers
from support.probe import PROBE, descriptor, runs
from support.waiting import eventually

HOLDER = """
import os
import time
from pathlib import Path

from gofer.decorators import remote

class Holder:
    @remote
    def hold(self, started, go):
        Path(started).touch()
        while not os.path.exists(go):
            time.sleep(0.005)
        return "held"

    @remote
    def note(self, trace, text):
        with open(trace, "a") as file:
            file.write(text + "\\n")
        return text
"""

GOFERD = [sys.executable, "-m", "gofer.agent.main"]


@pytest.fixture
def broker(root: Path) -> Iterator[LocalBroker]:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        yield broker


def test_it_is_ready_when_its_plugins_take_requests(root: Path, broker: LocalBroker) -> None:
    """Who has started it calls it at once: that the queue was not there yet showed on busy machines only."""
    with Proxy(URL.parse(broker.url)) as proxy, AgentProcess(root) as process:
        proxy.to_broker.piece, proxy.to_broker.pause = 50, 0.02
        messaging = f"[messaging]\nurl={proxy.url}\n[model]\nqueue=holder\n"
        process.plugin("holder", HOLDER, f"[main]\nenabled=1\n{messaging}")
        process.start()
        with Agent(broker.url, "holder", wait=30) as agent:
            assert agent.Admin().hello()


@pytest.fixture
def goferd(root: Path, broker: LocalBroker) -> Iterator[AgentProcess]:
    """One with the probe on two threads, not started."""
    with AgentProcess(root) as process:
        process.plugin("probe", PROBE, descriptor(broker.url, "probe", threads=2))
        yield process


@pytest.fixture
def agent(broker: LocalBroker) -> Iterator[Agent]:
    with Agent(broker.url, "probe", wait=30) as agent:
        yield agent


def ended(goferd: AgentProcess, timeout: float = 20) -> int:
    """Wait for its end, and return its exit status."""
    assert goferd.process is not None
    return goferd.process.wait(timeout)


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run goferd to its end."""
    return forkserver.run(
        [*GOFERD, *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


class TestStarting:
    def test_it_works_where_no_file_can_be_written(self, root: Path, broker: LocalBroker) -> None:
        """So that somebody can call what makes room on a full disk."""
        with AgentProcess(root, wrapper=("bash", "-c", 'ulimit -f 0; exec "$@"', "bash")) as process:
            process.plugin("probe", PROBE, descriptor(broker.url, "full"))
            process.start()
            with Agent(broker.url, "full", wait=30) as agent:
                assert agent.Probe().echo("room") == "room"
            assert process.stop() == 0

    def test_a_second_one_ends_at_once_and_says_who_is_there(self, goferd: AgentProcess, root: Path) -> None:
        goferd.start()

        second = run("-f")

        assert second.returncode == 1
        assert f"goferd is already running: process {goferd.pid} holds {root}/run/gofer/goferd.lock" in second.stderr
        assert second.stdout == ""

    def test_another_root_is_another_agent(self, goferd: AgentProcess, tmp_path: Path) -> None:
        goferd.start()

        with AgentProcess(tmp_path / "other") as other:
            other.start()

            assert other.stop() == 0

    def test_the_root_is_given_by_option_before_the_environment(self, tmp_path: Path) -> None:
        done = run("--check", "--root", str(tmp_path / "option"), GOFER_ROOT=str(tmp_path / "environment"))

        assert f"{tmp_path}/option/etc/gofer/plugins" in done.stdout
        assert "environment" not in done.stdout

    def test_a_directory_that_cannot_be_used_is_named(self, root: Path) -> None:
        (root / "run/gofer").rmdir()
        (root / "run/gofer").write_text("a file")

        done = run()

        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == f"goferd: directory {root}/run/gofer: is not a directory"

    def test_wrong_arguments_are_reported_and_help_reports_the_statuses(self) -> None:
        assert run("--nope").returncode == 2
        shown = run("--help")
        assert shown.returncode == 0
        assert "exit status:" in shown.stdout
        assert run("--version").stdout.startswith("goferd 3.")

    def test_without_any_plugin_it_says_so_and_stays(self, root: Path) -> None:
        with AgentProcess(root) as goferd:
            goferd.start()
            assert f"no plugin runs; descriptors are read from {root}/etc/gofer/plugins" in goferd.tail()
            assert goferd.stop() == 0

    def test_it_answers_as_soon_as_a_broker_is_there(
        self, goferd: AgentProcess, broker: LocalBroker, agent: Agent
    ) -> None:
        broker.stop()
        goferd.configure("[messaging]\nreconnect_max = 0.5\n")
        goferd.start()
        broker.start()

        until_it_answers(agent)


@dataclass
class Held:
    """A goferd whose two threads are busy with calls that end when they may, and four more that wait."""

    goferd: AgentProcess
    agent: Agent
    running: list[Future[str]]
    waiting: list[Future[str]]
    trace: Path
    go: Path

    def check(self) -> None:
        """All have been answered, and what waited ran once."""
        assert [one.result(20) for one in self.running] == ["held"] * 2
        assert [one.result(20) for one in self.waiting] == [f"w{n}" for n in range(4)]
        assert runs(self.trace) == dict.fromkeys([f"w{n}" for n in range(4)], 1)


@pytest.fixture
def held(root: Path, broker: LocalBroker, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Held]:
    go, trace = tmp_path / "go", tmp_path / "trace"
    with (
        AgentProcess(root) as goferd,
        Agent(broker.url, "holder", wait=30) as agent,
        ThreadPoolExecutor(6) as threads,
    ):
        goferd.configure(f"[main]\nshutdown_timeout = {getattr(request, 'param', 30)}\n")
        goferd.plugin("holder", HOLDER, descriptor(broker.url, "holder", threads=2))
        goferd.start()
        try:
            until_it_answers(agent)
            holder = agent.Holder()
            begun = [tmp_path / f"started{n}" for n in range(2)]
            running = [threads.submit(holder.hold, str(one), str(go)) for one in begun]
            eventually(lambda: all(one.exists() for one in begun))
            waiting = [threads.submit(holder.note, str(trace), f"w{n}") for n in range(4)]
            eventually(lambda: agent.Admin().echo("all sent"))
            yield Held(goferd, agent, running, waiting, trace, go)
        finally:
            go.touch()


class TestStopping:
    def test_running_calls_end_and_what_waits_is_left_to_the_broker(self, held: Held) -> None:
        assert held.goferd.process is not None
        held.goferd.process.terminate()
        eventually(lambda: "SIGTERM: stopping" in held.goferd.tail())
        eventually(lambda: not answers(held.agent, 2.0), what="the end of its subscription")
        held.go.touch()

        assert [one.result(20) for one in held.running] == ["held"] * 2
        assert ended(held.goferd) == 0
        assert runs(held.trace) == {}
        held.goferd.start()
        held.check()

    @pytest.mark.parametrize("held", [1], indirect=True)
    def test_a_call_that_does_not_end_in_time_is_left_behind_and_runs_again(self, held: Held) -> None:
        begun = time.monotonic()

        assert held.goferd.stop() == 0

        assert time.monotonic() - begun < 20  # of 30
        assert "2 requests have not ended in time; the broker keeps them" in held.goferd.tail()
        held.go.touch()
        held.goferd.start()
        held.check()

    def test_sigint_stops_softly_and_again_at_once(self, held: Held) -> None:
        process = held.goferd.process
        assert process is not None
        process.send_signal(signal.SIGINT)
        eventually(lambda: "SIGINT: stopping; running calls have 30 s" in held.goferd.tail())
        assert process.poll() is None
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)

        assert ended(held.goferd) == 130
        assert time.monotonic() - begun < 20  # of 30
        held.go.touch()
        held.goferd.start()
        held.check()

    def test_a_plugin_that_hangs_at_import_cannot_keep_it(self, root: Path, tmp_path: Path) -> None:
        install(tmp_path, "stuck", "import time\nprint('importing', flush=True)\ntime.sleep(300)\n")
        describe(root, "stuck")
        (root / "etc/gofer/agent.conf").write_text("[main]\nshutdown_timeout = 0.3\n")
        child = subprocess.Popen(
            GOFERD, env={**os.environ, "PYTHONPATH": str(tmp_path)}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        with child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"importing\n"
            child.terminate()

            assert child.wait(20) == 0

    @pytest.mark.slow
    def test_threads_that_a_plugin_leaves_behind_cannot_keep_it(self, root: Path, tmp_path: Path) -> None:
        install(
            tmp_path,
            "thready",
            "import threading, time\nthreading.Thread(target=time.sleep, args=(300,), daemon=False).start()\n",
        )
        describe(root, "thready")
        with AgentProcess(root, path=(tmp_path,)) as goferd:
            goferd.start()

            assert goferd.stop() == 0
            assert "some threads of plugins do not end; exiting without them" in goferd.tail()

    def test_a_method_that_ends_the_process_ends_its_call_alone(
        self, goferd: AgentProcess, broker: LocalBroker
    ) -> None:
        code = "import sys\nfrom gofer.decorators import remote\n@remote\ndef leave():\n    sys.exit(3)\n"
        goferd.plugin("leaver", code, descriptor(broker.url, "leaver"))
        goferd.start()

        with Agent(broker.url, "leaver", wait=20) as agent:
            until_it_answers(agent)
            for _ in range(3):
                with pytest.raises(RuntimeError, match="the method raised SystemExit: 3"):
                    agent.leaver.leave()
            assert agent.Admin().hello()


class TestSighup:
    def test_it_follows_the_descriptors(
        self, goferd: AgentProcess, broker: LocalBroker, agent: Agent, root: Path
    ) -> None:
        goferd.start()
        assert until_it_answers(agent).Probe().who() == "nobody"

        goferd.plugin("more", PROBE.replace("nobody", "somebody"), descriptor(broker.url, "more"))
        os.kill(goferd.pid, signal.SIGHUP)
        with Agent(broker.url, "more", wait=20) as more:
            eventually(lambda: "plugin more: loaded" in goferd.tail())
            assert until_it_answers(more).Probe().who() == "somebody"

            # Of another length: Python takes code of the same second and length for what it has compiled already.
            goferd.plugin("more", PROBE.replace("nobody", "changed"), descriptor(broker.url, "more", threads=3))
            (root / "etc/gofer/plugins/probe.conf").unlink()
            os.kill(goferd.pid, signal.SIGHUP)
            eventually(lambda: "plugin probe: unloaded" in goferd.tail())
            eventually(lambda: "plugin more: reloaded" in goferd.tail())
            assert more.Probe().who() == "changed"

        with pytest.raises(NotFound):  # its queue went with it
            agent.Probe().who()

    def test_a_running_call_ends_before_its_plugin_is_reloaded(self, held: Held, broker: LocalBroker) -> None:
        held.goferd.descriptor("holder", descriptor(broker.url, "holder", threads=4))
        os.kill(held.goferd.pid, signal.SIGHUP)
        eventually(lambda: "its new code waits until 2 calls" in held.goferd.tail())
        assert not any(one.done() for one in held.running + held.waiting)
        held.go.touch()

        held.check()
        eventually(lambda: "plugin holder: reloaded" in held.goferd.tail())


class TestLogging:
    def test_to_a_file_as_json(self, goferd: AgentProcess, root: Path, agent: Agent) -> None:
        goferd.configure("[logging]\nlog-file = agent\nlog-format = json\nroot = warning\ngofer.rmi = info\n")
        goferd.start()
        until_it_answers(agent)(data="mine").Probe().echo("x")
        goferd.stop()

        lines = [json.loads(line) for line in (root / "var/log/gofer/agent").read_text().splitlines()]
        assert {line["logger"] for line in lines} == {"gofer.rmi.requests"}
        assert " Probe.echo value " in lines[-1]["message"]
        assert goferd.log.read_text() == ""

    def test_one_line_a_request(self, goferd: AgentProcess, agent: Agent) -> None:
        goferd.start()
        sn = until_it_answers(agent)(wait=0).Probe().echo("x")
        agent.flush(10)
        eventually(lambda: sn in goferd.tail())

        (line,) = [line for line in goferd.tail().splitlines() if sn in line]
        assert " INFO gofer.rmi.requests: " in line
        assert "Probe.echo value" in line


class TestSize:
    def test_it_imports_nothing_that_it_does_not_need(self, root: Path) -> None:
        code = (
            "import sys\nfrom gofer.agent.main import main\nmain(['--check'])\n"
            "print(sorted({name.partition('.')[0] for name in sys.modules} & set(sys.argv[1:])))\n"
        )
        unwanted = ["click", "rich", "cryptography", "apscheduler", "sqlite3", "amqp", "pytest", "stevedore"]
        done = subprocess.run([sys.executable, "-c", code, *unwanted], stdout=subprocess.PIPE, text=True, check=True)

        assert done.stdout.splitlines()[-1] == "[]"

    def test_it_is_small_when_idle(self, goferd: AgentProcess, agent: Agent) -> None:
        goferd._popen = subprocess.Popen  # not forked: what it has in memory is its own
        goferd.start()
        until_it_answers(agent).Probe().echo("x")

        assert psutil.Process(goferd.pid).memory_info().rss <= 34 * 1000 * 1000
