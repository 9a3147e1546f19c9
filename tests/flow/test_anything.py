"""Any value, and any message at all, over a real broker: each reader takes it or refuses it, and goes on."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from gofer.errors import DocumentError
from gofer.messaging.adapter import DeclareQueue, Delivery
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.document import encode
from gofer.messaging.subscription import Subscription
from gofer.messaging.thread_driver import ThreadConnection
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer.rmi.client.notices import Received, read_reply
from gofer.rmi.reply import Notice, ReplyConsumer
from hypothesis import given, settings
from hypothesis import strategies as st
from support.connections import declaring
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.mangled import BODIES, JUNK, mangled, swapped
from support.presence import until_it_answers
from support.probe import descriptor
from support.pure_calls import new_call
from support.receiving import Served, driven, served
from support.waiting import eventually

pytestmark = pytest.mark.xdist_group("anything")  # one process makes what is shared

MIRROR = """
from gofer.agent.rmi import Context
from gofer.decorators import fork, remote


class Mirror:
    def __init__(self, *args, **kws):
        self.made = [list(args), kws]

    @remote
    def show(self, *args, **kws):
        context = Context.current()
        context.progress.details = kws
        return {"args": args, "kws": kws, "made": self.made, "data": context.data}

    @remote
    @fork
    def show_there(self, *args, **kws):
        return self.show(*args, **kws)
"""

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
WORDS = st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1), VALUES, max_size=3)
OPTIONS = {"self", "wait", "ttl", "reply", "trigger", "data", "progress", "confirm", "timeout", "exchange", "secret"}
MESSAGES = st.lists(mangled() | swapped() | st.sampled_from(BODIES + JUNK) | st.binary(), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    with LocalBroker(str(tmp_path_factory.mktemp("anything") / "broker.sock")) as broker:
        yield broker


# -- values --------------------------------------------------------------------------------------------------------


class TestValues:
    @pytest.fixture(scope="class")
    @classmethod
    def agent(cls, broker: LocalBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
        with AgentProcess(tmp_path_factory.mktemp("mirror")) as process:
            process.plugin("mirror", MIRROR, descriptor(broker.url, "mirror"))
            process.start()
            with Agent(broker.url, "mirror", wait=30) as agent:
                yield until_it_answers(agent, process.tail())

    @settings(max_examples=60)
    @given(st.lists(VALUES, max_size=3), WORDS, VALUES, st.sampled_from(["show", "show_there"]))
    def test_they_come_back_as_they_went(
        self, agent: Agent, args: list[Any], kws: dict[str, Any], data: Any, method: str
    ) -> None:
        """As arguments of methods and constructors, as data, in results and in progress."""
        heard: list[dict[str, Any]] = []
        made = {name: value for name, value in kws.items() if name not in OPTIONS}
        kws = {name: value for name, value in kws.items() if name != "self"}
        mirror = agent(data=data, progress=heard.append).Mirror(*args, **made)
        assert mirror[method](*args, **kws) == {"args": args, "kws": kws, "made": [args, made], "data": data}
        assert [(one["data"], one["details"]) for one in heard] == [(data, kws)] * len(heard)
        assert heard


# -- messages to an agent ----------------------------------------------------------------------------------------------


class TestRequests:
    @pytest.fixture(scope="class")
    @classmethod
    def serving(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
        with served(tmp_path_factory.mktemp("served"), threads=1) as serving:
            # Their threads, the store's and the worker's, are there before and after each test.
            serving.store.call(lambda file: None)
            assert serving.caller.value("Dog", "echo", "here") == "here"
            yield serving

    @settings(max_examples=60)
    @given(bodies=MESSAGES)
    def test_each_is_a_request_or_refused(self, serving: Served, bodies: list[bytes]) -> None:
        """One message, one count: accepted, known already or rejected (where nobody can be told, dropped, too)."""
        before = serving.consumer.channel.counters.snapshot()
        failures = _Failures()
        logging.getLogger("gofer").addHandler(failures)
        try:
            for body in bodies:
                serving.caller.send(body)
            assert serving.caller.value("Dog", "echo", "still here") == "still here"
        finally:
            logging.getLogger("gofer").removeHandler(failures)
        assert failures.raised == []
        now = serving.consumer.channel.counters.snapshot()
        counted = {word: now[word] - before[word] for word in now}
        taken = counted["accepted"] + counted["repeated"] + counted["rejected"]
        assert taken <= len(bodies) + 1 <= taken + counted["dropped"]


class _Failures(logging.Handler):
    """What was logged with a traceback: an exception that nobody expected."""

    def __init__(self) -> None:
        super().__init__()
        self.raised: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.raised.append(logging.Formatter().format(record))


# -- replies to a caller, and to a consumer ------------------------------------------------------------------------


@dataclass
class Told:
    """An agent that answers each request with what it is told to say, whatever that is."""

    link: ThreadConnection
    bodies: list[bytes] = field(default_factory=list)

    def answer(self, delivery: Delivery) -> None:
        asked = json.loads(delivery.body)
        self.link.accept(delivery)
        end = encode({"sn": asked["sn"], "version": "2.0", "result": {"retval": "the end"}})
        for body in [*self.of(asked["sn"]), end]:
            assert self.link.publish_nowait(Address.parse(asked["replyto"]), body)

    def of(self, sn: str) -> list[bytes]:
        """What it says to this request: the right number in place of each that the documents have."""
        return [body.replace(b"<sn>", sn.encode()) for body in self.bodies]


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    """Draw a message to a caller, most of them with the number of its request."""
    body = draw(mangled() | swapped() | st.sampled_from(BODIES + JUNK))
    if not draw(st.booleans()):
        return body
    try:
        said = json.loads(body.decode())
        return json.dumps({**said, "sn": "<sn>"}).encode()
    except (ValueError, TypeError, RecursionError):
        return body


def read(body: bytes) -> Received | None:
    """Read a reply as its reader should; None: it is none."""
    try:
        return read_reply(body)
    except DocumentError:
        return None


class TestReplies:
    @pytest.fixture(scope="class")
    @classmethod
    def told(cls, broker: LocalBroker) -> Iterator[Told]:
        with driven(Path(broker.path)) as link:
            told = Told(link)
            queue = DeclareQueue("told")
            subscription = Subscription("told", 10, told.answer, declaring(queue))
            link.subscribe(subscription, 10.0)
            yield told

    @pytest.fixture(scope="class")
    @classmethod
    def agent(cls, broker: LocalBroker, told: Told) -> Iterator[Agent]:
        with Agent(broker.url, "told", wait=30) as agent:
            assert agent.Any().thing() == "the end"
            yield agent

    @settings(max_examples=60)
    @given(bodies=st.lists(replies(), max_size=6))
    def test_a_caller_takes_what_it_can_read_and_the_first_end_counts(
        self, told: Told, agent: Agent, bodies: list[bytes]
    ) -> None:
        told.bodies = bodies
        trigger = agent(trigger=1).Any().thing()
        call = new_call(trigger.sn, "told", "Any.thing")
        for received in filter(None, map(read, told.of(trigger.sn))):
            if received.notice.sn == trigger.sn:
                call.feed(received.notice)
        if not call.end:
            assert trigger() == "the end"
            return
        assert how(trigger) == how(call.outcome)

    @settings(max_examples=60)
    @given(bodies=st.lists(replies(), max_size=6))
    def test_a_consumer_is_told_what_can_be_read_and_each_end_once(
        self, consumed: Consumed, bodies: list[bytes]
    ) -> None:
        sn = str(uuid.uuid4())
        mine = [body.replace(b"<sn>", sn.encode()) for body in bodies]
        expected: list[tuple[str, str | None]] = []
        for received in filter(None, map(read, mine)):
            notice = received.notice
            if notice.sn not in consumed.ended:
                expected.append((notice.kind, notice.sn))
                if notice.done and notice.sn is not None:
                    consumed.ended.add(notice.sn)
        assert consumed.send(mine) == expected

    @pytest.fixture(scope="class")
    @classmethod
    def consumed(cls, broker: LocalBroker) -> Iterator[Consumed]:
        heard: list[Notice] = []
        connector = Connector(URL.parse(broker.url))
        with driven(Path(broker.path)) as link, ReplyConsumer("told-replies", connector).start(heard.append):
            link.open(None)
            yield Consumed(link, heard)


@dataclass
class Consumed:
    """A queue of replies, and what its listener has heard."""

    link: ThreadConnection
    heard: list[Notice]
    ended: set[str] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=count)

    def send(self, bodies: list[bytes]) -> list[tuple[str, str | None]]:
        """Send these and one more that ends all; return what was told of them."""
        last = f"last-{next(self.numbers)}"
        del self.heard[:]
        for body in [*bodies, encode({"sn": last, "version": "2.0", "result": {"retval": 1}})]:
            self.link.publish(Address.parse("told-replies"), body, deadline=monotonic() + 20)
        eventually(lambda: self.heard and self.heard[-1].sn == last, what=str(bodies))
        return [(one.kind, one.sn) for one in self.heard[:-1]]


def how(call: Any) -> Any:
    """Tell how a call ends, in a form that can be compared."""
    try:
        return "value", repr(call())
    except Exception as raised:  # noqa: BLE001 - a reply may name any class
        return type(raised), repr(raised.args)
