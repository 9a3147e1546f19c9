"""Our agent, called as a caller of gofer 2.12 calls: it answers with the documents that such a caller knows.

Each captured request is sent to a real agent as it was written, but for the address of its replies; and each kind of
reply has the fields of the captured one, with ``origin`` (and ``timestamp`` in progress) beside them.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from gofer.messaging.adapter import Bind, DeclareExchange, DeclareQueue, Delivery
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.messaging.subscription import Steps, Subscription
from gofer.messaging.thread_driver import ThreadConnection
from support.captured import CAPTURED, HexAuthenticator, captured
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.wireplugin import DESCRIPTOR, WIRE

pytestmark = pytest.mark.xdist_group("wire-agent")  # one process makes what the module shares

QUEUE = "wire-cap"
REPLIES = "wire-async-reply"
#: What each captured request comes to. The plugin's ``pam`` asks for no user here.
VALUES: dict[str, Any] = {
    "request-admin-cancel-criteria": [],  # there is nothing of that group
    "request-admin-cancel-sn": [],  # 2.12 raised; ours remembers a number that is still to come
    "request-admin-help": "Plugins:",
    "request-address-exchange": 1,
    "request-args": TypeError,  # three arguments for one parameter: captured for its shape
    "request-constructor": ["roger", 7],
    "request-data": 1,
    "request-data-text": 1,
    "request-exchange": 1,
    "request-keywords": [1, 5, {"x": True}],
    "request-module": 1,
    "request-noargs": None,
    "request-nostubcall": None,
    "request-nowait": 1,
    "request-pam-option": "ok",
    "request-reply": 1,
    "request-reply-exchange": 1,
    "request-secret": "ok",
    "request-signed": 1,
    "request-trigger": 1,
    "request-ttl": 1,
    "request-ttl-suffix": 1,
    "request-unicode": "h\u00e9llo \u20ac \U0001f600",
    "request-user": "ok",
    "request-user-nopassword": "ok",
}
Replies = list[dict[str, Any]]


class OldCaller:
    """Sends what a caller of 2.12 sends, and hears what it hears: in the order of arrival."""

    def __init__(self, link: ThreadConnection) -> None:
        self._link = link
        self._heard: Replies = []
        link.subscribe(Subscription(REPLIES, 100, self._take, self._declare), 10.0)

    def call(self, document: dict[str, Any] | bytes, sn: str | None, address: str = QUEUE) -> Replies:
        """Send, and return all replies to the serial number up to the one that ends it."""
        self._heard.clear()
        body = document if isinstance(document, bytes) else json.dumps(document, sort_keys=True).encode()
        self._link.publish(Address.parse(address), body, deadline=None)
        assert self._link.wait(lambda: self._ended(sn), monotonic() + 20), self._heard
        return [reply for reply in self._heard if reply["sn"] == sn]

    def request(self, method: str, *args: Any, classname: str = "Demo", **envelope: Any) -> Replies:
        """Call as a request written by hand."""
        sn = str(uuid.uuid4())
        request: dict[str, Any] = {"classname": classname, "method": method, "cntr": None, "args": args, "kws": {}}
        more: dict[str, Any] = {
            key: envelope.pop(key) for key in ("kws", "kwargs", "cntr", "unknown") if key in envelope
        }
        document: dict[str, Any] = {
            "sn": sn,
            "version": "2.0",
            "routing": [None, QUEUE],
            "replyto": REPLIES,
            "request": {**request, **more},
            "data": None,
            "secret": None,
            "pam": None,
            **envelope,
        }
        return self.call(document, document["sn"])

    def end(self, method: str, *args: Any, **envelope: Any) -> dict[str, Any]:
        return self.request(method, *args, **envelope)[-1]

    def error(self, method: str, *args: Any, **envelope: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.end(method, *args, **envelope)["result"]
        assert "retval" not in found
        return found

    def _ended(self, sn: str | None) -> bool:
        return any(
            reply["sn"] == sn and ("result" in reply or reply.get("status") == "rejected") for reply in self._heard
        )

    def _declare(self) -> Steps:
        yield DeclareExchange("amq.direct")
        yield DeclareQueue(REPLIES)
        yield Bind(REPLIES, "amq.direct", REPLIES)
        yield Bind(QUEUE, "amq.direct", QUEUE)

    def _take(self, delivery: Delivery) -> None:
        self._link.accept(delivery)
        self._heard.append(json.loads(delivery.body))


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OldCaller]:
    """A caller, a broker and an agent that serves the plugin ``wire``."""
    root = tmp_path_factory.mktemp("root")
    for path in (root, *(root / part for part in ("etc", "var", "run"))):
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
    sockets: Path = tmp_path_factory.mktemp("broker")
    with LocalBroker(str(sockets / "broker.sock")) as broker, AgentProcess(root) as agent:
        agent.plugin("wire", WIRE, DESCRIPTOR.format(url=broker.url))
        agent.start()
        link = pool.acquire(Connector.of(broker.url))
        try:
            yield OldCaller(link)
        finally:
            pool.release(link)


def without_ours(reply: dict[str, Any], *more: str) -> set[str]:
    assert reply["origin"] == QUEUE
    return set(reply) - {"origin", *more}


def keys(name: str) -> set[str]:
    return set(CAPTURED[name].document)


# -- the captured requests ---------------------------------------------------------------------------------------


def test_every_captured_request_is_sent() -> None:
    assert set(VALUES) == {one.name for one in captured("request-")}


@pytest.mark.parametrize("name", VALUES)
def test_a_captured_request_is_served(name: str, caller: OldCaller) -> None:
    message = CAPTURED[name]
    document = {**message.document, "replyto": message.document["replyto"] or REPLIES}
    if message.document["replyto"] and REPLIES not in document["replyto"]:
        document["replyto"] = re.sub(r"[^/]+$", REPLIES, document["replyto"])  # the captured caller's queue has gone
    text = json.dumps(document, sort_keys=True)
    body = HexAuthenticator().wrap(text) if message.signed else text.encode()
    sn = document["sn"]
    replies = caller.call(body, sn, message.address)

    assert [reply.get("status") for reply in replies] == ["accepted", "started", None]
    assert {json.dumps(reply["data"], sort_keys=True) for reply in replies} == {
        json.dumps(document["data"], sort_keys=True)
    }
    assert {tuple(reply["routing"]) for reply in replies} == {(None, document["replyto"])}
    result = replies[-1]["result"]
    if VALUES[name] is TypeError:
        assert (result["xmodule"], result["xclass"]) == ("builtins", "TypeError")
    elif name == "request-admin-help":
        assert result["retval"].startswith(VALUES[name])
    else:
        assert result == {"retval": VALUES[name]}


# -- the fields of replies ---------------------------------------------------------------------------------------


def test_statuses_and_values_have_the_captured_fields(caller: OldCaller) -> None:
    accepted, started, result = caller.request("echo", "hello", data={"group": "a"})

    assert without_ours(accepted) == keys("status-accepted")
    assert without_ours(started) == keys("status-started")
    assert without_ours(result) == keys("result-text")
    assert result["result"] == CAPTURED["result-text"].document["result"]
    for reply in (accepted, started, result):
        assert (reply["version"], reply["data"]) == ("2.0", {"group": "a"})
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", reply["timestamp"])


@pytest.mark.parametrize(
    ("method", "details", "name"),
    [
        ("progress", {}, "status-progress-nodetails-1"),
        ("progress_details", {"name": "a", "n": [1]}, "status-progress-details-1"),
    ],
)
def test_progress_has_the_captured_fields(method: str, details: Any, name: str, caller: OldCaller) -> None:
    replies = caller.request(method, data="d")
    reports = [reply for reply in replies if reply.get("status") == "progress"]

    assert [reply.get("status") for reply in replies] == ["accepted", "started", *["progress"] * len(reports), None]
    for report in reports:
        assert without_ours(report, "timestamp") == keys(name)
        assert (report["total"], report["data"]) == (2, "d")
    assert (reports[-1]["completed"], reports[-1]["details"]) == (2, details)
    assert replies[-1]["result"] == {"retval": "done"}


def test_an_exception_has_the_captured_fields(caller: OldCaller) -> None:
    for method, name in (("value_error", "error-builtin"), ("my_error", "error-custom")):
        ours, theirs = caller.error(method), CAPTURED[name].document["result"]
        assert set(ours) == set(theirs)
        assert {key: ours[key] for key in ("xclass", "xmodule", "xargs")} == {
            key: theirs[key] for key in ("xclass", "xmodule", "xargs")
        }
        assert set(ours["xstate"]) == set(theirs["xstate"])
        assert ours["xstate"]["trace"] == ours["exval"]
        assert ours["exval"].startswith("Traceback (most recent call last):\n")
        assert ours["exval"].endswith(theirs["exval"].rsplit("\n", 1)[-1])
    assert ours["xstate"] == {**theirs["xstate"], "trace": ours["exval"]}


@pytest.mark.parametrize(("version", "name"), [("1.0", "rejected-version"), (None, "rejected-noversion")])
def test_another_version_is_rejected_with_the_captured_document(
    version: str | None, name: str, caller: OldCaller
) -> None:
    theirs = CAPTURED[name].document
    replies = caller.request("echo", 1, version=version, data=theirs["data"])

    assert len(replies) == 1
    assert without_ours(replies[0]) == set(theirs)
    assert {key: replies[0][key] for key in ("code", "description", "details", "data", "status", "version")} == {
        key: theirs[key] for key in ("code", "description", "details", "data", "status", "version")
    }


@pytest.mark.parametrize("junk", [b"9" * 5000, b'"\xff"'], ids=["number", "bytes"])
def test_another_version_is_rejected_whatever_else_stands_there(junk: bytes, caller: OldCaller) -> None:
    sn = str(uuid.uuid4())
    envelope = b'"sn": "%s", "version": "1.0", "replyto": "%s"' % (sn.encode(), REPLIES.encode())
    request = b'{"classname": "Demo", "method": "none"}'
    (rejected,) = caller.call(b'{%s, "unknown": %s, "request": %s}' % (envelope, junk, request), sn)
    assert (rejected["status"], rejected["code"]) == ("rejected", "model.version")


# -- what is found and what is not -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classname", "method", "name"),
    [
        ("Nope", "echo", "error-namespace"),
        ("Demo", "nope", "error-member"),
        ("Demo", "hidden", "error-member-hidden"),
        ("wire", "nope", "error-member-module"),
    ],
)
def test_what_is_not_exposed_is_not_found_in_the_captured_words(
    classname: str, method: str, name: str, caller: OldCaller
) -> None:
    ours, theirs = caller.error(method, classname=classname), CAPTURED[name].document["result"]

    assert (ours["xmodule"], ours["xclass"]) == (theirs["xmodule"], theirs["xclass"])
    if name != "error-namespace":  # the wording is our own, the arguments are not
        assert ours["xargs"] == theirs["xargs"]
    assert (classname if name == "error-namespace" else method) in str(ours["xargs"])


@pytest.mark.parametrize(("secret", "name"), [(None, "error-secret-required"), ("wrong", "error-secret-notmatched")])
def test_a_secret_is_asked_for_and_never_reported(secret: str | None, name: str, caller: OldCaller) -> None:
    ours, theirs = caller.error("secret", secret=secret), CAPTURED[name].document["result"]

    assert (ours["xmodule"], ours["xclass"]) == (theirs["xmodule"], theirs["xclass"])
    assert "garfield" not in json.dumps(ours)


@pytest.mark.parametrize("method", ["nojson", "nobytes", "noset", "intkeys", "nan"])
def test_a_value_that_is_not_json_is_a_type_error(method: str, caller: OldCaller) -> None:
    """So it was with objects, bytes and sets. Integer keys were made text and nan was written: no more."""
    ours = caller.error(method)
    assert (ours["xmodule"], ours["xclass"]) == ("builtins", "TypeError")


def test_an_exception_with_something_that_is_not_json_keeps_its_class(caller: OldCaller) -> None:
    ours = caller.error("bad_args")
    assert (ours["xmodule"], ours["xclass"]) == ("builtins", "ValueError")
    assert re.fullmatch(r"<wire\.NoJson object at 0x[0-9a-f]+>", ours["xargs"][0])


def test_wrong_arguments_are_a_type_error(caller: OldCaller) -> None:
    assert caller.error("echo")["xclass"] == CAPTURED["error-arguments"].document["result"]["xclass"]
    assert caller.error("who", classname="Named")["xclass"] == "TypeError"


@pytest.mark.parametrize(
    ("more", "value"),
    [
        ({"kws": {"b": 5, "c": 6}}, [1, 5, 6]),
        ({"kwargs": {"b": 5, "c": 6}}, [1, 5, 6]),
        ({"kws": {"b": 5}, "kwargs": {"c": 6}}, [1, 5, 6]),
        ({"kws": None}, [1, 2, 3]),
        ({"unknown": {"kwargs": {"b": 0}}}, [1, 2, 3]),
    ],
)
def test_keywords_reach_the_method_whichever_field_they_came_in(
    more: dict[str, Any], value: list[int], caller: OldCaller
) -> None:
    assert caller.end("both", 1, **more)["result"] == {"retval": value}


def test_no_serial_number_is_needed(caller: OldCaller) -> None:
    replies = caller.request("echo", "x", sn=None)
    assert [reply.get("status") for reply in replies] == ["accepted", "started", None]
    assert {reply["sn"] for reply in replies} == {None}
    assert without_ours(replies[-1]) == keys("result-nosn")


def test_no_more_is_needed_than_2_12_needs(caller: OldCaller) -> None:
    sn = str(uuid.uuid4())
    document = {"sn": sn, "version": "2.0", "routing": [None, QUEUE], "replyto": REPLIES, "unknown": [1]}
    request = {"classname": "Demo", "method": "echo", "args": ["x"], "unknown": 1}
    assert caller.call({**document, "request": request}, sn)[-1]["result"] == {"retval": "x"}


def test_replies_go_through_an_exchange_too(caller: OldCaller) -> None:
    replies = caller.request("echo", "x", replyto=f"amq.direct/{REPLIES}")
    assert {tuple(reply["routing"]) for reply in replies} == {(None, f"amq.direct/{REPLIES}")}
    assert without_ours(replies[-1]) == keys("result-replyto-exchange")
