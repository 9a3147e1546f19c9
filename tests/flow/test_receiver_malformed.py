"""What is no request: refused with a code, never run, and the agent goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.messaging.adapter import Bind, Delivery
from gofer.messaging.address import Address
from gofer.messaging.auth import Authenticator, ValidationFailed, sign
from gofer.messaging.document import decode_request, encode
from gofer.rmi.request import Received
from gofer.rmi.server.reply_encoder import CannotSign, Encoder, of_value
from support import kennel
from support.receiving import QUEUE, Served, request, served
from support.waiting import eventually


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as serving:
        yield serving


def without(document: dict[str, Any], *path: str) -> dict[str, Any]:
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return document


def changed(document: dict[str, Any], value: object, *path: str) -> dict[str, Any]:
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return document


ASKED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "no request": lambda d: without(d, "request"),
    "a request that is no object": lambda d: changed(d, "Dog.echo", "request"),
    "a request that is a list": lambda d: changed(d, [], "request"),
    "no classname": lambda d: without(d, "request", "classname"),
    "no method": lambda d: without(d, "request", "method"),
    "classname of another type": lambda d: changed(d, ["Dog"], "request", "classname"),
    "method of another type": lambda d: changed(d, 5, "request", "method"),
    "args of another type": lambda d: changed(d, {"0": 1}, "request", "args"),
    "kws of another type": lambda d: changed(d, [1], "request", "kws"),
    "kwargs of another type": lambda d: changed(d, "x", "request", "kwargs"),
    "cntr of another shape": lambda d: changed(d, [[]], "request", "cntr"),
    "cntr of another type": lambda d: changed(d, {"args": []}, "request", "cntr"),
    "wait of another type": lambda d: changed(d, "long", "wait"),
    "wait below nothing": lambda d: changed(d, -5.0, "wait"),
    "again of another type": lambda d: changed(d, "yes", "again"),
    "routing of another type": lambda d: changed(d, "queue", "routing"),
    "version of another type": lambda d: changed(d, 2.0, "version"),
    "nested too deep": lambda d: changed(d, json.loads("[" * 300 + "]" * 300), "request", "args"),
}


@pytest.mark.parametrize("kind", ASKED)
def test_a_wrong_shape_is_rejected(serving: Served, kind: str) -> None:
    document = ASKED[kind](request("Dog", "echo", "never", data="mine"))
    rejected = serving.caller.call(document)
    assert (rejected["status"], rejected["code"]) == ("rejected", "model.invalid")
    assert rejected["description"]
    assert rejected["data"] is None  # nobody has vouched for this document: it is not echoed
    assert_unharmed(serving)


@pytest.mark.parametrize("sn", ["../../etc/passwd", "", "a" * 129, "a b", "a\n", "\u00e4", "%s%n", ".hidden"])
def test_a_serial_number_that_is_none_is_rejected(serving: Served, sn: str) -> None:
    serving.caller.send(request("Dog", "echo", "never", sn=sn))
    rejected = serving.caller.end(None)
    assert (rejected["code"], rejected["sn"]) == ("model.invalid", None)
    assert_unharmed(serving)


@pytest.mark.parametrize("sn", [5, ["x"], {"a": 1}, True, 1.5])
def test_a_serial_number_of_another_type_is_rejected(serving: Served, sn: object) -> None:
    serving.caller.send(request("Dog", "echo", "never", sn=sn))
    assert serving.caller.end(None)["code"] == "model.invalid"
    assert_unharmed(serving)


@pytest.mark.parametrize("version", ["1.0", "2.1", "", None, "2.0 "])
def test_another_version_is_rejected_and_the_data_given_back(serving: Served, version: str | None) -> None:
    serving.caller.link.ask(Bind("replies", "amq.direct", "replies"))
    document = request("Dog", "echo", "never", data={"group": "a"}, replyto="amq.direct/replies")
    if version is None:
        del document["version"]
    else:
        document["version"] = version
    rejected = serving.caller.call(document)
    assert (rejected["code"], rejected["description"]) == ("model.version", "MODEL: document version not matched")
    assert rejected["details"].startswith("expected:2.0, found:")
    assert (rejected["data"], rejected["routing"]) == ({"group": "a"}, [None, "amq.direct/replies"])
    assert_unharmed(serving)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"{",
        b"[]",
        b"5",
        b'""',
        b"null",
        b"{}",
        b"\x00\x01\x02",
        b"\xff\xfe{}",
        b'{"sn": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"request": {}}',
        b'{"message": "x", "signature": "y"}',
        b'{"message": "{}", "signature": ""}',
        pytest.param(
            encode({**request("Dog", "echo", "never"), "replyto": ["replies"], "version": 2}), id="replyto: []"
        ),
        pytest.param(encode({**request("Dog", "echo", "never"), "replyto": 5}), id="replyto: 5"),
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_nobody_can_be_answered_for_is_dropped_and_logged(
    serving: Served, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    serving.caller.send(body)
    serving.seen("dropped", 1)
    line = next(record.getMessage() for record in caplog.records if "is dropped" in record.getMessage())
    assert len(line) < 700
    assert "\n" not in line
    assert_unharmed(serving)


def test_a_document_over_the_limit_is_rejected(serving: Served) -> None:
    rejected = serving.caller.call(request("Dog", "echo", "x" * (1 << 20), data={"replyto": "other"}))
    assert rejected["code"] == "model.size"
    assert "allowed: 1048576" in rejected["details"]
    serving.caller.send(b"[" * (2 << 20))
    serving.caller.send(b"x" * (2 << 20))
    serving.seen("dropped", 2)
    assert_unharmed(serving)


@pytest.mark.parametrize(
    "replyto", ["/", "x/", "a" * 300, "ex\nchange/queue", "q\x00", "x" * 300 + "/q", "/" * 10 + "\n"]
)
def test_a_reply_address_that_is_none_is_refused_and_not_run(serving: Served, replyto: str) -> None:
    serving.caller.send(request("Dog", "echo", "never", replyto=replyto))
    serving.seen("dropped", 1)
    assert_unharmed(serving)


def test_strangers_are_answered_on_the_default_exchange_only(serving: Served) -> None:
    serving.caller.link.ask(Bind("replies", "amq.direct", "replies"))
    for _ in range(3):
        serving.caller.send(without(request("Dog", "echo", replyto="amq.direct/replies"), "request"))
    serving.seen("dropped", 3)
    assert serving.caller.replies == []
    assert_unharmed(serving)


def test_strangers_are_answered_at_a_limited_rate(serving: Served) -> None:
    for _ in range(300):
        serving.caller.send(without(request("Dog", "echo", "never"), "request"))
    serving.seen("rejected", 300)
    assert serving.caller.value("Dog", "echo", 1) == 1
    answered = len([reply for reply in serving.caller.replies if reply.get("status") == "rejected"])
    assert 50 <= answered < 150
    assert serving.counted["dropped"] == 300 - answered


def test_a_stranger_without_a_reply_queue_is_reported_once_and_forgotten(serving: Served) -> None:
    serving.caller.send(without(request("Dog", "echo", replyto="no-such-queue"), "request"))
    serving.seen("rejected", 1)
    assert_unharmed(serving)
    eventually(lambda: serving.consumer.channel.publisher.pending == 0)
    assert serving.counted.get("retried") is None


# -- signed --------------------------------------------------------------------------------------------------------


class Shared(Authenticator):
    """Signs with a word that both sides know."""

    def __init__(self, word: str = "word", identity: str | None = "max") -> None:
        self.word = word
        self.identity = identity
        self.seen: list[Any] = []
        self.broken = False

    def sign(self, digest: str) -> str:
        if self.broken:
            raise RuntimeError("no key")
        return hashlib.sha256((digest + self.word).encode()).hexdigest()

    def validate(self, document: Any, digest: str, signature: Any) -> str | None:
        self.seen.append(document)
        if self.word == "broken":
            raise ZeroDivisionError
        if signature != Shared.sign(self, digest):
            raise ValidationFailed("signature not matched")
        return self.identity


def test_without_an_authenticator_a_signature_is_taken_off_and_not_looked_at(serving: Served) -> None:
    asked = request("Dog", "echo", 1)
    serving.caller.send(sign(encode(asked), Shared("another word")))
    assert serving.caller.end(asked["sn"])["result"] == {"retval": 1}


@pytest.fixture
def signed(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, authenticator=Shared()) as serving:
        yield serving


def signed_replies(serving: Served, count: int) -> list[dict[str, Any]]:
    """Wait for replies, check their signatures, and return what they say."""
    eventually(lambda: len(serving.caller.replies) >= count)
    said = []
    for wrapper in serving.caller.replies:
        assert set(wrapper) == {"message", "signature"}
        document = json.loads(wrapper["message"])
        assert json.loads(sign(wrapper["message"].encode(), Shared())) == wrapper
        said.append(document)
    return said


def test_a_signed_request_is_run_and_every_reply_is_signed(signed: Served) -> None:
    asked = request("Dog", "context", data="d")
    signed.caller.send(sign(encode(asked), Shared()))
    accepted, started, result = signed_replies(signed, 3)
    assert (accepted["status"], started["status"]) == ("accepted", "started")
    assert result["result"]["retval"] == [asked["sn"], "d", "max", False]
    assert isinstance(signed.plugin.authenticator, Shared)
    assert signed.plugin.authenticator.seen == [asked]


@pytest.mark.parametrize(
    "make",
    [
        encode,
        lambda document: sign(encode(document), Shared("another word")),
        lambda document: encode({"message": encode(document).decode(), "signature": "***"}),
        lambda document: encode({"message": encode(document).decode(), "signature": ""}),
    ],
    ids=["unsigned", "another key", "not base64", "empty"],
)
def test_what_is_not_rightly_signed_is_rejected(signed: Served, make: Callable[[dict[str, Any]], bytes]) -> None:
    asked = request("Dog", "echo", "never", data="mine")
    signed.caller.send(make(asked))
    (rejected,) = signed_replies(signed, 1)
    assert (rejected["code"], rejected["sn"]) == ("security.authentication", asked["sn"])
    assert rejected["description"] == "SECURITY: message authentication failed"
    assert rejected["data"] is None
    assert signed.counted == {"rejected": 1}
    assert kennel.ran() == []


def test_what_was_signed_for_somebody_else_is_rejected(signed: Served) -> None:
    for routing in ([None, "other"], [None, None], [], None, [None, f"{QUEUE}x"]):
        signed.caller.send(sign(encode(request("Dog", "echo", "never", routing=routing)), Shared()))
    assert {one["code"] for one in signed_replies(signed, 5)} == {"security.addressee"}
    signed.caller.send(sign(encode(request("Dog", "echo", 1, routing=[None, f"ex/{QUEUE}"])), Shared()))
    assert signed_replies(signed, 8)[-1]["result"] == {"retval": 1}


def test_rightly_signed_and_another_version_gets_an_error(signed: Served) -> None:
    signed.caller.send(sign(encode(request("Dog", "echo", version="1.0", data="mine")), Shared()))
    (rejected,) = signed_replies(signed, 1)
    assert (rejected["code"], rejected["data"]) == ("model.version", "mine")


def test_an_authenticator_that_fails_lets_nobody_in(tmp_path: Path) -> None:
    with served(tmp_path, authenticator=Shared("broken")) as serving:
        serving.caller.send(sign(encode(request("Dog", "echo", "never")), Shared("broken")))
        eventually(lambda: serving.caller.replies)
        assert json.loads(serving.caller.replies[0]["message"])["code"] == "security.authentication"
        assert kennel.ran() == []


def test_a_value_stays_what_it_is_when_not_even_that_it_is_too_large_can_be_signed(signed: Served) -> None:
    """It is kept for who sends it once more: then another authenticator may sign, or more may be sent."""

    class Once(Shared):
        def sign(self, digest: str) -> str:
            signature = super().sign(digest)
            self.broken = True
            return signature

    document = decode_request(encode(request("Dog", "echo")))
    asked = Received(
        document, Delivery(1, b"", None, None, None), signed.consumer.channel, 0.0, replyto=Address.parse("replies")
    )
    value = of_value("x" * 2000)
    body, kept, large = Encoder(QUEUE, Once(), 1000).reply(asked, value)
    assert isinstance(body, CannotSign)
    assert (kept, large) == (value, None)


def test_what_cannot_be_signed_is_not_sent(signed: Served, caplog: pytest.LogCaptureFixture) -> None:
    authenticator = signed.plugin.authenticator
    assert isinstance(authenticator, Shared)
    signed.caller.send(sign(encode(request("Dog", "wait", 1)), Shared()))
    assert kennel.gate.entered.acquire(timeout=30)
    signed_replies(signed, 2)
    authenticator.broken = True
    kennel.gate.open.set()
    signed.idle()
    assert signed.counted["undeliverable"] == 1
    assert "cannot sign: RuntimeError: no key" in caplog.text
    authenticator.broken = False
    signed.caller.send(sign(encode(request("Dog", "echo", 2)), Shared()))
    assert signed_replies(signed, 5)[-1]["result"] == {"retval": 2}


def assert_unharmed(serving: Served) -> None:
    """Nothing ran, and the agent goes on."""
    assert kennel.ran() == []
    assert serving.caller.value("Dog", "echo", "still here") == "still here"
    assert kennel.ran() == ["still here"]
