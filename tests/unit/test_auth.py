"""Signing and verifying: what is sent is signed or not sent, and what is believed is signed or not believed."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from gofer.errors import DocumentError
from gofer.messaging.auth import Authenticator, ValidationFailed, fault_of, sign, verify
from hypothesis import given
from hypothesis import strategies as st
from support.captured import HexAuthenticator

BODY = '{"sn": "a", "data": "grüße"}'.encode()


class Answering(Authenticator):
    """Signs and validates with what it was given: a value to return, or an exception to raise."""

    def __init__(self, signs: Any = "s", validates: Any = None) -> None:
        self.signs, self.validates = signs, validates
        self.asked: list[tuple[Any, str, Any]] = []

    def sign(self, digest: str) -> Any:
        return self._answer(self.signs)

    def validate(self, document: Any, digest: str, signature: Any) -> Any:
        self.asked.append((document, digest, signature))
        return self._answer(self.validates)

    def _answer(self, what: Any) -> Any:
        if isinstance(what, BaseException):
            raise what
        return what


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]))
    )
)
def test_what_was_signed_is_believed_as_it_was(document: dict[str, str]) -> None:
    body = json.dumps(document, ensure_ascii=False).encode()
    signed = sign(body, HexAuthenticator())

    assert set(json.loads(signed)) == {"message", "signature"}
    assert verify(signed, HexAuthenticator()) == (body, None)
    assert verify(signed, None) == (body, None)
    assert verify(body, None) == (body, None)


@given(st.data())
def test_one_changed_byte_is_not_believed(data: st.DataObject) -> None:
    signed = bytearray(sign(BODY, HexAuthenticator()))
    at = data.draw(st.integers(0, len(signed) - 1))
    signed[at] ^= data.draw(st.integers(1, 255))
    believed = None
    try:
        believed, _ = verify(bytes(signed), HexAuthenticator())
    except DocumentError:
        pass  # as it should be
    assert believed in (None, BODY)  # a change between the fields, or in what pads the base64, changes nothing


def test_the_authenticator_is_given_the_document_its_digest_and_the_signature() -> None:
    authenticator = Answering(signs=b"\x00\xffraw", validates="me")
    signed = sign(BODY, authenticator)

    assert json.loads(signed)["signature"] == base64.b64encode(b"\x00\xffraw").decode()
    assert verify(signed, authenticator) == (BODY, "me")
    assert authenticator.asked == [({"sn": "a", "data": "grüße"}, hashlib.sha256(BODY).hexdigest(), b"\x00\xffraw")]


@pytest.mark.parametrize("signs", ["abc", b"abc", "grüße", "grüße".encode()])
def test_a_signature_of_text_or_of_its_bytes_is_given_as_text(signs: str | bytes) -> None:
    authenticator = Answering(signs=signs)
    verify(sign(BODY, authenticator), authenticator)
    assert authenticator.asked[0][2] == (signs if isinstance(signs, str) else signs.decode())


class Careless(ValidationFailed):
    def __init__(self, code: int) -> None:
        self.code = code


def test_the_document_has_its_fields_as_attributes_too() -> None:
    authenticator = Answering()
    verify(sign(b'{"sn":"a","data":{"task":7}}', authenticator), authenticator)
    document = authenticator.asked[0][0]
    assert (document.sn, document["sn"], document.data.task, document.nothing) == ("a", "a", 7, None)


@pytest.mark.parametrize("raised", [KeyError("x"), ValidationFailed("no"), Careless(7)])
def test_a_mistake_of_the_authenticator_is_told_apart_from_a_wrong_signature(raised: Exception) -> None:
    with pytest.raises(DocumentError) as caught:
        verify(sign(BODY, Answering()), Answering(validates=raised))
    assert fault_of(caught.value) is (None if isinstance(raised, ValidationFailed) else raised)


def test_what_is_not_signed_is_no_mistake_of_the_authenticator() -> None:
    with pytest.raises(DocumentError) as caught:
        verify(BODY, Answering())
    assert fault_of(caught.value) is None


def test_a_failed_validation_keeps_the_document_that_it_is_about() -> None:
    failed = ValidationFailed("no", {"sn": "a"})
    assert (failed.details, failed.document, str(failed)) == ("no", {"sn": "a"}, "no")


@pytest.mark.parametrize("identity", [None, True, 5, b"me", {"user": "me"}])
def test_only_text_names_somebody(identity: object) -> None:
    authenticator = Answering(validates=identity)
    assert verify(sign(BODY, authenticator), authenticator)[1] is None


@pytest.mark.parametrize("bad", [OSError("no key"), ValueError(), 5, None, ["s"]])
def test_what_cannot_be_signed_is_not_sent(bad: Any) -> None:
    with pytest.raises(type(bad) if isinstance(bad, Exception) else TypeError):
        sign(BODY, Answering(signs=bad))


@pytest.mark.parametrize(
    ("raised", "details"),
    [
        (ValidationFailed("signature not matched"), "signature not matched"),
        (ValidationFailed(), "not valid"),
        (ValidationFailed(""), "not valid"),
        (ValidationFailed(details=5), "5"),
        (ValidationFailed("signature not matched", {"sn": "a"}), "signature not matched"),
        (ValidationFailed("signature not matched", document="secret"), "signature not matched"),
        (Careless(7), "7"),
        (KeyError("x"), "authenticator failed: KeyError"),
        (RecursionError(), "authenticator failed: RecursionError"),
    ],
)
def test_whatever_an_authenticator_raises_it_fails_closed(raised: Exception, details: str) -> None:
    with pytest.raises(DocumentError) as caught:
        verify(sign(BODY, Answering()), Answering(validates=raised))
    assert (caught.value.code, caught.value.details) == ("security.authentication", details)
    assert caught.value.description == "SECURITY: message authentication failed"


@pytest.mark.parametrize(
    ("body", "details"),
    [
        (BODY, "not signed"),
        (b"", "not signed"),
        (b'{"message": "{}"}', "not signed"),
        (b'{"message": {}, "signature": "AA=="}', "not signed"),
        (b'{"message": "\\ud800", "signature": "AA=="}', "not signed"),
        (b'{"message": "{}", "signature": "***"}', "signature is not base64"),
        (b'{"message": "{}", "signature": "A"}', "signature is not base64"),
        ('{"message": "{}", "signature": "é"}'.encode(), "signature is not base64"),
    ],
)
def test_what_is_not_signed_never_reaches_the_authenticator(body: bytes, details: str) -> None:
    authenticator = Answering(validates="me")
    with pytest.raises(DocumentError, match=details) as caught:
        verify(body, authenticator)
    assert caught.value.code == "security.authentication"
    assert not authenticator.asked
