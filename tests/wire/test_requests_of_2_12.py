"""Requests of gofer 2.12 are read as their callers meant them."""

from __future__ import annotations

from typing import Any

import pytest
from gofer.duration import parse_duration
from gofer.errors import DocumentError
from gofer.messaging.address import Address
from gofer.messaging.auth import sign, verify
from gofer.messaging.document import decode_request, head, unwrap
from support.captured import CAPTURED, Captured, HexAuthenticator, captured

QUEUE = "wire-cap"
#: What a captured caller called: class, method, arguments, keywords, constructor's arguments, and all else.
Meant = tuple[str, str, list[Any], dict[str, Any], tuple[list[Any], dict[str, Any]] | None, dict[str, Any]]
MEANT: dict[str, Meant] = {
    "request-address-exchange": ("Demo", "echo", [1], {}, ([], {}), {"to": f"amq.direct/{QUEUE}"}),
    "request-admin-cancel-criteria": ("Admin", "cancel", [], {"criteria": {"match": {"group": "a"}}}, ([], {}), {}),
    "request-admin-cancel-sn": (
        "Admin", "cancel", [], {"sn": "d2a4ae3c-8be6-43a1-a0d5-5a0fbd5f7b5e"}, ([], {}), {},
    ),
    "request-admin-help": ("Admin", "help", [], {}, ([], {}), {}),
    "request-args": ("Demo", "echo", ["hello", 2, [3, {"k": None}]], {}, ([], {}), {"waits": True}),
    "request-constructor": ("Named", "who", [], {}, (["roger"], {"age": 7}), {"waits": True}),
    "request-data": ("Demo", "echo", [1], {}, ([], {}), {"waits": True, "data": {"group": "a", "n": 1}}),
    "request-data-text": ("Demo", "echo", [1], {}, ([], {}), {"waits": True, "data": "group-a"}),
    "request-exchange": ("Demo", "echo", [1], {}, ([], {}), {"waits": True, "exchange": "amq.direct"}),
    "request-keywords": ("Demo", "both", [1], {"b": 5, "c": {"x": True}}, ([], {}), {"waits": True}),
    "request-module": ("wire", "mecho", [1], {}, None, {"waits": True}),
    "request-noargs": ("Demo", "none", [], {}, ([], {}), {"waits": True}),
    "request-nostubcall": ("Demo", "none", [], {}, None, {"waits": True}),
    "request-nowait": ("Demo", "echo", [1], {}, ([], {}), {}),
    "request-pam-option": ("Demo", "pam", [], {}, ([], {}), {}),
    "request-reply": ("Demo", "echo", [1], {}, ([], {}), {"replyto": "wire-async-reply"}),
    "request-reply-exchange": ("Demo", "echo", [1], {}, ([], {}), {"replyto": "amq.direct/wire-async-reply"}),
    "request-secret": ("Demo", "secret", [], {}, ([], {}), {"secret": "garfield"}),
    "request-signed": ("Demo", "echo", [1], {}, ([], {}), {}),
    "request-trigger": ("Demo", "echo", [1], {}, ([], {}), {}),
    "request-ttl": ("Demo", "echo", [1], {}, ([], {}), {"ttl": 5}),
    "request-ttl-suffix": ("Demo", "echo", [1], {}, ([], {}), {"ttl": "2m"}),
    "request-unicode": ("Demo", "echo", ["h\u00e9llo \u20ac \U0001f600"], {}, ([], {}), {}),
    "request-user": ("Demo", "pam", [], {}, ([], {}), {"pam": {"user": "gofer", "password": "redhat"}}),
    "request-user-nopassword": ("Demo", "pam", [], {}, ([], {}), {"pam": {"user": "gofer", "password": None}}),
}  # fmt: skip


def test_every_captured_request_is_described_here() -> None:
    assert [message.name for message in captured("request-")] == sorted(MEANT)
    assert {message.sender for message in captured("request-")} == {"caller"}


@pytest.mark.parametrize("message", captured("request-"), ids=str)
def test_a_request_is_read_as_it_was_meant(message: Captured) -> None:
    classname, method, args, keywords, cntr, more = MEANT[message.name]
    body, signer = verify(message.body, None)  # an agent without an authenticator takes signatures off
    request = decode_request(body)

    assert signer is None
    assert (request.request.classname, request.request.method) == (classname, method)
    assert (request.request.args, request.request.keywords, request.request.cntr) == (args, keywords, cntr)
    assert request.routing == [None, more.get("to", QUEUE)]
    assert str(Address.parse(request.routing[1])) == message.address
    assert (request.data, request.secret, request.pam) == (more.get("data"), more.get("secret"), more.get("pam"))
    assert message.ttl == (parse_duration(more["ttl"]) if "ttl" in more else None)
    assert (request.wait, request.timeout, request.again) == (None, None, False)
    assert request.sn == message.document["sn"]
    assert head(body) == (request.sn, request.replyto)
    if more.get("waits"):
        assert request.replyto is not None
        assert Address.parse(request.replyto).exchange == more.get("exchange", "")
    else:
        assert request.replyto == more.get("replyto")


def test_a_signed_request_is_believed_by_who_signs_the_same_way() -> None:
    message, authenticator = CAPTURED["request-signed"], HexAuthenticator()

    inner, _ = verify(message.body, authenticator)
    assert decode_request(inner).request.method == "echo"
    assert unwrap(sign(message.inner, authenticator)) == unwrap(message.body)


@pytest.mark.parametrize("message", captured("request-"), ids=str)
def test_what_was_tampered_with_is_not_believed(message: Captured) -> None:
    text = message.inner.decode()
    signed = HexAuthenticator().wrap(text)
    assert verify(signed, HexAuthenticator()) == (message.inner, None)

    sn = message.document["sn"]
    other_text = signed.replace(sn.encode(), sn[::-1].encode())
    other_signature = signed.replace(b'"signature": "', b'"signature": "AAAA')
    for bad in (other_text, other_signature):
        assert bad != signed
        with pytest.raises(DocumentError, match="signature not matched") as caught:
            verify(bad, HexAuthenticator())
        assert caught.value.code == "security.authentication"
    with pytest.raises(DocumentError, match="not signed"):
        verify(message.inner, HexAuthenticator())
    with pytest.raises(DocumentError, match="not base64"):
        verify(signed.replace(b'"signature": "', b'"signature": "***'), HexAuthenticator())


@pytest.mark.parametrize(("version", "found"), [("1.0", "1.0"), (None, "None"), ("", "''"), ("2.0\n", "'2.0\\n'")])
def test_another_version_is_refused_in_the_words_of_2_12(version: str | None, found: str) -> None:
    body = CAPTURED["request-args"].body.replace(
        b'"version": "2.0"', b'"version": ' + (b"null" if version is None else repr(version).replace("'", '"').encode())
    )
    with pytest.raises(DocumentError) as caught:
        decode_request(body)
    assert (caught.value.code, caught.value.description) == ("model.version", "MODEL: document version not matched")
    assert caught.value.details == f"expected:2.0, found:{found}"


def test_no_more_is_needed_than_2_12_needs() -> None:
    """A null counts as nothing, and what is unknown is ignored at both levels."""
    minimal = b'{"sn": "a-1", "version": "2.0", "routing": [null, "q"], "replyto": "r", "request": '
    bare = decode_request(minimal + b'{"classname": "Demo", "method": "echo", "args": ["x"]}}')
    assert (bare.request.args, bare.request.keywords, bare.request.cntr) == (["x"], {}, None)

    nulls = b'{"classname": "D", "method": "m", "args": null, "kws": null, "kwargs": null, "cntr": null, "more": [1]}, '
    nothing = decode_request(minimal + nulls + b'"unknown": {"x": 1}}')
    assert (nothing.request.args, nothing.request.keywords, nothing.request.cntr) == (None, {}, None)


def test_keywords_are_read_from_either_field() -> None:
    def keywords(fields: bytes) -> dict[str, Any]:
        head = b'{"version": "2.0", "request": {"classname": "Demo", "method": "both", '
        return decode_request(head + fields + b"}}").request.keywords

    assert keywords(b'"kws": {"b": 5, "c": 6}') == {"b": 5, "c": 6}
    assert keywords(b'"kwargs": {"b": 5, "c": 6}') == {"b": 5, "c": 6}
    assert keywords(b'"kws": {"b": 5, "c": 0}, "kwargs": {"c": 6}') == {"b": 5, "c": 6}
    assert keywords(b'"kws": {}, "kwargs": {"c": 6}') == {"c": 6}
