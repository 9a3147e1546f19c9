"""A request that came too late is not run: it waited where no broker's clock counts, or longer than the agent takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import NotTaken, Rejected, RequestTimeout
from gofer.messaging.adapter import DeclareQueue
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.subscription import Subscription
from gofer.messaging.url import URL
from gofer.proxy import Agent
from support.company import connected, linked, run
from support.echo import EchoAgent
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import PROBE, descriptor, runs
from support.waiting import eventually


@pytest.fixture
def broker(root: Path) -> Iterator[LocalBroker]:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        yield broker


@pytest.fixture
def goferd(root: Path, broker: LocalBroker) -> Iterator[AgentProcess]:
    """A goferd with the probe, which takes nothing that is older than an hour; not started."""
    with AgentProcess(root) as process:
        process.plugin(
            "probe", PROBE, descriptor(broker.url, "probe").replace("[main]", "[main]\n        max_age = 1h")
        )
        yield process


def connector(broker: LocalBroker) -> Connector:
    return Connector(URL.parse(broker.url), heartbeat=30.0)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"wait": 1}, {"wait": 0, "ttl": 1}])
def test_what_sat_in_the_socket_of_a_frozen_broker_is_not_run(
    broker: LocalBroker, goferd: AgentProcess, tmp_path: Path, options: dict[str, float]
) -> None:
    trace = tmp_path / "trace"
    goferd.start()
    with Agent(connector(broker), "probe", wait=30) as agent:
        until_it_answers(agent, goferd.tail())
        broker.freeze()
        sent = time.monotonic()
        if options["wait"]:
            with pytest.raises(RequestTimeout, match="no word from the agent"):
                agent(**options).Probe().note(str(trace), "late")
        else:
            agent(**options).Probe().note(str(trace), "late")
        eventually(lambda: time.monotonic() - sent > 5)
        broker.thaw()
        assert agent.Probe().note(str(trace), "later") == "later"  # it comes after the other
    assert dict(runs(trace)) == {"later": 1}
    assert "is not run: its ttl of 1 s was over" in goferd.tail()


@pytest.mark.slow
def test_a_caller_that_waits_longer_than_its_ttl_is_answered_so(
    broker: LocalBroker, goferd: AgentProcess, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    goferd.start()
    with Agent(connector(broker), "probe", wait=30) as agent, ThreadPoolExecutor(1) as threads:
        until_it_answers(agent, goferd.tail())
        broker.freeze()
        call = threads.submit(agent(ttl=1).Probe().note, str(trace), "late")
        sent = time.monotonic()
        eventually(lambda: time.monotonic() - sent > 5)
        broker.thaw()
        with pytest.raises(Rejected, match="its ttl of 1 s was over") as caught:
            call.result(30)
    assert caught.value.code == "request.expired"
    assert runs(trace) == {}


OFF = """
    import sys, time
    real, off = time.time, float(sys.argv[3])
    time.time = lambda: real() + off
    from gofer.proxy import Agent
    with Agent(sys.argv[1], "probe", wait=20) as agent:
        for n in range(3):
            print(agent.Probe().note(sys.argv[2], f"n{n}"))
"""


@pytest.mark.parametrize("off", [-600, -30, 30, 600])
def test_a_caller_whose_clock_is_off_is_served_once_all_the_same(
    broker: LocalBroker, goferd: AgentProcess, tmp_path: Path, off: float
) -> None:
    trace = tmp_path / "trace"
    goferd.start()
    with Agent(connector(broker), "probe", wait=30) as agent:
        until_it_answers(agent, goferd.tail())
    done = run(OFF, broker.url, str(trace), str(off))
    assert (done.stdout, done.stderr) == ("n0\nn1\nn2\n", "")
    assert dict(runs(trace)) == {"n0": 1, "n1": 1, "n2": 1}


# -- documents as others may write them --------------------------------------------------------------------------------

HOUR = 3600.0


def stamp(age: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - age))


def at(seconds: float) -> Callable[[], float]:
    """So many seconds from when the test runs, which may be long after it was collected."""
    return lambda: time.time() + seconds


def stamped(age: float) -> Callable[[], str]:
    return lambda: stamp(age)


def request(trace: Path, text: str, **more: Any) -> bytes:
    """Write a request as callers of gofer 2.12 do, and more of it."""
    called = {"classname": "Probe", "method": "note", "cntr": [[], {}], "args": [str(trace), text], "kws": {}}
    return json.dumps(
        {"sn": text, "version": "2.0", "routing": [None, "probe"], "replyto": None, "request": called, **more}
    ).encode()


@pytest.mark.parametrize(
    ("will_run", "ttl", "said"),
    [
        (True, None, {}),
        (True, 60.0, {}),
        (False, None, {"expires": at(-100)}),
        (False, 60.0, {"ttl": 60.0, "expires": at(-100)}),
        (True, 60.0, {"ttl": 60.0, "expires": at(1000)}),
        (False, 60.0, {"timestamp": stamped(100)}),  # as far as callers of 2.12 tell
        (True, 600.0, {"timestamp": stamped(100)}),
        (False, None, {"timestamp": stamped(100), "ttl": 60}),
        (True, None, {"timestamp": stamped(100)}),
        (False, None, {"timestamp": stamped(30 * 24 * HOUR)}),
        (True, None, {"timestamp": "a month ago", "ttl": "5m"}),
        (True, 90 * 24 * HOUR, {"timestamp": stamped(30 * 24 * HOUR)}),
    ],
)
def test_the_agent_reads_from_the_document_how_old_a_request_is(  # noqa: PLR0917 - fixtures, and one case
    broker: LocalBroker, goferd: AgentProcess, tmp_path: Path, will_run: bool, ttl: float | None, said: dict[str, Any]
) -> None:
    trace = tmp_path / "trace"
    goferd.start()
    with linked(connected(broker.url)) as link, Agent(connector(broker), "probe", wait=30) as agent:
        until_it_answers(agent, goferd.tail())
        more = {name: value() if callable(value) else value for name, value in said.items()}
        link.publish(Address("", "probe"), request(trace, "this", **more), deadline=time.monotonic() + 10, ttl=ttl)
        link.wait(lambda: not link.core.unconfirmed, time.monotonic() + 10)
        eventually(lambda: runs(trace) if will_run else "is not run" in goferd.tail(), 20, goferd.tail())
        agent.Probe().note(str(trace), "last")
    assert dict(runs(trace)) == ({"this": 1, "last": 1} if will_run else {"last": 1})


def test_who_asks_for_the_replies_elsewhere_finds_the_rejection_there(
    broker: LocalBroker, goferd: AgentProcess, tmp_path: Path
) -> None:
    """What was sent while the agent was away is too old when it comes."""
    heard: list[dict[str, Any]] = []
    with linked(connected(broker.url)) as link:
        for queue in ("probe", "replies"):
            link.ask(DeclareQueue(queue))
        link.subscribe(Subscription("replies", 10, lambda delivery: heard.append(json.loads(delivery.body))), 10)
        body = request(tmp_path / "trace", "old", replyto="replies", timestamp=stamp(2 * HOUR), data={"n": 1})
        link.publish(Address("", "probe"), body, deadline=time.monotonic() + 10)
        goferd.start()
        assert link.wait(lambda: heard, time.monotonic() + 20)
    assert (heard[0]["sn"], heard[0]["status"], heard[0]["code"]) == ("old", "rejected", "request.expired")
    assert heard[0]["data"] == {"n": 1}
    assert "max_age is 3600 s" in heard[0]["details"]
    assert not runs(tmp_path / "trace")


def test_what_we_send_reports_when_it_was_sent_and_when_it_expires(broker: LocalBroker) -> None:
    with EchoAgent(broker.url) as echo, Agent(connector(broker), "agent", wait=20) as agent:
        before = time.time()
        agent.Dog().bark(1)
        agent(wait=0).Dog().bark(2)
        try:
            agent(wait=0, ttl="2m", confirm=True).Dog().bark(3)
        except NotTaken:
            raise AssertionError("it was taken") from None
        eventually(lambda: len(echo.seen) == 3)
    called, posted, lasting = echo.seen
    assert called["ttl"] == pytest.approx(20, abs=2)
    assert called["expires"] == pytest.approx(before + 20, abs=2)
    assert not {"ttl", "expires"} & set(posted)
    assert lasting["expires"] == pytest.approx(before + 120, abs=2)
    for document in echo.seen:
        assert abs(time.mktime(time.strptime(document["timestamp"], "%Y-%m-%dT%H:%M:%SZ")) - time.timezone - before) < 5
