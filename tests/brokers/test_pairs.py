"""The same flows over pairs of adapters: who calls and who answers need not speak the same protocol.

``make pairs`` runs all pairs; without ``GOFER_PAIRS=all`` they are three.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gofer import aio
from gofer.errors import AdapterError, Cancelled, Interrupted, NotFound, RemoteException
from gofer.messaging.adapter import DeleteQueue
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer.rmi.reply import ReplyConsumer
from support.brokers import Broker
from support.brokers.chosen import FIXTURES
from support.goferd import AgentProcess
from support.pairs import Pair, chosen_pairs
from support.presence import until_it_answers
from support.probe import PROBE, descriptor, runs
from support.replies import Ear
from support.waiting import eventually

#: Agents whose broker does not tell them that it has delivered a request before.
_UNTOLD = {("proton", "rabbitmq")}

_MORE = '''

import asyncio
from gofer.decorators import fork


class More:
    @remote
    @fork
    def forked(self, text):
        return [text, os.getpid()]

    @remote
    @fork
    def forked_failure(self):
        raise LookupError("in the child")

    @remote
    def pid(self):
        return os.getpid()

    @remote
    def stay(self, path):
        """Stay until cancelled; leave a file at the start."""
        open(path, "w").close()
        end = time.monotonic() + 60
        while not Context.current().cancelled() and time.monotonic() < end:
            time.sleep(0.005)
'''


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    metafunc.parametrize("pair", chosen_pairs(), ids=str, indirect=True, scope="module")


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest) -> Pair:
    """Who calls, who answers, and where."""
    chosen: Pair = request.param
    return chosen


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest, pair: Pair) -> Broker:
    found: Broker = request.getfixturevalue(FIXTURES[pair.broker])
    return found


@pytest.fixture(scope="module")
def connector(pair: Pair, broker: Broker) -> Connector:
    """How the caller connects."""
    return Connector(URL.parse(pair.urls(broker)[0]), reconnect_max=1.0)


@pytest.fixture(scope="module")
def queue(pair: Pair) -> str:
    return f"pair-{pair}"


@pytest.fixture(scope="module")
def process(
    pair: Pair, broker: Broker, queue: str, connector: Connector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AgentProcess]:
    """A goferd with the probe, for all tests of the pair."""
    with AgentProcess(tmp_path_factory.mktemp("agent")) as process:
        process.configure("[messaging]\nreconnect_max = 1\n")
        process.plugin("probe", PROBE + _MORE, descriptor(pair.urls(broker)[1], queue, threads=8))
        yield process.start()


@pytest.fixture
def agent(connector: Connector, process: AgentProcess, queue: str) -> Iterator[Agent]:
    with Agent(connector, queue, wait=60) as agent:
        yield until_it_answers(agent, process.tail())


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def test_calls_return_values_and_exceptions(agent: Agent, threads: ThreadPoolExecutor) -> None:
    probe = agent.Probe("rover")
    for value in (None, "grüße ☃", [1, 2.5, {"a": [True, None]}], "x" * 1_000_000):
        assert probe.echo(value) == value
    assert probe.who() == "rover"
    with pytest.raises(RemoteException, match="Trouble"):
        probe.fail("there", 3)
    reports: list[object] = []
    assert agent(progress=lambda report: reports.append(report["completed"])).Probe().work(3) == 3
    assert reports[-1] == 3
    assert list(threads.map(lambda n: agent.Probe().echo(n), range(200))) == list(range(200))


def test_coroutines_call(connector: Connector, queue: str, agent: Agent) -> None:
    async def main() -> None:
        async with aio.Agent(connector, queue, wait=60) as other:
            assert await asyncio.gather(*(other.Probe().echo(n) for n in range(100))) == list(range(100))
            with pytest.raises(RemoteException, match="Trouble"):
                await other.Probe().fail("there", 3)

    asyncio.run(main())
    assert agent.Probe().echo("on") == "on"


def test_requests_that_nobody_waits_for_run_and_are_answered_elsewhere(
    connector: Connector, agent: Agent, queue: str, tmp_path: Path
) -> None:
    trace, ear = tmp_path / "trace", Ear()
    for n in range(10):
        assert agent(wait=0).Probe().note(str(trace), f"n{n}")
    agent.flush(30)
    eventually(lambda: sum(runs(trace).values()) == 10)
    with ReplyConsumer(f"{queue}-replies", connector).start(ear):
        sent = [agent(reply=f"{queue}-replies").Probe().echo(n) for n in range(5)]
        assert sorted(one.sn for one in ear.ends(5)) == sorted(sent)
    assert runs(trace) == {f"n{n}": 1 for n in range(10)}


def test_a_call_that_runs_is_cancelled(agent: Agent, threads: ThreadPoolExecutor, tmp_path: Path) -> None:
    path = tmp_path / "begun"
    call = threads.submit(agent(data={"group": path.name}).More().stay, str(path))
    eventually(path.exists)
    assert len(agent.Admin().cancel(criteria={"match": {"group": path.name}})) == 1
    with pytest.raises(Cancelled):
        call.result(30)


def test_a_forked_method_runs_in_a_process_of_its_own(agent: Agent, threads: ThreadPoolExecutor) -> None:
    parent = agent.More().pid()
    for text, pid in threads.map(lambda n: agent.More().forked("x" * n), (1, 100_000)):
        assert set(text) == {"x"}
        assert pid != parent
    with pytest.raises(LookupError, match="in the child"):
        agent.More().forked_failure()


def test_a_killed_agent_finishes_what_it_had_when_it_is_back(
    pair: Pair, process: AgentProcess, agent: Agent, threads: ThreadPoolExecutor, tmp_path: Path
) -> None:
    """Where the broker does not tell whether it delivered a request before, it may have run already: then it ends."""
    runs_again = (pair.agent, pair.broker) not in _UNTOLD
    trace, go = tmp_path / "trace", tmp_path / "go"
    running = threads.submit(agent.Probe().note, str(trace), "running", until=str(go))
    eventually(lambda: runs(trace)["running"] == 1)
    process.kill()
    sent = threads.submit(agent.Probe().note, str(trace), "sent-meanwhile")
    process.start()
    if runs_again:
        eventually(lambda: runs(trace)["running"] == 2, what=process.tail)
        go.touch()
        assert running.result(60) == "running"
    else:
        with pytest.raises(Interrupted):
            running.result(60)
    assert sent.result(60) == "sent-meanwhile"
    assert runs(trace) == {"running": 1 + runs_again, "sent-meanwhile": 1}


@pytest.mark.parametrize("end", ["restart", "kill"])
def test_calls_go_on_when_the_broker_comes_back(  # noqa: PLR0917 - five of these are fixtures
    broker: Broker, process: AgentProcess, agent: Agent, threads: ThreadPoolExecutor, tmp_path: Path, end: str
) -> None:
    trace = tmp_path / "trace"
    probe = agent(wait=120).Probe()
    running = [threads.submit(probe.note, str(trace), f"r{n}", 2.0) for n in range(8)]
    eventually(lambda: len(runs(trace)) == 8)
    waiting = [threads.submit(probe.note, str(trace), f"w{n}") for n in range(8)]
    if end == "restart":
        broker.restart()
    else:
        broker.kill()
        broker.start()
    assert [one.result(120) for one in running] == [f"r{n}" for n in range(8)]
    assert [one.result(120) for one in waiting] == [f"w{n}" for n in range(8)]
    assert set(runs(trace).values()) == {1}, process.tail()
    assert agent.Probe().echo("on") == "on"


def test_the_pairs_queues_are_deleted(
    pair: Pair, connector: Connector, process: AgentProcess, agent: Agent, queue: str
) -> None:
    """The last one of a pair: it leaves nothing at a broker that the next pairs use, too."""
    process.stop()
    if (pair.caller, pair.broker) == ("proton", "rabbitmq"):
        with pytest.raises(AdapterError, match="RabbitMQ 3 cannot delete"):
            agent._lease.session().connection.ask(DeleteQueue(queue))
        return
    link = agent._lease.session().connection
    for name in (queue, f"{queue}-replies"):
        link.ask(DeleteQueue(name))
    with pytest.raises(NotFound):
        link.ask(DeleteQueue(queue))
