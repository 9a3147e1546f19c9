"""Commands run by methods, directly and forked: output, progress, and an end when the call is told to end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from gofer.errors import Cancelled, ExecutionTimeout
from gofer.proxy import Agent
from gofer.rmi.shell import LIMIT, Shell
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import descriptor
from support.waiting import eventually

pytestmark = pytest.mark.xdist_group("local-shell")  # one process makes what the module shares

PLUGIN = """
from gofer.decorators import fork, remote
from gofer.rmi.shell import Shell


class Direct:
    @remote
    def run(self, *command):
        return Shell().run(*command)


class Forked:
    @remote
    @fork
    def run(self, *command):
        return Shell().run(*command)
"""

#: Ignores SIGTERM, has a child that does, too, and tells both numbers.
STUBBORN = "trap '' TERM; sleep 300 & echo $$ $! > {path}.new; mv {path}.new {path}; while true; do sleep 1; done"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with (
        LocalBroker(str(tmp_path_factory.mktemp("broker") / "broker.sock")) as broker,
        AgentProcess(tmp_path_factory.mktemp("agent")) as process,
    ):
        process.plugin("shell", PLUGIN, descriptor(broker.url, "shell", threads=2))
        process.start()
        with Agent(broker.url, "shell", wait=30) as agent:
            until_it_answers(agent, process.tail())
        yield broker.url


@pytest.fixture
def agent(url: str) -> Iterator[Agent]:
    with Agent(url, "shell", wait=30) as agent:
        yield agent


@pytest.fixture(params=["Direct", "Forked"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def pids(path: Path) -> list[int]:
    eventually(path.exists)
    return [int(word) for word in path.read_text().split()]


def gone(numbers: list[int]) -> bool:
    return not any(psutil.pid_exists(number) for number in numbers)


# -- without an agent -------------------------------------------------------------------------------------------------


def test_a_command_gives_its_status_and_its_output_as_text() -> None:
    assert Shell().run("sh", "-c", "echo out; echo größer >&2; exit 3") == (
        3,
        {"stdout": "out\n", "stderr": "größer\n"},
    )
    assert Shell().run("sh", "-c", "kill -9 $$") == (-9, {"stdout": "", "stderr": ""})
    assert Shell().run("echo", "$HOME; ls") == (0, {"stdout": "$HOME; ls\n", "stderr": ""})


def test_output_that_is_no_utf_8_is_replaced() -> None:
    assert Shell().run("printf", r"a\377b")[1]["stdout"] == "a\N{REPLACEMENT CHARACTER}b"


def test_a_command_that_is_not_there_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        Shell().run("no-such-command-anywhere")
    with pytest.raises(ValueError, match="no command"):
        Shell().run()


def test_both_pipes_are_read_at_once_and_the_end_of_each_is_kept() -> None:
    script = "head -c 5000000 /dev/zero | tr '\\0' e >&2; head -c 3000000 /dev/zero | tr '\\0' o; echo; echo end"
    status, output = Shell().run("sh", "-c", script)

    assert status == 0
    assert output["stderr"] == f"[{5_000_000 - LIMIT} bytes left out]\n" + "e" * LIMIT
    assert output["stdout"].endswith("o\nend\n")
    assert len(output["stdout"]) < LIMIT + 100


def test_what_a_command_leaves_in_the_background_is_not_waited_for() -> None:
    status, output = Shell().run("sh", "-c", "sleep 300 & echo $!")
    assert status == 0
    psutil.Process(int(output["stdout"])).kill()  # it runs on


def test_a_command_that_closes_its_output_is_waited_for() -> None:
    assert Shell().run("sh", "-c", "exec >&- 2>&-; sleep 0.3; exit 5") == (5, {"stdout": "", "stderr": ""})


# -- within calls -----------------------------------------------------------------------------------------------------


def test_a_method_returns_what_a_command_gave(agent: Agent, model: str) -> None:
    status, output = getattr(agent, model)().run("sh", "-c", "echo out; echo err >&2; exit 2")

    assert (status, output) == (2, {"stdout": "out\n", "stderr": "err\n"})


def test_every_line_is_reported_once_as_progress(agent: Agent, model: str) -> None:
    heard: list[dict[str, Any]] = []
    script = "for n in 1 2 3 4 5 6; do echo line $n; sleep 0.08; done; printf rest"
    _, output = getattr(agent(progress=heard.append), model)().run("sh", "-c", script)

    assert output["stdout"] == "".join(f"line {n}\n" for n in range(1, 7)) + "rest"
    assert "".join(report["details"] for report in heard) == output["stdout"]
    assert len(heard) >= 3


def test_a_cancelled_call_ends_its_command_and_all_that_this_has_started(
    agent: Agent, model: str, tmp_path: Path
) -> None:
    path = tmp_path / "pids"
    with ThreadPoolExecutor(1) as threads:
        call = getattr(agent(data=str(path)), model)().run
        running = threads.submit(call, "sh", "-c", STUBBORN.format(path=path))
        numbers = pids(path)
        assert len(agent.Admin().cancel(criteria={"eq": str(path)})) == 1
        if model == "Forked":
            with pytest.raises(Cancelled):
                running.result(30)
        else:  # run() has returned how the command ended
            assert running.result(30)[0] in (-signal.SIGTERM, -signal.SIGKILL)
    eventually(lambda: gone(numbers))


def test_a_call_that_takes_too_long_ends_its_command(agent: Agent, model: str, tmp_path: Path) -> None:
    path = tmp_path / "pids"
    for seconds in (0.5, 2, 8):  # the first that lets the command begin
        with pytest.raises(ExecutionTimeout):
            agent(timeout=seconds)[model]().run("sh", "-c", STUBBORN.format(path=path))
        if path.exists():
            break
    numbers = pids(path)
    eventually(lambda: gone(numbers))
