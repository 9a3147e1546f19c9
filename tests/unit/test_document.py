"""Documents: what is read, and that whatever else comes is a DocumentError and nothing else."""

from __future__ import annotations

import calendar
import json
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from gofer.errors import DocumentError
from gofer.messaging.auth import verify
from gofer.messaging.document import (
    Head,
    Signed,
    decode_reply,
    decode_request,
    encode,
    head,
    shown,
    timestamp,
    unwrap,
)
from gofer.rmi.client.call import Call
from gofer.rmi.client.notices import read_reply
from hypothesis import example, given
from hypothesis import strategies as st
from support.captured import HexAuthenticator
from support.mangled import FIELDS, JUNK, VALUES, mangled, swapped
from support.pure_calls import new_call

CALL = b'"sn": "a-1", "replyto": "r", "version": "2.0", "request": {"classname": "A", "method": "b"}'


def call(more: bytes | str = b"") -> bytes:
    return b"{" + CALL + (b", " if more else b"") + (more.encode() if isinstance(more, str) else more) + b"}"


# -- anything at all ---------------------------------------------------------------------------------------------

T = TypeVar("T")


def read(how: Callable[[bytes], T], body: bytes, *codes: str) -> T | None:
    """Read a body; None if that is a DocumentError with one of the codes, a sentence, and a text that can be logged."""
    try:
        return how(body)
    except DocumentError as bad:
        told = bad
    assert told.code in codes
    assert told.description
    assert str(told).encode("utf-8", "backslashreplace")
    return None


def read_by_everything(body: bytes) -> None:
    """Read a body in all the ways there are."""
    request = read(decode_request, body, "model.invalid", "model.version")
    if request is not None:
        assert request.version == "2.0"
        assert isinstance(request.sn, str | None)
        assert isinstance(request.request.keywords, dict)
    read(decode_reply, body, "model.invalid")
    received = read(read_reply, body, "model.invalid")
    if received is not None:
        call = new_call("a-1")
        call.feed(received.notice)
        raised = error_of(call) if call.end else None
        assert raised is None or (isinstance(raised.args, tuple) and repr(raised))
        assert str(call.timeout("open"))
    assert all(isinstance(text, str | None) for text in head(body))
    assert isinstance(unwrap(body), Signed | None)
    for authenticator in (None, HexAuthenticator()):
        verified = read(lambda body, by=authenticator: verify(body, by), body, "security.authentication")  # type: ignore[misc]  # a lambda's default has no type
        assert verified is None or isinstance(verified[0], bytes)


def error_of(ended: Call) -> Exception | None:
    try:
        ended.outcome()
    except Exception as raised:  # noqa: BLE001 - a reply may name any class
        return raised
    return None


@pytest.mark.parametrize("body", JUNK, ids=lambda body: repr(body[:20]))
def test_junk_is_a_document_error(body: bytes) -> None:
    read_by_everything(body)
    with pytest.raises(DocumentError, match="MODEL: document not valid"):
        decode_request(body)


@given(st.binary(max_size=200))
def test_bytes_are_a_document_or_a_document_error(body: bytes) -> None:
    read_by_everything(body)


@given(mangled())
def test_mangled_documents_are_documents_or_document_errors(body: bytes) -> None:
    read_by_everything(body)


@given(swapped())
@example(call('"unknown": ' + "9" * 5000 + ', "y": "' + "[" * 200 + '"'))
@example(call(b'"unknown": "\xff", "y": "' + b"[" * 200 + b'"'))
@example(call(b'"unknown": "\\q", "y": "' + b"[" * 200 + b'"'))
def test_wrong_kinds_are_documents_or_document_errors(body: bytes) -> None:
    read_by_everything(body)


@pytest.mark.parametrize("name", FIELDS)
def test_any_kind_in_any_field(name: str) -> None:
    for value in VALUES:
        call_ = f'{{"classname": "A", "method": "b", "{name}": {value}}}'
        read_by_everything(call(f'"{name}": {value}'))
        read_by_everything(f'{{"version": "2.0", "request": {call_}}}'.encode())
        read_by_everything(f'{{"sn": "a-1", "result": {{"exval": "t", "{name}": {value}}}}}'.encode())


# -- what is wrong is told ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "details"),
    [
        (b"not json", "JSON is malformed"),
        (b"[]", "got `array`"),
        (b'{"version": "2.0"}', "missing required field `request`"),
        (b'{"version": "2.0", "request": 5}', r"Expected `object`, got `int` - at `\$.request`"),
        (b'{"version": "2.0", "request": {"method": "b"}}', "missing required field `classname`"),
        (b'{"version": "2.0", "request": {"classname": "A"}}', "missing required field `method`"),
        (call('"sn": 7'), r"got `int` - at `\$.sn`"),
        (call('"sn": ""'), "sn is not a serial number: ''"),
        (call('"sn": "../../etc/passwd"'), r"sn is not a serial number: '\.\./\.\./etc/passwd'"),
        (call('"sn": "a\\n"'), r"sn is not a serial number: 'a\\n'"),
        (call('"sn": "' + "a" * 129 + '"'), "sn is not a serial number"),
        (call('"replyto": 7'), r"got `int` - at `\$.replyto`"),
        (call('"routing": "q"'), r"at `\$.routing`"),
        (call('"wait": "90"'), r"at `\$.wait`"),
        (call('"wait": -1'), "wait is not a number of seconds, 0 or more: -1"),
        (call('"wait": NaN'), "wait is not a number of seconds, 0 or more: nan"),
        (call('"timeout": 1e999'), "timeout is not a number of seconds, 0 or more: inf"),
        (call('"data": ' + "[" * 150 + "]" * 150), "nested deeper than 100"),
        (call('"unknown": ' + "[" * 150 + "]" * 150), "nested deeper than 100"),
        (call('"data": ' + "9" * 5000), "out of range"),
        (call().decode().encode("utf-16"), "JSON is malformed"),
        (call().decode().encode("utf-16-le"), "JSON is malformed"),
        (b"\xef\xbb\xbf" + call(), "JSON is malformed"),
        (call() + b"\0", "JSON is malformed"),
        (call() + call(), "JSON is malformed"),
    ],
)
def test_what_does_not_fit_is_reported_by_its_place(body: bytes, details: str) -> None:
    with pytest.raises(DocumentError, match=details) as caught:
        decode_request(body)
    assert (caught.value.code, caught.value.description) == ("model.invalid", "MODEL: document not valid")
    assert len(str(caught.value)) < 400


def test_another_version_is_no_wrong_shape() -> None:
    for version, found in (('"1.0"', "1.0"), ('"<b>"', "'<b>'"), ("null", "None")):
        with pytest.raises(DocumentError) as caught:
            decode_request(call(f'"version": {version}'))
        assert (caught.value.code, caught.value.details) == ("model.version", f"expected:2.0, found:{found}")


def test_what_only_the_encoder_of_2_12_writes_is_read() -> None:
    assert decode_request(call('"data": "\\ud800"')).data == "\ud800"
    assert decode_request(call('"data": [Infinity]')).data == [float("inf")]
    assert decode_request(call('"secret": NaN, "data": {"\\udfff": 1}')).data == {"\udfff": 1}


def test_of_a_field_given_twice_the_last_counts_whoever_reads() -> None:
    """Two readers that differ would let one document mean two things."""
    body = call('"data": 1, "data": 2, "sn": "z", "request": {"classname": "C", "method": "m", "method": "n"}')
    request, plainly = decode_request(body), json.loads(body)

    assert (request.data, request.sn, request.request.method) == (2, "z", "n")
    assert (plainly["data"], plainly["sn"], plainly["request"]["method"]) == (2, "z", "n")
    assert head(body).sn == "z"


# -- heads and wrappers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (call(), Head("a-1", "r")),
        (b'{"sn": "a-1"}', Head("a-1", None)),
        (b'{"sn": 5, "replyto": "r"}', Head(None, "r")),
        (b'{"sn": "a/b", "replyto": ["r"]}', Head(None, None)),
        (b'{"sn": "a-1", "replyto": ""}', Head("a-1", None)),
        (b'{"sn": "a-1", "replyto": "r", "request": 5, "data": NaN}', Head("a-1", "r")),
        (b'{"sn": "a-1", "replyto": "r", "request": {"args": [' + b"9" * 5000 + b"]}}", Head("a-1", "r")),
        (b'{"sn": "a-1", "replyto": "r", "data": NaN, "x": ' + b"9" * 5000 + b"}", Head("a-1", "r")),
        (b'{"sn": "a-1", "replyto": "r", "data": ' + b"[" * 150 + b"]" * 150 + b"}", Head("a-1", "r")),
        (b"[]", Head(None, None)),
        (b"nope", Head(None, None)),
        (b"", Head(None, None)),
        (b"[" * 100_000, Head(None, None)),
    ],
    ids=lambda value: repr(value[:30]) if isinstance(value, bytes) else "",
)
def test_a_head_is_what_a_rejection_can_be_sent_with(body: bytes, found: Head) -> None:
    assert head(body) == found


def test_only_an_object_of_a_message_and_a_signature_is_signed() -> None:
    signed = unwrap(b'{"message": "{}", "signature": "AA==", "more": 1}')
    assert signed is not None
    assert (signed.message, signed.signature) == ("{}", "AA==")
    for body in (
        call(),
        call('"data": {"message": "x", "signature": "y"}'),
        b'{"message": "{}"}',
        b'{"message": 1, "signature": "x"}',
        b'{"message": "{}", "signature": null}',
        b'["message", "signature"]',
        b'{"message": "{}", "signature": "x"',
    ):
        assert unwrap(body) is None


# -- writing -----------------------------------------------------------------------------------------------------


def test_documents_are_json_in_utf_8() -> None:
    body = encode({"data": {"grüße": ["\U0001f415", None, 2**70, -0.0]}})
    assert json.loads(body) == {"data": {"grüße": ["\U0001f415", None, 2**70, -0.0]}}
    assert "grüße".encode() in body


def test_the_time_is_utc_in_whole_seconds() -> None:
    before = int(time.time())
    text = timestamp()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text)
    made = time.strptime(text + " UTC", "%Y-%m-%dT%H:%M:%SZ %Z")
    assert before <= calendar.timegm(made) <= time.time()


@given(st.text() | st.integers() | st.lists(st.text()))
@example("x" * 10_000)
@example("\n" * 1000)
def test_what_is_shown_of_the_wire_is_short_and_on_one_line(value: Any) -> None:
    text = shown(value, 50)
    assert len(text) <= 50
    if isinstance(value, str):
        assert "\n" not in text
        if len(repr(value)) <= 50:
            assert text == repr(value)
