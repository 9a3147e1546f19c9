"""Forked methods, in a real agent: what crosses, what a child may do to itself, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import psutil
import pytest
from gofer.errors import Cancelled, DispatchError, ExecutionTimeout, ProcessDied, ResultTooLarge
from gofer.proxy import Agent
from support.forked import FORKED
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import descriptor, runs
from support.waiting import eventually

pytestmark = pytest.mark.xdist_group("local-forks")  # one process makes what the module shares


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    with LocalBroker(str(tmp_path_factory.mktemp("broker") / "broker.sock")) as broker:
        yield broker


def forking(broker: LocalBroker, root: Path, queue: str, *, more: str = "", code: str = FORKED) -> AgentProcess:
    process = AgentProcess(root)
    text = descriptor(broker.url, queue, threads=8, more="\n        [toys]\n        favourite = ball\n" + more)
    process.plugin("forked", code, text)
    return process


@pytest.fixture(scope="module")
def process(broker: LocalBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with forking(broker, tmp_path_factory.mktemp("agent"), "forked") as process:
        process.start()
        with Agent(broker.url, "forked", wait=30) as agent:
            until_it_answers(agent, process.tail())
        yield process


@pytest.fixture
def agent(broker: LocalBroker, process: AgentProcess) -> Iterator[Agent]:
    with Agent(broker.url, "forked", wait=30) as agent:
        yield agent


def children(process: AgentProcess) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def only_helpers(process: AgentProcess) -> bool:
    """Whether nothing is below the agent but its helper and the child that waits: no call's process, and no zombie."""
    return len(children(process)) == 2


def hanging(path: Path) -> tuple[int, int]:
    """Wait for a call that hangs, and return the numbers of its process and of what that has started."""
    eventually(path.exists)
    child, other = map(int, path.read_text().split())
    return child, other


def gone(*pids: int) -> bool:
    return not any(psutil.pid_exists(pid) for pid in pids)


# -- what crosses -----------------------------------------------------------------------------------------------------


def test_a_call_runs_in_a_process_of_its_own(agent: Agent, process: AgentProcess) -> None:
    one, other = agent.Forked().process(), agent.Forked().process()

    assert one["pid"] != other["pid"]
    assert one["parent"] == other["parent"] == agent.Forked().helper()
    assert one["group"] == one["pid"]
    assert agent.forked.in_agent() == process.pid


def test_constructors_keywords_functions_and_coroutines_are_called_as_they_are_directly(agent: Agent) -> None:
    assert agent.Forked("Fido", age=3).who(greeting="Call me") == "Call me Fido, 3"
    assert agent.Forked().who() == "I am nobody, 0"
    assert agent.forked.function(1, b=7) == [1, 7]
    assert agent.Forked().slowly("done") == "done"


@pytest.mark.parametrize(
    "value", [None, True, -7, 10**30, 1.5, "größer 🐕", [1, [2, {"three": None}]], {"a": {"b": []}}]
)
def test_a_value_comes_back_as_it_went(agent: Agent, value: Any) -> None:
    assert agent.Forked().echo(value) == value


def test_what_a_call_changes_is_lost_with_its_process(agent: Agent) -> None:
    assert agent.Forked().state()["counted"] == 1
    assert agent.Forked().state()["counted"] == 1


def test_only_load_functions_that_say_so_run_where_calls_are_forked(agent: Agent) -> None:
    state = agent.Forked().state()

    assert state["loaded in fork"] is True
    assert state["loaded"] is False


def test_a_call_knows_its_context_and_its_plugin(agent: Agent) -> None:
    context = agent(data={"job": 7}).Forked().context()

    assert context["data"] == {"job": 7}
    assert isinstance(context["sn"], str)
    assert context["cancelled"] is False
    assert context["forked"] is True
    assert agent.Forked().setting() == "ball"


def test_progress_crosses_and_the_last_report_always(agent: Agent) -> None:
    heard: list[tuple[Any, Any, Any]] = []

    def progress(report: Any) -> None:
        heard.append((report["total"], report["completed"], report["details"]))

    assert agent(progress=progress).Forked().work(3) == 3
    assert heard[-1] == (3, 3, "step 3")
    assert len(heard) >= 3


def test_an_exception_crosses_with_its_class_arguments_state_and_the_trace_of_the_child(agent: Agent) -> None:
    with pytest.raises(Exception, match="bad dog") as caught:
        agent.Forked().fail("bad dog", 7)

    told = vars(caught.value)
    assert told["xclass"] == "Trouble"
    assert told["xargs"] == ["bad dog"]
    assert told["xstate"]["code"] == 7
    assert "raise Trouble(text, code)" in told["trace"]
    assert "gofer/rmi" not in told["trace"]


def test_wrong_arguments_and_values_that_are_no_json_are_type_errors(agent: Agent) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'x'"):
        agent.Forked().echo(x=1)
    with pytest.raises(TypeError, match=r"result is a builtins\.set"):
        agent.Forked().odd()


@pytest.mark.parametrize("size", [65_536, 1_000_000, 12_000_000])
def test_results_and_arguments_of_any_size_cross(agent: Agent, size: int) -> None:
    assert agent.Forked().large(size) == "x" * size
    assert agent.Forked().echo("y" * size) == "y" * size


def test_a_result_over_the_limit_of_a_message_is_reported(agent: Agent, process: AgentProcess) -> None:
    with pytest.raises(ResultTooLarge, match="is the limit"):
        agent.Forked().large(50_000_000)
    assert agent.Forked().echo("still here") == "still here"


ANIMALS = """
import os

from gofer.decorators import fork, remote


class Animal:
    @remote
    @fork
    def noise(self, words):
        return [type(self).__name__, words, os.getpid()]


@remote
@fork
def count(n=3):
    return n
"""
ZOO = """
from gofer.agent.plugin import Plugin
from gofer.decorators import remote

plugin, animals = Plugin.find(__name__), Plugin.find("animals")
plugin += animals


class Dog(animals["Animal"]):
    @remote
    def here(self):
        return [plugin.forks.pid, animals.forks.pid]
"""
GIVEN = """
from gofer.decorators import fork, remote


class Tree:
    @remote
    @fork
    def leaves(self):
        return 7
"""


def test_what_plugins_take_from_each_other_is_forked_by_the_one_that_has_it(
    broker: LocalBroker, tmp_path: Path
) -> None:
    with AgentProcess(tmp_path) as process, Agent(broker.url, "zoo", wait=30) as agent:
        process.plugin("animals", ANIMALS, "[main]\nenabled = 1\n")
        process.plugin("zoo", ZOO, descriptor(broker.url, "zoo"))
        process.plugin("trees", GIVEN, "[main]\nenabled = 1\nextends = zoo\n")
        process.start()
        until_it_answers(agent, process.tail())
        assert agent.Dog().noise("woof")[:2] == ["Dog", "woof"]
        own, other = agent.Dog().here()
        assert own is not None
        assert other is None
        assert agent.Animal().noise("hm")[:2] == ["Animal", "hm"]
        assert agent.animals.count() == agent.zoo.count(n=3) == 3
        assert agent.Dog().here()[0] == own
        assert None not in agent.Dog().here()
        assert agent.Tree().leaves() == 7


def test_hooks_around_a_forked_call_see_its_value_and_its_exception(broker: LocalBroker, tmp_path: Path) -> None:
    hook = """

from gofer.hooks import hookimpl


@hookimpl(wrapper=True)
def gofer_call(plugin, request, invoke):
    try:
        value = yield
    except Trouble as trouble:
        return ["caught", trouble.args[0], trouble.code]
    return ["seen", value]
"""
    with forking(broker, tmp_path, "hooked", code=FORKED + hook) as process, Agent(broker.url, "hooked") as agent:
        process.start()
        until_it_answers(agent, process.tail())
        assert agent.Forked().echo(7) == ["seen", 7]
        assert agent.Forked().fail("bad dog", 3) == ["caught", "bad dog", 3]


# -- how a child may end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "arguments", "text"),
    [
        ("die", (signal.SIGKILL,), r"Forked.die\(\): .* killed by signal 9 \(SIGKILL\)"),
        ("die", (signal.SIGTERM,), r"killed by signal 15 \(SIGTERM\)"),
        ("crash", (), r"killed by signal 11 \(SIGSEGV\)"),
        ("leave_now", (0,), "exit status 0"),
        ("leave_now", (77,), "exit status 77"),
    ],
)
def test_a_child_that_ends_without_a_result_is_reported_by_how_it_ended(
    agent: Agent, process: AgentProcess, method: str, arguments: tuple[Any, ...], text: str
) -> None:
    with pytest.raises(ProcessDied, match=text):
        getattr(agent.Forked(), method)(*arguments)
    assert agent.Forked().echo(1) == 1
    eventually(lambda: only_helpers(process))


@pytest.mark.parametrize(
    ("status", "text"), [(3, "SystemExit: 3"), (None, "SystemExit"), ("no more", "SystemExit: no more")]
)
def test_a_forked_method_that_exits_is_told_as_one_in_the_agent_is(agent: Agent, status: Any, text: str) -> None:
    with pytest.raises(RuntimeError) as caught:
        agent.Forked().leave(status)
    assert (type(caught.value), str(caught.value)) == (RuntimeError, f"the method raised {text}")
    assert "sys.exit(status)" in getattr(caught.value, "trace", "")


def test_a_helper_that_was_stopped_goes_on_at_the_next_call(
    agent: Agent, process: AgentProcess, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(agent.Forked().meet, str(tmp_path / "here"), 2)
        eventually((tmp_path / "here").exists)
        (helper,) = psutil.Process(process.pid).children()
        helper.suspend()
        eventually(lambda: helper.status() == psutil.STATUS_STOPPED)
        assert agent(wait=20).Forked().echo(1) == 1
        with (tmp_path / "here").open("a") as file:
            file.write("here\n")
        assert running.result(40) == "met"  # nothing was killed
    assert psutil.Process(process.pid).children() == [helper]
    assert "the process that forks its calls was stopped; it goes on now" in process.log.read_text()


def test_a_cancelled_call_is_killed_with_all_that_it_has_started(
    agent: Agent, process: AgentProcess, tmp_path: Path
) -> None:
    path = tmp_path / "pids"
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(agent(data="night").Forked().hang, str(path), True)
        child, other = hanging(path)
        assert len(agent.Admin().cancel(criteria={"eq": "night"})) == 1
        with pytest.raises(Cancelled):
            running.result(30)
    eventually(lambda: gone(child, other))
    assert not path.with_name("pids.cleaned").exists()
    eventually(lambda: only_helpers(process))


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_call_that_takes_too_long_is_ended_by_sigterm_and_then_by_sigkill(
    agent: Agent, process: AgentProcess, tmp_path: Path, stubborn: bool
) -> None:
    path = tmp_path / "pids"
    begin = monotonic()
    with pytest.raises(ExecutionTimeout, match=r"took longer than 1 s; its process is being ended"):
        agent.Forked().too_long(str(path), stubborn)

    child, other = hanging(path)
    eventually(lambda: gone(child, other))
    assert path.with_name("pids.cleaned").exists() is not stubborn
    assert monotonic() - begin > (2.9 if stubborn else 0.9)
    eventually(lambda: only_helpers(process))


# -- the helper -------------------------------------------------------------------------------------------------------


def test_eight_run_at_once(agent: Agent, process: AgentProcess, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(lambda n: agent.Forked().meet(str(tmp_path / "here"), n), [8] * 8))
    assert done == ["met"] * 8
    eventually(lambda: only_helpers(process))


def test_a_dead_helper_is_reported_to_its_calls_and_replaced(
    agent: Agent, process: AgentProcess, tmp_path: Path
) -> None:
    path = tmp_path / "pids"
    helper = agent.Forked().process()["parent"]
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(agent.Forked().hang, str(path))
        child, other = hanging(path)
        os.kill(helper, signal.SIGKILL)
        with pytest.raises(ProcessDied, match="the helper process of plugin 'forked' has died"):
            running.result(30)
    eventually(lambda: gone(child, other))
    assert agent.Forked().process()["parent"] != helper
    eventually(lambda: only_helpers(process))


def test_a_child_that_is_killed_while_it_waits_costs_no_call(agent: Agent, process: AgentProcess) -> None:
    helper = psutil.Process(agent.Forked().process()["parent"])
    for n in range(10):
        (waiting,) = eventually(lambda: len(found := helper.children()) == 1 and found)
        waiting.kill()
        assert agent.Forked().echo(n) == n
    assert agent.Forked().process()["parent"] == helper.pid
    eventually(lambda: only_helpers(process))


def test_a_child_has_no_descriptor_of_the_agent_nor_of_another_call(
    agent: Agent, process: AgentProcess, tmp_path: Path
) -> None:
    path = tmp_path / "pids"
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(agent(data="beside").Forked().hang, str(path))
        hanging(path)
        found = agent.Forked().descriptors()
        assert agent.Admin().cancel(criteria={"eq": "beside"})
        with pytest.raises(Cancelled):
            running.result(30)
    # /dev/null, the pipe to the log twice, and its own connection.
    assert [name.partition(":")[0] for name in found] == ["/dev/null", "pipe", "pipe", "socket"]


LOGGING = """
    import logging
    import sys

    from gofer.decorators import fork, remote

    log = logging.getLogger("kennel.dogs")

    class Dog:
        @remote
        @fork
        def bark(self):
            log.debug("whispered")
            log.info("said %s", "woof")
            log.warning("grüße \U0001f415 " + "x" * 5000 + " end")
            print("printed", flush=True)
            log.error("first\\nsecond")
            logging.getLogger("kennel.cats").info("nobody hears that")
            logging.getLogger().critical("from the root")
            try:
                1 / 0
            except ZeroDivisionError:
                log.exception("failed")
"""


def test_what_a_child_logs_keeps_its_level_its_logger_and_its_text(broker: LocalBroker, tmp_path: Path) -> None:
    with forking(broker, tmp_path, "barks", code=LOGGING) as process:
        process.configure("[logging]\nlog-format=json\nkennel.dogs=DEBUG\nkennel.cats=WARNING\n")
        process.start()
        with Agent(broker.url, "barks", wait=30) as agent:
            until_it_answers(agent, process.tail()).Dog().bark()

        def logged() -> list[tuple[str, str, str]]:
            lines = [json.loads(line) for line in process.log.read_text().splitlines()]
            return [(one["level"], one["logger"], one["message"]) for one in lines]

        # What the child prints and what it logs go by two ways: either may come last.
        printed = ("INFO", "gofer.rmi.model.fork", "plugin forked: printed")
        eventually(lambda: any("ZeroDivisionError: " in message for _, _, message in logged()), what=process.tail())
        eventually(lambda: printed in logged(), what=process.tail())
        dogs = [(level, message) for level, logger, message in logged() if logger == "kennel.dogs"]
        assert dogs[:2] == [("DEBUG", "whispered"), ("INFO", "said woof")]
        long = [message for level, message in dogs if level == "WARNING"]
        assert "".join(long) == "grüße \U0001f415 " + "x" * 5000 + " end"
        errors = [message for level, message in dogs if level == "ERROR"]
        assert errors[0] == "first\nsecond"
        assert errors[1].startswith("failed\nTraceback")
        assert ("CRITICAL", "root", "from the root") in logged()
        assert "nobody hears that" not in process.log.read_text()


def test_what_a_child_prints_is_in_the_log_of_the_agent(agent: Agent, process: AgentProcess) -> None:
    agent.Forked().say("woof from the child")

    eventually(lambda: "plugin forked: woof from the child\n" in process.log.read_text())
    eventually(lambda: "plugin forked: woof from the child (error)" in process.log.read_text())


# -- beginning and end of an agent ------------------------------------------------------------------------------------


def test_a_module_that_starts_threads_when_imported_cannot_fork_and_says_so(
    broker: LocalBroker, tmp_path: Path
) -> None:
    code = (
        FORKED
        + "\n\nimport threading\nthreading.Thread(target=time.sleep, args=(300,), name='busy', daemon=True).start()\n"
    )
    with forking(broker, tmp_path, "threaded", code=code) as process, Agent(broker.url, "threaded", wait=30) as agent:
        process.start()
        until_it_answers(agent, process.tail())
        with pytest.raises(DispatchError, match=r"plugin 'forked' cannot fork: importing it starts threads \(busy\)"):
            agent.Forked().echo()
        assert agent.forked.in_agent() == process.pid
        eventually(lambda: not children(process))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ("", r"ends the process with status 1: .*No module named 'gofer\.agent'"),
        (
            "raise ImportError('half of an upgrade')",
            r"ends the process with status 1: 'ImportError: half of an upgrade'",
        ),
        ("import os\nos._exit(3)", "ends the process with status 3"),
    ],
)
def test_why_a_helper_cannot_start_is_reported_to_the_caller(
    broker: LocalBroker, tmp_path: Path, changed: str, says: str
) -> None:
    """As when gofer was installed anew, or removed, while its agent runs."""
    site = tmp_path / "site"
    site.mkdir()
    root = tmp_path / "root"
    root.mkdir()
    with AgentProcess(root, path=(site,)) as process, Agent(broker.url, "changed", wait=30) as agent:
        process.plugin("forked", FORKED, descriptor(broker.url, "changed"))
        process.start()
        until_it_answers(agent, process.tail())
        (site / "gofer").mkdir()
        (site / "gofer/__init__.py").write_text(changed)
        for _ in range(2):
            with pytest.raises(DispatchError, match=rf"importing it {says}.* restart goferd") as told:
                agent.Forked().echo()
            assert "plugin 'forked' cannot fork" in str(told.value)
        assert agent.forked.in_agent() == process.pid
        (site / "gofer/__init__.py").unlink()
        (site / "gofer").rename(site / "gone")
        assert agent.Forked().echo("mended") == "mended"


def test_a_reload_starts_another_helper(broker: LocalBroker, tmp_path: Path) -> None:
    with forking(broker, tmp_path, "reloaded") as process, Agent(broker.url, "reloaded", wait=30) as agent:
        process.start()
        until_it_answers(agent, process.tail())
        first = agent.Forked().process()["parent"]
        text = descriptor(broker.url, "reloaded", threads=8, more="\n        [toys]\n        favourite = stick\n")
        process.descriptor("forked", text)
        os.kill(process.pid, signal.SIGHUP)
        eventually(lambda: gone(first))
        assert agent.Forked().setting() == "stick"
        assert agent.Forked().process()["parent"] != first


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_nothing_outlives_the_agent(broker: LocalBroker, tmp_path: Path, how: str) -> None:
    path = tmp_path / "pids"
    process = forking(broker, tmp_path / "root", f"ending-{how}")
    process.configure("[main]\nshutdown_timeout = 0.5\n")
    with process, Agent(broker.url, f"ending-{how}", wait=30) as agent:
        process.start()
        until_it_answers(agent, process.tail())
        agent(wait=0).Forked().hang(str(path))
        child, other = hanging(path)
        helper = psutil.Process(child).ppid()
        getattr(process, how)()
        eventually(lambda: gone(child, other, helper))


@pytest.mark.slow
def test_a_running_call_has_the_shutdown_timeout_to_end(broker: LocalBroker, tmp_path: Path) -> None:
    with forking(broker, tmp_path / "root", "soft") as process, Agent(broker.url, "soft", wait=30) as agent:
        process.start()
        until_it_answers(agent, process.tail())
        with ThreadPoolExecutor(1) as threads:
            running = threads.submit(agent.Forked().note, str(tmp_path / "trace"), "soft", 1.0)
            eventually(lambda: runs(tmp_path / "trace"))
            process.stop()
            assert running.result(30) == "soft"
