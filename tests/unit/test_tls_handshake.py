"""Peers that fall silent or hang up at every step of the TLS handshake: it ends in time and says how far they got."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gofer.errors import AdapterError, ConnectionLost
from gofer.messaging.connector import Connector
from gofer.messaging.handshake import Progress
from gofer.messaging.transport import open_socket
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
        open_socket(connector(port), WAIT).close()
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
            open_socket(connector(port), WAIT)
        told.add(str(caught.value).partition("handshake, ")[2].replace(str(port), "N"))
    steps_told = " | ".join(sorted(told))
    assert "before it answered the greeting" in steps_told
    assert "in the middle of its ServerHello" in steps_told
    if context.maximum_version is ssl.TLSVersion.TLSv1_3:
        assert "in the middle of what it encrypts" in steps_told
    else:
        for step in ("in the middle of its certificate", "in the middle of its key exchange", "its last message"):
            assert step in steps_told


@pytest.mark.parametrize("sent", [0, 3, 20, 200])
def test_a_peer_that_falls_silent_is_given_up_in_time(
    context: ssl.SSLContext, connector: Callable[..., Connector], sent: int
) -> None:
    with peer(context, Answers(sent)) as port:
        start = time.monotonic()
        with pytest.raises(ConnectionLost, match=r"no answer within 0\.3 s: the TLS handshake stopped") as caught:
            open_socket(connector(port), 0.3)
        assert 0.25 < time.monotonic() - start < WAIT / 2
    text = str(caught.value)
    if sent == 0:
        assert f"before it answered the greeting (ClientHello). Does port {port} speak TLS?" in text
    elif sent < 100:
        assert "in the middle of its first answer (ServerHello)" in text or "in the middle of its ServerHello" in text
    else:
        assert "certificate" in text


def test_a_peer_that_does_not_finish_is_told_apart(
    certificates: Certificates, connector: Callable[..., Connector]
) -> None:
    context = server_context(certificates.server, certificates.server_key, version=ssl.TLSVersion.TLSv1_2)
    whole: list[int] = []
    with peer(context, Answers(), whole) as port:
        open_socket(connector(port), WAIT).close()
    for answers, said in (
        (Answers(flights=1), "after our key exchange (and client certificate, if it asked for one): it did not finish"),
        (Answers(whole[-1] - 8), "in the middle of its last message (Finished)"),
    ):
        with peer(context, answers) as port, pytest.raises(ConnectionLost) as caught:
            open_socket(connector(port), 0.5)
        assert f"handshake stopped {said}" in str(caught.value)


def test_the_time_is_shared_among_several_hosts_that_are_silent(
    certificates: Certificates, connector: Callable[..., Connector]
) -> None:
    context = server_context(certificates.server, certificates.server_key)
    with peer(context, Answers(0)) as silent, peer(context, Answers(30)) as slow, peer(context, Answers()) as good:
        with open_socket(connector(silent, slow, good), 1.5) as sock:
            assert sock.getpeername()[1] == good
        with pytest.raises(ConnectionLost) as caught:
            open_socket(connector(silent, slow), 0.6)
    assert f":{silent}: no answer" in str(caught.value)
    assert f":{slow}: no answer" in str(caught.value)


def test_a_host_with_a_bad_certificate_does_not_keep_from_the_next_one(
    certificates: Certificates, connector: Callable[..., Connector]
) -> None:
    ended = certificates.broker("ended", "127.0.0.1", days=(-9, -1))
    bad, good = server_context(*ended), server_context(certificates.server, certificates.server_key)
    with peer(bad, Answers()) as first, peer(good, Answers()) as second:
        for tried in range(3):
            with open_socket(connector(first, second), WAIT, tried) as sock:
                assert sock.getpeername()[1] == second
        with pytest.raises(AdapterError, match=f"127.0.0.1:{first}: .*expired.*; 127.0.0.1:{first}: .*expired"):
            open_socket(connector(first, first), WAIT)


class TestProgress:
    """The steps, from bytes that were captured from no peer."""

    @staticmethod
    def record(kind: int, body: bytes) -> bytes:
        return bytes([kind, 3, 3]) + len(body).to_bytes(2) + body

    @staticmethod
    def message(kind: int, body: bytes = b"x" * 40) -> bytes:
        return bytes([kind]) + len(body).to_bytes(3) + body

    @pytest.mark.parametrize(
        ("kinds", "said"),
        [
            ([2], "after its ServerHello"),
            ([2, 11], "after its certificate"),
            ([2, 11, 12], "after its key exchange"),
            ([2, 11, 12, 13], "after its request for a client certificate"),
            ([2, 11, 12, 14], "it did not finish"),
            ([99], "after its message 99"),
        ],
    )
    def test_messages_in_one_record_and_in_many(self, kinds: list[int], said: str) -> None:
        every = b"".join(self.message(kind) for kind in kinds)
        for records in (
            [self.record(22, every)],
            [self.record(22, self.message(kind)) for kind in kinds],
            [self.record(22, every[:7]), self.record(22, every[7:])],
        ):
            progress = Progress()
            for byte in b"".join(records):
                progress.feed(bytes([byte]))
            assert said in progress.step(5671)
            assert progress.foreign is None

    def test_what_is_cut_is_named(self) -> None:
        progress = Progress()
        progress.feed(self.record(22, self.message(2) + self.message(11))[:-3])
        assert progress.step(5671) == "in the middle of its certificate"

    def test_what_is_encrypted_is_told_as_that(self) -> None:
        progress = Progress()
        progress.feed(self.record(22, self.message(2)) + self.record(20, b"\1") + self.record(23, b"e" * 80))
        assert "within what it encrypts" in progress.step(5671)
        progress.feed(self.record(23, b"e" * 80)[:50])
        assert "in the middle of what it encrypts" in progress.step(5671)

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (b"AMQP\x00\x00\x09\x01", "plain AMQP"),
            (b"HTTP/1.1 400 Bad Request", "HTTP"),
            (b"220 mail ESMTP", "it answers b'220 mail'"),
            (b"\x16\x99", "it answers"),
        ],
    )
    def test_what_is_no_tls_is_named(self, data: bytes, said: str) -> None:
        progress = Progress()
        progress.feed(data)
        assert said in str(progress.foreign)

    def test_any_bytes_have_a_step(self) -> None:
        for seed in range(2000):
            progress = Progress()
            progress.feed(bytes((seed * 7919 + n * n * 31) % 256 for n in range(seed % 90)))
            assert progress.step(5671)
