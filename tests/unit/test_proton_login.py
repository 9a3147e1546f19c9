"""The login of the proton adapter, as bytes: which mechanism it takes, and what it does not put up with."""

from __future__ import annotations

import pytest
from gofer.messaging.connector import Connector
from gofer.messaging.endings import BrokerClosed, LoginRefused, ProtocolError
from gofer.messaging.url import URL
from gofer_adapter_proton.login import Login

_HEADER = b"AMQP\x03\x01\x00\x00"


def frame(code: int, fields: bytes, count: int) -> bytes:
    """Encode a frame of a login."""
    body = bytes((0x00, 0x53, code, 0xC0, len(fields) + 1, count)) + fields
    return (8 + len(body)).to_bytes(4) + b"\x02\x01\x00\x00" + body


def mechanisms(*names: str) -> bytes:
    """Encode the broker's offer; one alone need not be an array."""
    if len(names) == 1:
        return frame(0x40, bytes((0xA3, len(names[0]))) + names[0].encode(), 1)
    items = b"".join(bytes((len(name),)) + name.encode() for name in names)
    return frame(0x40, bytes((0xE0, len(items) + 2, len(names), 0xA3)) + items, 1)


def outcome(code: int) -> bytes:
    """Encode the broker's decision."""
    return frame(0x44, bytes((0x50, code)), 1)


def take(login: Login) -> bytes:
    """Return what is to be sent, once."""
    output = bytes(login.output)
    login.output.clear()
    return output


def start(url: str, *offered: str, piece: int = 1000, clientcert: str | None = None) -> Login:
    """Begin a login, and hand in the broker's offer in pieces."""
    login, data = Login(Connector(URL.parse(url), clientcert=clientcert), bytearray()), _HEADER + mechanisms(*offered)
    login.begin()
    assert take(login) == _HEADER
    for at in range(0, len(data), piece):
        assert login.receive(data[at : at + piece]) == b""
    return login


@pytest.mark.parametrize("piece", [1, 3, 1000])
@pytest.mark.parametrize(
    ("url", "offered", "cert", "chosen"),
    [
        ("amqp://me:secret@h", ("ANONYMOUS", "PLAIN", "EXTERNAL"), None, b"PLAIN"),
        ("amqp://me:secret@h", ("ANONYMOUS", "PLAIN", "EXTERNAL"), "c.pem", b"PLAIN"),
        ("amqp://h", ("PLAIN", "EXTERNAL"), "c.pem", b"EXTERNAL"),
        ("amqp://h", ("PLAIN", "ANONYMOUS", "EXTERNAL"), None, b"ANONYMOUS"),
        ("amqp://h", ("PLAIN",), None, b"PLAIN"),
    ],
)
def test_the_mechanism_is_as_the_url_says(
    url: str, offered: tuple[str, ...], cert: str | None, chosen: bytes, piece: int
) -> None:
    login = start(url, *offered, piece=piece, clientcert=cert)
    sent = take(login)
    assert b"\xa3" + bytes((len(chosen),)) + chosen in sent
    assert (b"\0me\0secret" in sent) == ("secret" in url)
    assert login.receive(outcome(0) + b"AMQP\x00\x01\x00\x00rest") == b"AMQP\x00\x01\x00\x00rest"
    assert login.done


@pytest.mark.parametrize("offered", [("ANONYMOUS",), ("EXTERNAL", "ANONYMOUS"), ("SCRAM-SHA-256",)])
def test_with_a_user_nothing_but_plain_will_do(offered: tuple[str, ...]) -> None:
    with pytest.raises(LoginRefused, match="PLAIN is needed") as caught:
        start("amqp://me:secret@h", *offered)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("code", "final"), [(1, True), (2, True), (3, True), (4, False)])
def test_a_refusal_is_final_unless_the_broker_says_later(code: int, final: bool) -> None:
    login = start("amqp://me:secret@h", "PLAIN")
    with pytest.raises(LoginRefused if final else BrokerClosed):
        login.receive(outcome(code))


def test_a_challenge_is_answered() -> None:
    login = start("amqp://h", "EXTERNAL", "PLAIN", clientcert="c.pem")
    take(login)
    assert login.receive(frame(0x42, b"\xa0\x00", 1)) == b""
    assert take(login)[8:11] == b"\x00\x53\x43"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400",
        b"AMQP\x00\x00\x09\x01",
        _HEADER + b"\xff" * 40,
        _HEADER + bytes(40),
        _HEADER + frame(0x40, b"", 0),
        _HEADER + frame(0x99, b"\xa3\x01x", 1),
        _HEADER + b"\x00\x00\x00\x10\x02\x01\x00\x00garbage!",
    ],
)
@pytest.mark.parametrize("piece", [1, 1000])
def test_what_is_no_login_of_amqp_1_0_is_reported(data: bytes, piece: int) -> None:
    login = Login(Connector(URL.parse("amqp://me:secret@h")), bytearray())

    def receive() -> None:
        for at in range(0, len(data), piece):
            login.receive(data[at : at + piece])

    with pytest.raises(ProtocolError):
        receive()
