"""Why a connection ended, in words: the same for each adapter, and never raw bytes for a wrong port."""

from __future__ import annotations

import importlib

import pytest
from gofer.errors import AdapterError, ConnectionLost
from gofer.messaging.adapter import Adapter, Closed
from gofer.messaging.connector import Connector
from gofer.messaging.endings import BrokerClosed, LoginRefused, NoVirtualHost, ProtocolError, ending
from gofer.messaging.url import URL

_ADAPTERS = {
    "amqp": ("AmqpAdapter", "AMQP 0-9-1"),
    "proton": ("ProtonAdapter", "AMQP 1.0"),
    "qpid": ("QpidAdapter", "AMQP 0-10"),
}
_GREETINGS = {
    b"HTTP/1.1 400 Bad Request\r\n\r\n": "an HTTP server answers there",
    b"SSH-2.0-OpenSSH_9.2\r\n": "an SSH server answers there",
    b"\x15\x03\x01\x00\x02\x02\x0a\x15\x03\x01\x00\x02\x01\x00": "a server that wants TLS answers there",
    b"AMQP\x00\x01\x00\x00": "a broker that speaks AMQP 1.0 without a login answers there",
    b"+OK POP3 ready\r\n": "something else answers there, which begins with",
    b"\xff\x00\xfe\x01binary\x00\x00": "something else answers there, which begins with ff 00 fe 01 62",
}


def told(adapter: Adapter, data: bytes) -> str:
    """Return the words of the error that an adapter ends with when it reads these bytes."""
    adapter.begin(1.0)
    adapter.receive(data, 1.0)
    (closed,) = adapter.events()
    assert isinstance(closed, Closed)
    assert isinstance(closed.error, AdapterError)
    return str(closed.error)


@pytest.mark.parametrize("name", _ADAPTERS)
@pytest.mark.parametrize(("data", "words"), _GREETINGS.items())
def test_a_wrong_port_is_answered_by_who_is_there(name: str, data: bytes, words: str) -> None:
    cls, protocol = _ADAPTERS[name]
    adapter = getattr(importlib.import_module(f"gofer_adapter_{name}"), cls)
    error = told(adapter(Connector(URL.parse(f"{name}+amqp://me:secret@h:99"))), data)
    assert error.startswith(f"h:99: not {protocol}: {words}")
    assert "\\x" not in error


@pytest.mark.parametrize(
    ("name", "data", "other"),
    [
        ("amqp", b"AMQP\x03\x01\x00\x00", "1.0"),
        ("proton", b"AMQP\x00\x00\x09\x01", "0-9-1"),
        ("qpid", b"AMQP\x00\x00\x09\x01", "0-9-1"),
    ],
)
def test_a_broker_of_another_protocol_names_that(name: str, data: bytes, other: str) -> None:
    adapter = getattr(importlib.import_module(f"gofer_adapter_{name}"), _ADAPTERS[name][0])
    assert f"a broker that speaks AMQP {other} answers there" in told(adapter(Connector(URL.parse("amqp://h"))), data)


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (LoginRefused("no"), AdapterError, "login refused for user 'me': no"),
        (NoVirtualHost("none"), AdapterError, "virtual host 'here': none"),
        (BrokerClosed("enough"), ConnectionLost, "closed by the broker: enough"),
        (ConnectionLost("cut"), ConnectionLost, "cut"),
    ],
)
def test_an_end_says_where_until_it_was_open(error: Exception, kind: type[Exception], words: str, opened: bool) -> None:
    found = ending(Connector(URL.parse("amqp://me:secret@a/here")), "AMQP 7", opened, error)
    assert type(found) is kind
    if opened and isinstance(error, LoginRefused):  # RabbitMQ 3 means the virtual host, over AMQP 1.0
        words = words.replace(":", " at virtual host 'here':")
    assert str(found) == ("" if opened else "a:5672: ") + words


def test_wrong_bytes_are_final_only_before_it_was_open() -> None:
    connector = Connector(URL.parse("amqp://a"))
    for error, words in ((ProtocolError("odd"), "odd"), (KeyError("x"), "KeyError: 'x'")):
        before, after = (ending(connector, "AMQP 7", opened, error) for opened in (False, True))
        assert (type(before), str(before)) == (AdapterError, f"a:5672: not AMQP 7: {words}")
        assert (type(after), str(after)) == (ConnectionLost, f"protocol error: {words}")


def test_a_certificate_is_named_where_it_was_the_login() -> None:
    found = ending(Connector(URL.parse("amqps://a"), clientcert="/c.pem"), "AMQP 7", False, LoginRefused("no"))
    assert str(found) == "a:5671: login refused for the certificate /c.pem: no"
