"""Hooks that raise, that are slow and that never return, through a goferd: nobody else is silenced or delayed."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest
from gofer.errors import Rejected
from gofer.proxy import Agent
from support.danger import DANGER
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import descriptor, runs
from support.waiting import eventually

WRITE = """
import os
from pathlib import Path
from time import sleep

from gofer.agent.plugin import Plugin
from gofer.decorators import load, unload
from gofer.hooks import hookimpl

root = Plugin.find(__name__).container.root.path


def write(name, line):
    with open(root / name, "a") as file:
        file.write(line + chr(10))


def until(name):
    while not (root / name).exists():
        sleep(0.005)
"""

AUDIT = """
@hookimpl
def gofer_finished(plugin, request, outcome):
    write("audit", f"{plugin.name}:{request.method}:{outcome}")


@hookimpl
def gofer_load(plugin):
    write("audit", f"load:{plugin.name}")


@hookimpl
def gofer_unload(plugin):
    write("audit", f"unload:{plugin.name}")


@hookimpl
def gofer_accept(request):
    write("audit", f"asked:{request.method}")
"""

RAISES = """
@hookimpl
def gofer_finished(plugin):
    raise SystemExit("finished")


@hookimpl
def gofer_unload(plugin):
    raise RuntimeError("unload")


@hookimpl
def gofer_accept(request):
    if request.data == "no":
        raise PermissionError("not you")


@hookimpl
def gofer_find(name):
    raise RuntimeError("find")
"""

UNLOADS = (
    DANGER
    + WRITE
    + """
@unload
def last():
    write("audit", "last")

@unload
def middle():
    raise SystemExit("middle")

@unload
def first():
    raise RuntimeError("first")
"""
)


class Serving:
    """A goferd with a few plugins, and its callers."""

    def __init__(self, process: AgentProcess, url: str) -> None:
        self.process = process
        self.url = url

    def plugin(self, name: str, *code: str, queue: bool = False) -> None:
        text = descriptor(self.url, name) if queue else "[main]\nenabled = 1\n"
        self.process.plugin(name, "".join(textwrap.dedent(one) for one in code), text)

    def agent(self, name: str) -> Agent:
        return Agent(self.url, name, wait=60)

    def lines(self, name: str) -> list[str]:
        return list(runs(self.process.root / name).elements())

    def touch(self, name: str) -> None:
        (self.process.root / name).touch()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    with LocalBroker(str(tmp_path_factory.mktemp("broker") / "broker.sock")) as broker:
        yield broker


@pytest.fixture
def serving(broker: LocalBroker, root: Path) -> Iterator[Serving]:
    with AgentProcess(root) as process:
        yield Serving(process, broker.url)


@contextmanager
def started(serving: Serving, *names: str) -> Iterator[list[Agent]]:
    serving.process.start()
    agents = [serving.agent(name) for name in names]
    try:
        for agent in agents:
            until_it_answers(agent, serving.process.tail())
        yield agents
    finally:
        for agent in agents:
            agent.close()


@pytest.mark.parametrize("name", ["l-raises", "n-raises"])  # loaded before the other, and after it
def test_one_that_raises_silences_no_other(serving: Serving, name: str) -> None:
    serving.plugin("m-audit", WRITE, AUDIT)
    serving.plugin(name, WRITE, RAISES)
    serving.plugin("a-dog", UNLOADS, queue=True)
    with started(serving, "a-dog") as (dog,):
        assert dog.Probe().echo("x") == "x"
        eventually(lambda: "a-dog:echo:value" in serving.lines("audit"), what=serving.process.tail())
        with pytest.raises(Rejected, match="PermissionError: not you"):
            dog(data="no").Probe().twice("x")
        eventually(lambda: {"asked:twice", "a-dog:twice:rejected"} <= set(serving.lines("audit")))
        serving.process.stop()
    audit = serving.lines("audit")
    assert {"last", "unload:a-dog"} <= set(audit)
    log = serving.process.log.read_text()
    for told in (
        "gofer_finished failed",
        "gofer_unload failed",
        "its @unload first failed",
        "its @unload middle failed",
    ):
        assert told in log


@pytest.mark.slow  # the agent waits for it at its end
def test_one_that_never_hears_the_end_of_a_request_delays_nothing(serving: Serving) -> None:
    """Nobody waits for it: not callers, nor the ledger, nor other hooks, nor the end of the agent."""
    hangs = "@hookimpl\ndef gofer_finished(plugin, request):\n    write('hangs', request.method)\n    until('never')\n"
    serving.plugin("m-audit", WRITE, AUDIT)
    serving.plugin("hangs", WRITE, hangs)
    serving.plugin("dog", DANGER, queue=True)
    with started(serving, "dog") as (dog,):
        trace = serving.process.root / "trace"
        for n in range(30):
            assert dog.Probe().echo(n) == n
            assert dog.Danger().single(str(trace)) == "once"  # this one ends by way of the ledger
            assert dog(ttl=30).Probe().note(str(trace), "ttl") == "ttl"
            with pytest.raises(Rejected, match="longer than 255"):
                dog.Probe()["x" * 300]()  # ends where it is read
        assert runs(trace) == {"single": 30, "ttl": 30}
        eventually(lambda: serving.lines("audit").count("dog:single:value") == 30)
        assert len(serving.lines("hangs")) == 1
        start = monotonic()
        serving.process.stop()
        assert monotonic() - start < 30  # which is the time that running calls have
        untold = re.findall(r"the agent ends, and has not told it of (\d+) finished requests", serving.process.tail())
        assert len(untold) == 1
        assert int(untold[0]) >= 90 - 1  # all but the first; what is refused where it is read has not begun


def test_one_that_is_too_slow_to_accept_refuses_that_request_and_nobody_waits(serving: Serving) -> None:
    serving.plugin(
        "guard",
        WRITE,
        """
        @hookimpl
        def gofer_accept(plugin, request):
            if request.data == "hang":
                write("hangs", request.method)
                until("go")
        """,
    )
    serving.plugin("dog", DANGER, queue=True)
    serving.plugin("cat", DANGER, queue=True)
    with started(serving, "dog", "cat") as (dog, cat), ThreadPoolExecutor(4) as threads:
        slow = [threads.submit(dog(data="hang").Probe().echo, n) for n in range(2)]
        eventually(lambda: serving.lines("hangs"))
        answered = 0
        while not slow[0].done():  # the agent reads on: other plugins, and Admin of this one
            assert cat.Probe().echo("cat") == "cat"
            assert dog.Admin().hello()
            answered += 1
        assert answered > 0
        for one in slow:
            with pytest.raises(Rejected, match=r"guard\.gofer_accept took longer than 1 s") as refused:
                one.result(60)
            assert refused.value.code == "hook.refused"
        assert dog.Probe().echo("behind them") == "behind them"
        assert "hook guard.gofer_accept has taken more than 1 s" in serving.process.log.read_text()

        # It never returns: the door stays closed, and the agent does not collect threads.
        for _ in range(20):
            with pytest.raises(Rejected, match=r"gofer_accept took longer|calls of gofer_accept hang"):
                dog(data="hang").Probe().echo("x")
        with pytest.raises(Rejected, match="4 calls of gofer_accept hang"):
            dog.Probe().echo("x")
        assert len(serving.lines("hangs")) == 4
        assert cat.Probe().state()["threads"] < 40
        assert cat.Probe().echo("cat") == "cat"
        assert dog.Admin().hello()

        serving.touch("go")  # they return, and it is open again
        eventually(lambda: opens(dog))
        assert dog.Probe().echo("again") == "again"


def opens(agent: Agent) -> bool:
    try:
        return bool(agent.Probe().echo("open"))
    except Rejected:
        return False


def test_one_around_admin_that_never_returns_stops_nobody(serving: Serving) -> None:
    serving.plugin(
        "guard",
        WRITE,
        """
        @hookimpl(wrapper=True)
        def gofer_call(plugin, request):
            if request.classname == "Admin" and request.data == "hang":
                write("hangs", "hangs")
                until("go")
            return (yield)
        """,
    )
    serving.plugin("dog", DANGER, queue=True)
    serving.plugin("cat", DANGER, queue=True)
    with started(serving, "dog", "cat") as (dog, cat), ThreadPoolExecutor(1) as threads:
        slow = threads.submit(dog(data="hang").Admin().echo, "late")
        eventually(lambda: serving.lines("hangs"))
        for _ in range(20):
            assert cat.Probe().echo("cat") == "cat"
            assert dog.Probe().echo("dog") == "dog"
        assert dog.Admin().hello()  # after a second
        assert not slow.done()
        serving.touch("go")
        assert slow.result(60) == "late"


def test_requests_are_run_in_their_order_also_where_a_hook_is_asked(serving: Serving) -> None:
    serving.plugin("guard", WRITE, "@hookimpl\ndef gofer_accept(request):\n    sleep(0.001 * (hash(request.sn) % 3))\n")
    serving.plugin("dog", DANGER, queue=True)
    with started(serving, "dog") as (dog,):
        trace = serving.process.root / "trace"
        for n in range(100):
            dog(wait=0).Probe().note(str(trace), str(n))
        assert dog.Probe().echo("last") == "last"
        assert trace.read_text().split() == [str(n) for n in range(100)]


def test_one_that_refuses_with_an_exception_without_words_refuses_that_request(serving: Serving) -> None:
    """Its ``str()`` is the plugin's code, too: it may raise, or return what is no text."""
    refuses = """
    class Mute(Exception):
        def __str__(self):
            if self.args[0] == "raises":
                raise RuntimeError("no words")
            if self.args[0] == "exits":
                raise SystemExit(3)
            return None if self.args[0] == "nothing" else chr(0xd800)

        __repr__ = __str__

    @hookimpl
    def gofer_accept(request):
        write("asked", request.method)
        if request.data is not None:
            raise Mute(request.data)
    """
    serving.plugin("guard", WRITE, refuses)
    serving.plugin("dog", DANGER, queue=True)
    with started(serving, "dog") as (dog,):
        for data in ("raises", "exits", "nothing", "surrogate"):
            for _ in range(3):
                with pytest.raises(Rejected, match="Mute: ") as refused:
                    dog(data=data).Probe().echo("x")
                assert refused.value.code == "hook.refused"
            assert dog.Probe().echo("the next") == "the next"
        assert serving.lines("asked").count("echo") == 16
        eventually(lambda: serving.process.log.read_text().count("Mute") >= 12)
