"""What a caller's document can make an agent do: bounded, so that one message costs all others next to nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import ExecutionTimeout, Rejected
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from support.calls import Mailbox
from support.danger import DANGER
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import descriptor

LOOK = """
import gc


class Look:
    @remote
    def objects(self):
        gc.collect()
        return len(gc.get_objects())
"""

LIMIT = 16 << 20


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    with LocalBroker(str(tmp_path_factory.mktemp("broker") / "broker.sock")) as broker:
        yield broker


@pytest.fixture(scope="module")
def process(broker: LocalBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path_factory.mktemp("bounds") / "root") as process:
        for name in ("dog", "cat"):
            process.plugin(name, DANGER + LOOK, descriptor(broker.url, name))
        process.start()
        yield process


def caller(process: AgentProcess, broker: LocalBroker, name: str) -> Iterator[Agent]:
    with Agent(broker.url, name, wait=60) as agent:
        yield until_it_answers(agent, process.tail())


@pytest.fixture
def dog(process: AgentProcess, broker: LocalBroker) -> Iterator[Agent]:
    yield from caller(process, broker, "dog")


@pytest.fixture
def cat(process: AgentProcess, broker: LocalBroker) -> Iterator[Agent]:
    yield from caller(process, broker, "cat")


@pytest.fixture
def mailbox(broker: LocalBroker) -> Iterator[Mailbox]:
    with Mailbox(Connector(URL.parse(broker.url), reconnect_max=1.0)) as mailbox:
        yield mailbox


def nested(levels: int) -> dict[str, Any]:
    criteria: dict[str, Any] = {"eq": 1}
    for _ in range(levels):
        criteria = {"and": [criteria]}
    return criteria


TOO_MUCH: list[tuple[str, dict[str, Any], str]] = [
    ("terms", {"or": [{"eq": 1}] * 1001}, "terms; 1000 are allowed"),
    ("values", {"in": list(range(2000))}, "terms; 1000 are allowed"),
    ("keys", {"match": {f"k{n}": n for n in range(2000)}}, "terms; 1000 are allowed"),
    ("many terms", {"or": [{"eq": 1}] * 100_000}, "bytes; 65536 are allowed"),
    ("bytes", {"eq": "x" * 70_000}, "bytes; 65536 are allowed"),
    ("depth", nested(20), "deeper than 16"),
    ("depth of keys", {"match": {"a": {"b": json.loads('{"c":' * 20 + "1" + "}" * 20)}}}, "deeper than 16"),
]


@pytest.mark.parametrize(("criteria", "why"), [case[1:] for case in TOO_MUCH], ids=[case[0] for case in TOO_MUCH])
def test_criteria_that_are_too_much_are_refused(dog: Agent, criteria: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        dog.Admin().cancel(criteria=criteria)


def test_the_message_that_stopped_the_agent_for_a_minute_is_refused_unread(dog: Agent) -> None:
    with pytest.raises(Rejected, match="lists and objects"):
        dog.Admin().cancel(criteria={"or": [{"eq": 1}] * 400_000})


def test_criteria_as_large_as_they_may_be_delay_nobody(dog: Agent, cat: Agent, tmp_path: Path) -> None:
    """They are asked of each request that waits; meanwhile the agent reads on."""
    trace = tmp_path / "trace"
    dog(wait=0).Probe().until(str(tmp_path / "go"))
    for n in range(1500):
        dog(wait=0, data={"n": n}).Probe().note(str(trace), "ran")
    criteria = {"or": [{"match": {"n": -1}}] * 333 + [{"eq": {"n": 7}}]}
    answered = 0
    with ThreadPoolExecutor(2) as threads:
        found = [threads.submit(dog.Admin().cancel, criteria=criteria) for _ in range(2)]
        while not all(one.done() for one in found):
            assert dog.Admin().hello()
            assert cat.Probe().echo("cat") == "cat"
            answered += 1
    assert sorted(len(one.result()) for one in found) == [0, 1]
    assert answered > 3
    assert len(dog.Admin().cancel(criteria={"neq": None})) == 1499
    (tmp_path / "go").touch()
    assert dog.Probe().echo("behind all") == "behind all"
    assert not trace.exists()


def lists(size: int) -> bytes:
    return b"[" + b",".join([b"[]"] * (size // 3)) + b"]"


def objects(size: int) -> bytes:
    return b"[" + b",".join([b'{"a":[]}'] * (size // 9)) + b"]"


def numbers(size: int) -> bytes:
    return b"[" + b",".join([b"9" * 4000] * (size // 4001)) + b"]"


@pytest.mark.parametrize(
    ("much", "why", "where"),
    [
        (lists, "lists and objects", "args"),
        (objects, "lists and objects", "data"),
        (numbers, "digits", "unknown"),
        (lists, "lists and objects", "sn"),
        (objects, "lists and objects", "signed"),
        (numbers, "digits", "args"),
    ],
)
def test_a_document_that_costs_far_more_than_its_bytes_is_refused_before_it_is_read(  # noqa: PLR0917 - three of these are fixtures
    dog: Agent, cat: Agent, mailbox: Mailbox, much: Callable[[int], bytes], why: str, where: str
) -> None:
    """16 MiB of empty lists took twelve seconds, in which no plugin heard anything, and a gigabyte."""
    document = {**mailbox.request("", ""), "zzz": None}
    document["request"] = {
        "classname": "Probe",
        "method": "echo",
        "args": ["HERE" if where in ("args", "signed") else 0],
    }
    if where not in {"args", "signed"}:
        document[{"unknown": "zzz"}.get(where, where)] = "HERE"
    body = json.dumps(document).encode()
    assert body.count(b'"HERE"') == 1
    body = body.replace(b'"HERE"', much(LIMIT // 2))
    if where == "signed":
        body = json.dumps({"message": body.decode(), "signature": "AAAA"}).encode()
    before = dog.Probe().state()["rss"]
    mailbox.send("dog", body)
    rejected = mailbox.receive()
    assert (rejected["status"], rejected["code"]) == ("rejected", "model.invalid")
    assert why in rejected["details"]
    assert cat.Probe().echo("cat") == "cat"
    assert dog.Probe().state()["rss"] - before < 200 << 20


def test_text_full_of_brackets_is_only_text(dog: Agent) -> None:
    for text in ('[{"a": "\\\\"}]' * 100_000, '"\\' * 200_000 + "[" * 300_000, "9" * 500_000):
        assert dog.Probe().echo(text) == text


def test_names_are_bounded(dog: Agent) -> None:
    with pytest.raises(Rejected, match="method is longer than 255 characters"):
        dog.Probe()["x" * 256]()
    with pytest.raises(Rejected, match="classname is longer than 255 characters"):
        dog["X" * 100_000]().echo()


@pytest.mark.parametrize("seconds", [1e12, 1e300])
def test_a_timeout_in_the_farthest_future_ends_no_others(
    dog: Agent, cat: Agent, tmp_path: Path, seconds: float
) -> None:
    """It ended the thread of all timers: no call of any plugin timed out any more, and nothing was kept."""
    assert dog(timeout=seconds).Probe().echo("x") == "x"
    with pytest.raises(ExecutionTimeout):
        cat(timeout=0.2).Danger().stay(str(tmp_path / "trace"), "stay")


@pytest.mark.slow
def test_timeouts_leave_nothing_behind_when_their_calls_have_ended(dog: Agent) -> None:
    quick = dog(timeout=1e6)
    for _ in range(300):
        quick.Probe().echo("x")
    before = dog.Look().objects()
    for _ in range(3000):
        quick.Probe().echo("x")
    assert dog.Look().objects() - before < 2500
