"""Replies of gofer 2.12 end a call as its own caller would have ended, but for what is better here on purpose."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from gofer import errors
from gofer.errors import DocumentError, Rejected, RemoteException
from gofer.messaging.auth import verify
from gofer.messaging.document import Reply, decode_reply
from gofer.rmi.client.call import Call
from gofer.rmi.client.notices import read_reply
from support.captured import CAPTURED, Captured, HexAuthenticator, captured
from support.pure_calls import new_call

VALUES: dict[str, Any] = {
    "result-admin-cancel-again": [],
    "result-admin-cancel-criteria": ["3fd96dc8-9a69-434c-a8a8-4c6f087f6b59"],
    "result-admin-cancel-nothing": [],
    "result-admin-cancel-running": ["65c48744-60e0-4460-91a8-08744b96926d"],
    "result-admin-echo": "x",
    "result-admin-hello": "Hello, I am gofer agent",
    "result-cancelled-forked": None,
    "result-cancelled-running": "cancelled",
    "result-constructor": ["roger", 7],
    "result-dict": {"a": {"c": None, "d": [1.5, True]}, "b": 1},
    "result-forked": "x",
    "result-forked-killed": None,
    "result-intkeys": {"1": "a", "2": [1, 2]},
    "result-kwargs": [1, 5, 6],
    "result-kws": [1, 2, 3],
    "result-kws-and-kwargs": [1, 2, 6],
    "result-layered": "ok",
    "result-list": [1, "two", [3]],
    "result-minimal": "x",
    "result-module": 1,
    "result-none": None,
    "result-nosn": "x",
    "result-replayed": "replayed",
    "result-replyto-exchange": "x",
    "result-secret": "ok",
    "result-signed-bad-noauth": "x",
    "result-signed-noauth": "x",
    "result-text": "hello",
    "result-unicode": "h\u00e9llo \u20ac \U0001f600",
    "result-unknown-field": 1,
    "signed-result": "hello",
}

NOT_JSON = "Object of type '{}' is not JSON serializable"
#: The class that the caller catches, and its arguments.
EXCEPTIONS: dict[str, tuple[type[Exception], tuple[Any, ...]]] = {
    "error-admin-cancel-notfound": (
        Exception, ("serial number (d2a4ae3c-8be6-43a1-a0d5-5a0fbd5f7b5e), not-found",),
    ),
    "error-args-nojson": (TypeError, (NOT_JSON.format("NoJson"),)),
    "error-arguments": (TypeError, ("echo() missing 1 required positional argument: 'thing'",)),
    "error-builtin": (ValueError, ("bad", 3)),
    "error-constructor": (TypeError, ("__init__() missing 1 required positional argument: 'name'",)),
    "error-forked": (ValueError, ("bad", 3)),
    "error-layered": (errors.UserRequired, ("Demo.layered(), user (name) required",)),
    "error-member": (errors.MemberNotFound, ("nope",)),
    "error-member-hidden": (errors.MemberNotFound, ("hidden",)),
    "error-member-module": (errors.MemberNotFound, ("nope",)),
    "error-namespace": (errors.NamespaceNotFound, ('"Nope" not provided by plugin.',)),
    "error-noclassname": (TypeError, ("sequence item 0: expected str instance, NoneType found",)),
    "error-nomethod": (TypeError, ("sequence item 1: expected str instance, NoneType found",)),
    "error-norouting": (TypeError, ("'NoneType' object is not subscriptable",)),
    "error-notauthenticated": (errors.NotAuthenticated, ('Demo.pam(), user "gofer" not authenticated',)),
    "error-password-required": (errors.PasswordRequired, ("Demo.pam(), password required",)),
    "error-return-bytes": (TypeError, (NOT_JSON.format("bytes"),)),
    "error-return-nojson": (TypeError, (NOT_JSON.format("NoJson"),)),
    "error-return-set": (TypeError, (NOT_JSON.format("set"),)),
    "error-admin-cancel-criteria": (errors.InvalidOperator, ("nope not supported",)),
    "error-secret-notmatched": (
        errors.SecretNotMatched, ("Demo.secret(), secret: ('garfield',) not in: wrong",),
    ),
    "error-secret-required": (errors.SecretRequired, ("Demo.secret(), secret required",)),
    "error-state-nojson": (TypeError, (NOT_JSON.format("NoJson"),)),
    "error-user-notauthorized": (errors.UserNotAuthorized, ("Demo.pam(), user must be: gofer, passed: other",)),
    "error-user-required": (errors.UserRequired, ("Demo.pam(), user (name) required",)),
}  # fmt: skip

#: Classes that a caller does not have; what it is told of them.
REMOTE: dict[str, tuple[str, str, list[Any], dict[str, Any]]] = {
    "error-custom": ("wire", "MyError", ["This is"], {"b": 23, "where": {"k": [1, 2]}}),
}

REJECTIONS: dict[str, tuple[str, str, str]] = {
    "rejected-noversion": ("model.version", "MODEL: document version not matched", "expected:2.0, found:None"),
    "rejected-version": ("model.version", "MODEL: document version not matched", "expected:2.0, found:1.0"),
    "signed-rejected-version": ("model.version", "MODEL: document version not matched", "expected:2.0, found:1.0"),
    **{
        f"signed-rejected-{why}": (
            "security.authentication", "SECURITY: message authentication failed", "signature not matched",
        )
        for why in ("notbase64", "signature", "unsigned")
    },
}  # fmt: skip

STATUSES: dict[str, tuple[str, Any]] = {
    "signed-accepted": ("accepted", "d"),
    "signed-started": ("started", "d"),
    "status-accepted": ("accepted", {"group": "a"}),
    "status-started": ("started", {"group": "a"}),
}

#: data, total, completed, details
PROGRESS: dict[str, tuple[Any, int, int, Any]] = {
    "status-progress-details-1": (None, 2, 1, {"n": [1], "name": "a"}),
    "status-progress-details-2": (None, 2, 2, "text"),
    "status-progress-forked": (None, 2, 1, "forked"),
    "status-progress-nodetails-1": ("d", 2, 0, {}),
    "status-progress-nodetails-2": ("d", 2, 1, {}),
}

OTHER = {"result-nan", "result-admin-help"}


def reply_of(message: Captured) -> Reply:
    authenticator = HexAuthenticator() if message.signed else None
    return decode_reply(verify(message.body, authenticator)[0])


def fed(message: Captured, **options: Any) -> Call:
    call = new_call(message.document["sn"], **options)
    authenticator = HexAuthenticator() if message.signed else None
    received = read_reply(message.body)
    if authenticator is not None:
        received.verify(authenticator)
    call.feed(received.notice)
    return call


def test_every_captured_reply_is_described_here() -> None:
    described = {*VALUES, *EXCEPTIONS, *REMOTE, *REJECTIONS, *STATUSES, *PROGRESS, *OTHER}
    replies = captured("error-", "rejected-", "result-", "signed-", "status-")

    assert {message.name for message in replies} == described
    assert {message.sender for message in replies} == {"agent"}
    assert len(replies) + len(captured("request-")) == len(CAPTURED) == 99


@pytest.mark.parametrize("message", captured("error-", "rejected-", "result-", "signed-", "status-"), ids=str)
def test_the_envelope_is_read(message: Captured) -> None:
    reply, document = reply_of(message), message.document

    assert (reply.sn, reply.version, reply.data) == (document["sn"], "2.0", document["data"])
    assert reply.routing == [None, message.address]
    assert reply.timestamp == document.get("timestamp")
    assert message.ttl is None
    if reply.status != "progress":
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", reply.timestamp or "")


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_returned(name: str) -> None:
    call = fed(CAPTURED[name])

    assert call.end
    assert call.outcome() == VALUES[name]


def test_a_nan_is_a_nan() -> None:
    """2.12 writes it, though JSON has no such word. Ours are refused where they are made."""
    assert math.isnan(fed(CAPTURED["result-nan"]).outcome())


def test_the_help_text_is_a_text() -> None:
    assert fed(CAPTURED["result-admin-help"]).outcome().startswith("Plugins:\n\n  <plugin> wire\n")


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_of_a_class_known_here_is_raised_as_itself(name: str) -> None:
    kind, args = EXCEPTIONS[name]
    message = CAPTURED[name]
    trace = message.document["result"]["exval"]
    call = fed(message)

    assert call.end
    with pytest.raises(kind) as caught:
        call.outcome()
    assert type(caught.value) is kind
    assert caught.value.args == args
    assert caught.value.trace == trace  # type: ignore[attr-defined]  # the state that came with it
    assert caught.value.__notes__ == [f"Remote trace of Dog.bark() at 'queue':\n{trace}"]


@pytest.mark.parametrize("name", REMOTE)
def test_an_exception_of_another_class_is_a_remote_exception(name: str) -> None:
    module, kind, args, state = REMOTE[name]
    trace = CAPTURED[name].document["result"]["exval"]

    with pytest.raises(RemoteException) as caught:
        fed(CAPTURED[name]).outcome()
    assert (caught.value.xmodule, caught.value.xclass, caught.value.xargs) == (module, kind, args)
    assert caught.value.xstate == {**state, "trace": trace}
    assert str(caught.value) == trace


@pytest.mark.parametrize("name", REJECTIONS)
def test_a_rejection_is_raised(name: str) -> None:
    message = CAPTURED[name]
    with pytest.raises(Rejected) as caught:
        fed(message).outcome()
    assert (caught.value.code, caught.value.description, caught.value.details) == REJECTIONS[name]
    assert caught.value.sn == message.document["sn"]


@pytest.mark.parametrize("name", STATUSES)
def test_a_status_is_a_state(name: str) -> None:
    status, data = STATUSES[name]
    call = fed(CAPTURED[name])

    assert (call.state, call.end) == (status, None)
    assert reply_of(CAPTURED[name]).data == data
    assert f"it was {status} by the agent" in str(call.timeout("open"))


@pytest.mark.parametrize("name", PROGRESS)
def test_progress_is_a_report(name: str) -> None:
    data, total, completed, details = PROGRESS[name]
    message = CAPTURED[name]
    call = fed(message, progress=print)

    assert call.report == {
        "sn": message.document["sn"],
        "data": data,
        "any": data,
        "total": total,
        "completed": completed,
        "details": details,
    }
    assert (call.state, call.end) == ("progress", None)
    assert f"last progress: {completed} of {total}" in str(call.timeout("open"))


@pytest.mark.parametrize("message", captured("signed-"), ids=str)
def test_a_signed_reply_that_was_tampered_with_is_not_believed(message: Captured) -> None:
    bad = message.body.replace(b"2026", b"2027")
    assert bad != message.body
    with pytest.raises(DocumentError, match="signature not matched"):
        verify(bad, HexAuthenticator())


def test_an_unsigned_reply_is_not_believed_by_a_caller_who_wants_it_signed() -> None:
    with pytest.raises(DocumentError, match="not signed"):
        verify(CAPTURED["result-text"].body, HexAuthenticator())
