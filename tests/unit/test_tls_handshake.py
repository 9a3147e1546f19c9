"""Peers that fall silent or hang up at every step of the TLS handshake: it ends in time and says how far they got."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gofer.errors import AdapterError, ConnectionLost
from gofer.messaging.connector import Connector
from gofer.messaging.transport import open_wire
from gofer.messaging.url import URL
from support.certificates import Certificates
from support.tls_peer import Answers, peer, server_context

pytestmark = pytest.mark.xdist_group("net")

WAIT = 20.0
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def connector(certificates: Certificates) -> Callable[..., Connector]:
    def make(*ports: int, **options: Any) -> Connector:
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return Connector(URL.parse(f"amqps://{hosts}"), cacert=str(certificates.authority), **options)

    return make


@pytest.fixture(params=VERSIONS, ids=["tls1.2", "tls1.3"])
def context(request: pytest.FixtureRequest, certificates: Certificates) -> ssl.SSLContext:
    return server_context(certificates.server, certificates.server_key, version=request.param)


@pytest.fixture
def size(context: ssl.SSLContext, connector: Callable[..., Connector]) -> int:
    """How many bytes a client waits for in a handshake. In TLS 1.3 it is done after the server's first flight."""
    seen: list[int] = []
    with peer(context, Answers(), seen) as port:
        open_wire(connector(port), WAIT).close()
    return seen[0 if context.maximum_version is ssl.TLSVersion.TLSv1_3 else -1]


def steps(size: int) -> Iterator[int]:
    """All of the first bytes, which are headers, and then some of each part."""
    yield from range(12)
    yield from range(12, size - 8, 61)
    yield size - 8  # signatures are not always of the same length


def test_a_peer_that_hangs_up_is_lost_wherever_it_does(
    context: ssl.SSLContext, size: int, connector: Callable[..., Connector]
) -> None:
    told = set()
    for sent in steps(size):
        with (
            peer(context, Answers(sent, hang_up=True)) as port,
            pytest.raises(ConnectionLost, match=f"127.0.0.1:{port}.*in the TLS handshake") as caught,
        ):
            open_wire(connector(port), WAIT)
        told.add(str(caught.value).partition("handshake, ")[2].replace(str(port), "N"))
    assert len(told) == 2
    assert "in the middle of its answer" in told
    assert any(step.startswith("before it answered the greeting") for step in told)


@pytest.mark.parametrize("sent", [0, 3, 20, 200])
def test_a_peer_that_falls_silent_is_given_up_in_time(
    context: ssl.SSLContext, connector: Callable[..., Connector], sent: int
) -> None:
    with peer(context, Answers(sent)) as port:
        start = time.monotonic()
        with pytest.raises(ConnectionLost, match=r"no answer within 0\.3 s: the TLS handshake stopped") as caught:
            open_wire(connector(port), 0.3)
        assert 0.25 < time.monotonic() - start < WAIT / 2
    text = str(caught.value)
    if sent == 0:
        assert f"before it answered the greeting (ClientHello). Does port {port} speak TLS?" in text
    else:
        assert text.endswith("the TLS handshake stopped in the middle of its answer")


def test_a_peer_that_does_not_finish_is_given_up_in_time(
    certificates: Certificates, connector: Callable[..., Connector]
) -> None:
    context = server_context(certificates.server, certificates.server_key, version=ssl.TLSVersion.TLSv1_2)
    whole: list[int] = []
    with peer(context, Answers(), whole) as port:
        open_wire(connector(port), WAIT).close()
    for answers in (Answers(flights=1), Answers(whole[-1] - 8)):
        with (
            peer(context, answers) as port,
            pytest.raises(ConnectionLost, match="handshake stopped in the middle of its answer"),
        ):
            open_wire(connector(port), 0.5)


def test_the_time_is_shared_among_several_hosts_that_are_silent(
    certificates: Certificates, connector: Callable[..., Connector]
) -> None:
    context = server_context(certificates.server, certificates.server_key)
    with peer(context, Answers(0)) as silent, peer(context, Answers(30)) as slow, peer(context, Answers()) as good:
        with open_wire(connector(silent, slow, good), 1.5) as sock:
            assert sock.sock.getpeername()[1] == good
        with pytest.raises(ConnectionLost) as caught:
            open_wire(connector(silent, slow), 0.6)
    assert f":{silent}: no answer" in str(caught.value)
    assert f":{slow}: no answer" in str(caught.value)


def test_a_host_with_a_bad_certificate_does_not_keep_from_the_next_one(
    certificates: Certificates, connector: Callable[..., Connector]
) -> None:
    ended = certificates.broker("ended", "127.0.0.1", days=(-9, -1))
    bad, good = server_context(*ended), server_context(certificates.server, certificates.server_key)
    with peer(bad, Answers()) as first, peer(good, Answers()) as second:
        for tried in range(3):
            with open_wire(connector(first, second), WAIT, tried) as sock:
                assert sock.sock.getpeername()[1] == second
        with pytest.raises(AdapterError, match=f"127.0.0.1:{first}: .*expired.*; 127.0.0.1:{first}: .*expired"):
            open_wire(connector(first, first), WAIT)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"AMQP\x00\x00\x09\x01", "it answers with plain AMQP"),
        (b"HTTP/1.1 400 Bad Request", "it answers with HTTP"),
        (b"220 mail ESMTP", "it answers b'220 mail'"),
        (b"\x16\x99 and so on", "it answers b'\\x16\\x99 and "),
    ],
)
def test_a_peer_that_speaks_something_else_is_reported_by_it(
    connector: Callable[..., Connector], data: bytes, said: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as sock:
                sock.sendall(data)
                sock.settimeout(WAIT)
                while sock.recv(4096):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        port = listener.getsockname()[1]
        with pytest.raises(AdapterError) as caught:
            open_wire(connector(port), WAIT)
        thread.join(WAIT)
    assert f"the peer speaks no TLS on port {port}: {said}" in str(caught.value)
