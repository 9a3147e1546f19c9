"""What our callers write: an agent of gofer 2.12 hears the same call from it as from a caller of its own.

Each captured request is made again with our Agent, over a real broker, and taken from the queue as it was sent.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import RequestTimeout
from gofer.messaging.adapter import Bind, DeclareExchange, DeclareQueue, Delivery
from gofer.messaging.address import Address
from gofer.messaging.document import encode
from gofer.messaging.local.server import serving
from gofer.messaging.subscription import Steps, Subscription
from gofer.messaging.thread_driver import ThreadConnection
from gofer.proxy import Agent
from gofer.rmi.client.options import Options
from gofer.rmi.client.stub import new_request
from support.captured import CAPTURED, HexAuthenticator
from support.receiving import driven
from support.waiting import eventually

pytestmark = pytest.mark.xdist_group("wire-caller")  # one process makes what the module shares

QUEUE = "wire-cap"
KEYS = {"data", "pam", "replyto", "request", "routing", "secret", "sn", "version"}


# -- an agent of 2.12, as far as it reads ------------------------------------------------------------------------


@dataclass(frozen=True)
class Heard:
    """What an agent of 2.12 makes of a request."""

    sn: Any
    to: str
    replyto: str | None
    data: Any
    secret: Any
    pam: Any
    namespace: str
    method: str
    constructor: tuple[list[Any], dict[str, Any]]
    args: list[Any]
    keywords: dict[str, Any]


def heard_by_2_12(body: bytes, *, keywords: str = "kwargs") -> Heard:
    """Read a request by the rules of 2.12: keywords from ``kwargs`` alone, unknown keys ignored. Shares no code."""
    document = json.loads(body)
    if set(document) == {"message", "signature"}:
        digest = hashlib.sha256(document["message"].encode()).hexdigest()
        signature = hashlib.sha256(digest.encode()).hexdigest().encode()
        assert base64.b64decode(document["signature"], validate=True) == signature
        document = json.loads(document["message"])
    assert document["version"] == "2.0"
    nobody, to = document["routing"]
    assert nobody is None
    request = document["request"]
    cntr = request["cntr"] or [[], {}]
    assert (len(cntr), type(cntr[0]), type(cntr[1])) == (2, list, dict)
    assert isinstance(request["args"] or [], list)
    assert isinstance(request.get(keywords) or {}, dict)
    pam = document.get("pam")
    assert pam is None or set(pam) == {"user", "password"}
    return Heard(
        document.get("sn"),
        to,
        document.get("replyto"),
        document.get("data"),
        document.get("secret"),
        pam,
        request["classname"],
        request["method"],
        (cntr[0], cntr[1]),
        request["args"] or [],
        request.get(keywords) or {},
    )


# -- the captured calls, made with our Agent ---------------------------------------------------------------------

Call = Callable[[Agent], Any]
#: The options that the captured caller gave to its Agent, and its call.
WAITING: dict[str, tuple[dict[str, Any], Call]] = {
    "request-args": ({}, lambda a: a.Demo().echo("hello", 2, [3, {"k": None}])),
    "request-constructor": ({}, lambda a: a.Named("roger", age=7).who()),
    "request-data": ({"data": {"group": "a", "n": 1}}, lambda a: a.Demo().echo(1)),
    "request-data-text": ({"data": "group-a"}, lambda a: a.Demo().echo(1)),
    "request-exchange": ({"exchange": "amq.direct"}, lambda a: a.Demo().echo(1)),
    "request-keywords": ({}, lambda a: a.Demo().both(1, b=5, c={"x": True})),
    "request-module": ({}, lambda a: a.wire.mecho(1)),
    "request-noargs": ({}, lambda a: a.Demo().none()),
    "request-nostubcall": ({}, lambda a: a.Demo.none()),
}
SENT: dict[str, tuple[dict[str, Any], Call]] = {
    "request-address-exchange": ({"address": f"amq.direct/{QUEUE}"}, lambda a: a.Demo().echo(1)),
    "request-admin-cancel-criteria": ({}, lambda a: a.Admin().cancel(criteria={"match": {"group": "a"}})),
    "request-admin-cancel-sn": ({}, lambda a: a.Admin().cancel(sn="d2a4ae3c-8be6-43a1-a0d5-5a0fbd5f7b5e")),
    "request-admin-help": ({}, lambda a: a.Admin().help()),
    "request-nowait": ({}, lambda a: a.Demo().echo(1)),
    "request-pam-option": ({}, lambda a: a.Demo().pam()),
    "request-reply": ({"wait": 90, "reply": "wire-async-reply"}, lambda a: a.Demo().echo(1)),
    "request-reply-exchange": ({"wait": 90, "reply": "amq.direct/wire-async-reply"}, lambda a: a.Demo().echo(1)),
    "request-secret": ({"secret": "garfield"}, lambda a: a.Demo().secret()),
    "request-signed": ({"authenticator": HexAuthenticator()}, lambda a: a.Demo().echo(1)),
    "request-trigger": ({"trigger": 1}, lambda a: a.Demo().echo(1)()),
    "request-ttl": ({"ttl": 5}, lambda a: a.Demo().echo(1)),
    "request-ttl-suffix": ({"ttl": "2m"}, lambda a: a.Demo().echo(1)),
    "request-unicode": ({}, lambda a: a["Demo"]()["echo"]("h\u00e9llo \u20ac \U0001f600")),
    "request-user": ({"user": "gofer", "password": "redhat"}, lambda a: a.Demo().pam()),
    "request-user-nopassword": ({"user": "gofer"}, lambda a: a.Demo().pam()),
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("run") / "broker.sock"
    with serving(str(path)):
        yield path


class Queue:
    """The agent's queue, and what was sent there."""

    def __init__(self, link: ThreadConnection) -> None:
        self._link = link
        self._deliveries: deque[Delivery] = deque()
        link.subscribe(Subscription(QUEUE, 10, self._taken, self._declare), 10.0)

    def next(self) -> tuple[bytes, float | None]:
        """Wait for the next message, and return its body and its time to live."""
        eventually(lambda: self._deliveries, what="a request in the queue")
        delivery = self._deliveries.popleft()
        return delivery.body, delivery.ttl

    def _declare(self) -> Steps:
        yield DeclareExchange("amq.direct")
        yield DeclareQueue(QUEUE)
        yield Bind(QUEUE, "amq.direct", QUEUE)

    def _taken(self, delivery: Delivery) -> None:
        self._link.accept(delivery)
        self._deliveries.append(delivery)


@pytest.fixture
def queue(broker: Path) -> Iterator[Queue]:
    with driven(broker) as link:
        yield Queue(link)


def same_call(name: str, body: bytes, options: dict[str, Any]) -> None:
    ours, theirs = heard_by_2_12(body), heard_by_2_12(CAPTURED[name].body, keywords="kws")
    waits = name in WAITING
    replyto = ours.replyto if waits else theirs.replyto
    assert ours == Heard(**{**vars(theirs), "sn": ours.sn, "replyto": replyto})
    assert str(uuid.UUID(ours.sn)) == ours.sn
    if waits:
        assert theirs.replyto is not None
        assert ours.replyto is not None
        for text in (ours.replyto, theirs.replyto):
            exchange, key = Address.parse(text)
            assert exchange == options.get("exchange", "")
            assert str(uuid.UUID(key)) == key

    document = json.loads(body)
    document = json.loads(document["message"]) if "message" in document else document
    theirs_document = CAPTURED[name].document
    lives = {"ttl", "expires"} if waits or "ttl" in options else set()
    assert set(document) - KEYS == {"timestamp", *lives, *(["wait"] if waits else [])}
    assert {key: document[key] for key in KEYS - {"sn", "replyto", "request"}} == {
        key: theirs_document[key] for key in KEYS - {"sn", "replyto", "request"}
    }
    request = document["request"]
    assert ("kwargs" in request) == bool(request["kws"])
    assert request.pop("kwargs", {}) == request["kws"]
    assert request == theirs_document["request"]


def test_every_captured_request_is_made_again_here() -> None:
    assert {*WAITING, *SENT} == {name for name in CAPTURED if name.startswith("request-")}


@pytest.mark.parametrize("name", SENT)
def test_a_request_that_nobody_waits_for(name: str, broker: Path, queue: Queue) -> None:
    options, call = SENT[name]
    address = options.get("address", QUEUE)
    options = {"wait": 0, **{key: value for key, value in options.items() if key != "address"}}
    with Agent(f"local://{broker}", address, **options) as agent:
        sn = call(agent)
        agent.flush(10)
    body, ttl = queue.next()
    same_call(name, body, options)
    assert heard_by_2_12(body).sn == sn
    assert ttl == (
        CAPTURED[name].ttl and pytest.approx(CAPTURED[name].ttl, abs=1.0)
    )  # what is left of it when it is sent


@pytest.mark.parametrize("name", WAITING)
def test_a_request_that_its_caller_waits_for(name: str, broker: Path, queue: Queue) -> None:
    options, call = WAITING[name]
    with Agent(f"local://{broker}", QUEUE, **options, wait=1.0) as agent:
        with pytest.raises(RequestTimeout) as caught:
            call(agent)
        assert caught.value.state == "sent"
    body, ttl = queue.next()
    same_call(name, body, options)
    document = json.loads(body)
    assert document["wait"] == 1.0
    assert ttl is not None, "by default a caller that waits no longer wants no answer"
    assert 0 < ttl <= 1.0


@pytest.mark.parametrize(
    ("options", "more"),
    [({}, set()), ({"timeout": "1m"}, {"timeout"}), ({"ttl": 3, "secret": [1], "data": {}}, set())],
)
def test_only_what_is_said_is_added(options: dict[str, Any], more: set[str]) -> None:
    document = new_request(("Demo", "echo", None), (1,), {}, QUEUE, Options().having(options))

    assert set(document) == KEYS | more
    assert set(document["request"]) == {"args", "classname", "cntr", "kws", "method"}
    assert document.get("timeout") == (60.0 if "timeout" in more else None)
    assert heard_by_2_12(encode(document)).secret == options.get("secret")


def test_keywords_are_written_for_both_readers() -> None:
    """Agents of 2.12 read ``kwargs``, those before them ``kws``."""
    document = new_request(("Demo", "both", None), (1,), {"b": 5}, QUEUE, Options())
    assert heard_by_2_12(encode(document)).keywords == {"b": 5}
    assert heard_by_2_12(encode(document), keywords="kws").keywords == {"b": 5}
    assert heard_by_2_12(CAPTURED["request-keywords"].body).keywords == {}, "what 2.12 lost"
