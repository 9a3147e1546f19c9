"""Addresses: a queue, or an exchange and a key."""

from __future__ import annotations

import pytest
from gofer.errors import ConfigError
from gofer.messaging.address import Address
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("queue", Address("", "queue")),
        ("amq.direct/queue", Address("amq.direct", "queue")),
        ("exchange/a/b", Address("exchange", "a/b")),
        ("/queue", Address("", "queue")),
        ("/a/b", Address("", "a/b")),
        ("grün/welt \U0001f415", Address("grün", "welt \U0001f415")),
        ("x" * 255, Address("", "x" * 255)),
        ("ü" * 127, Address("", "ü" * 127)),
    ],
)
def test_an_address_is_read(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "names no queue"),
        ("exchange/", "names no queue"),
        ("/", "names no queue"),
        ("x" * 256, "longer than 255 bytes"),
        ("ü" * 128, "longer than 255 bytes"),
        ("x" * 256 + "/q", "longer than 255 bytes"),
        ("a\nb", "control characters"),
        ("a\0/b", "control characters"),
        ("a\ud800", "control characters"),
        (None, "an address is text"),
        (5, "an address is text"),
        (Address("", "q"), "an address is text"),
    ],
)
def test_what_is_no_address_is_refused(value: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        Address.parse(value)
    assert len(str(caught.value)) < 500


@given(st.text())
def test_any_text_is_an_address_or_a_config_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except ConfigError:
        return
    assert Address.parse(str(address)) == address
    assert address.key
