"""Opening sockets: what comes back, what is verified, and which error says what."""

from __future__ import annotations

import itertools
import os
import random
import select
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import AdapterError, ConnectionLost
from gofer.messaging.connector import Connector
from gofer.messaging.transport import open_wire
from gofer.messaging.url import URL
from gofer.messaging.wire import Wire
from support.certificates import Certificates
from support.ports import full, listening

pytestmark = pytest.mark.xdist_group("net")  # one process makes what the module shares

WAIT = 20.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def connector(port: int, host: str = "127.0.0.1", scheme: str = "amqp", **options: Any) -> Connector:
    shown = f"[{host}]" if ":" in host else host
    return Connector(URL.parse(f"{scheme}://someone:hush-hush@{shown}:{port}"), **options)


Resolver = Callable[..., None]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """A function that says which addresses names have; no machine can be counted on to have one with several."""
    resolve = socket.getaddrinfo

    def answer(*addresses: tuple[str, int]) -> None:
        def look_up(host: str, port: int, **options: Any) -> Any:
            if options.get("flags"):
                return resolve(host, port, **options)  # a number is no name
            return [found for address in addresses for found in resolve(*address, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return answer


@contextmanager
def served(serve: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Iterator[int]:
    """Serve one connection in a thread; what goes wrong with the peer there is the peer's to tell."""
    with listening(host) as (listener, port):
        listener.settimeout(WAIT)

        def run() -> None:
            try:
                sock, _ = listener.accept()
            except OSError:
                return  # the test ended without connecting
            with sock:
                sock.settimeout(WAIT)
                try:
                    serve(sock)
                except OSError:
                    pass  # a handshake that the client refused

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield port
        finally:
            listener.close()
            thread.join(WAIT)


@contextmanager
def tls(
    certificate: Path,
    key: Path,
    *,
    clients: Path | None = None,
    seen: list[object] | None = None,
    old: bool = False,
    host: str = "127.0.0.1",
) -> Iterator[int]:
    """Serve TLS: greet, note the client's certificate in ``seen``. ``old``: nothing later than TLS 1.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    if old:
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.maximum_version = ssl.TLSVersion.TLSv1_1

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secure:
            if seen is not None:
                seen.append(secure.getpeercert())
            secure.sendall(b"hello")
            secure.recv(1)

    with served(serve, host) as port:
        yield port


def greeting(wire: Wire) -> bytes:
    while not (data := wire.read()):
        assert select.select([wire], [], [], WAIT)[0], "no greeting came"
    return data


class TestTcp:
    def test_the_socket_does_not_block_nor_delay_and_is_kept_alive(self) -> None:
        with listening() as (_, port), open_wire(connector(port), WAIT) as wire:
            sock = wire.sock
            assert not sock.getblocking()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert not sock.get_inheritable()

    def test_an_ipv6_address_is_used(self) -> None:
        with listening("::1") as (_, port), open_wire(connector(port, "::1"), WAIT) as sock:
            assert sock.sock.family == socket.AF_INET6

    def test_every_address_of_a_name_is_tried(self, resolver: Resolver) -> None:
        with listening() as (_, refusing):
            pass
        with full() as silent, listening("::1") as (_, port):
            resolver(("::1", refusing), ("127.0.0.1", silent), ("::1", port))
            with open_wire(connector(1, "many.example"), 1.5) as sock:
                assert sock.sock.getpeername()[:2] == ("::1", port)

    def test_each_try_begins_at_another_address(self, resolver: Resolver) -> None:
        """One that takes connections and then says nothing is not the first of all tries."""
        with listening() as (_, one), listening("::1") as (_, two):
            resolver(("127.0.0.1", one), ("::1", two))
            ports = []
            for tried in range(4):
                with open_wire(connector(1, "many.example"), WAIT, tried) as wire:
                    ports.append(wire.sock.getpeername()[1])
            assert ports == [one, two, one, two]

    def test_each_address_of_each_host_is_the_first_of_some_try(self, resolver: Resolver) -> None:
        with listening() as (_, one), listening("::1") as (_, two), listening() as (_, three):
            resolver(("127.0.0.1", one), ("::1", two))
            url = URL.parse(f"amqp://many.example:1,127.0.0.1:{three}")
            ports = []
            for tried in range(4):
                with open_wire(Connector(url), WAIT, tried) as wire:
                    ports.append(wire.sock.getpeername()[1])
            assert ports == [one, three, two, three]

    def test_the_reasons_of_all_addresses_are_reported(self, resolver: Resolver) -> None:
        with listening() as (_, refusing):
            pass
        with full() as silent:
            resolver(("127.0.0.1", refusing), ("127.0.0.1", silent))
            with pytest.raises(ConnectionLost, match=r"refused.*no answer"):
                open_wire(connector(1, "many.example"), 0.4)

    def test_a_resolver_that_does_not_answer_is_given_up_in_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answer, resolve = threading.Event(), socket.getaddrinfo

        def slow(host: str, port: int, **options: Any) -> Any:
            if not options.get("flags"):
                answer.wait(WAIT)
            return resolve(host, port, **options)

        monkeypatch.setattr(socket, "getaddrinfo", slow)
        start = time.monotonic()
        with pytest.raises(ConnectionLost, match=r"slow\.example:5.* in time"):
            open_wire(connector(5, "slow.example"), 0.3)
        assert time.monotonic() - start < WAIT / 2
        answer.set()

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
    def test_a_refused_connection_is_lost_at_once_and_says_where(self, host: str) -> None:
        with listening(host) as (_, port):
            pass
        start = time.monotonic()
        with pytest.raises(ConnectionLost) as caught:
            open_wire(connector(port, host), WAIT)
        assert time.monotonic() - start < WAIT / 2
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        assert where in str(caught.value)
        assert "refused" in str(caught.value)
        assert "hush" not in repr(caught.value)

    def test_a_name_that_does_not_exist_is_lost(self) -> None:
        with pytest.raises(ConnectionLost, match=r"no-such-host\.invalid:5"):
            open_wire(connector(5, "no-such-host.invalid"), WAIT)

    @pytest.mark.parametrize("host", ["x" * 70, "a..b"])
    def test_a_name_that_cannot_exist_is_lost(self, host: str) -> None:
        with pytest.raises(ConnectionLost, match=host):
            open_wire(connector(5, host), WAIT)

    def test_a_peer_that_takes_no_connection_is_given_up_in_time(self) -> None:
        with full() as port:
            start = time.monotonic()
            with pytest.raises(ConnectionLost, match=r"no answer within 0\.4 s"):
                open_wire(connector(port), 0.4)
            assert 0.3 < time.monotonic() - start < WAIT / 2


class TestTls:
    def test_a_broker_that_the_authority_signed_is_trusted(self, certificates: Certificates) -> None:
        for host in ("localhost", "127.0.0.1"):
            with tls(certificates.server, certificates.server_key) as port:
                wanted = connector(port, host, "amqps", cacert=str(certificates.authority))
                with open_wire(wanted, WAIT) as sock:
                    assert not sock.sock.getblocking()
                    assert greeting(sock) == b"hello"

    @pytest.mark.parametrize("host_validation", [True, False])
    def test_a_broker_that_another_authority_signed_is_not(
        self, certificates: Certificates, host_validation: bool
    ) -> None:
        with tls(certificates.server, certificates.server_key) as port:
            wanted = connector(
                port,
                "localhost",
                "amqps",
                cacert=str(certificates.other_authority),
                host_validation=host_validation,
            )
            with pytest.raises(AdapterError, match="does not verify"):
                open_wire(wanted, WAIT)

    def test_the_systems_authorities_do_not_know_ours(self, certificates: Certificates) -> None:
        with (
            tls(certificates.server, certificates.server_key) as port,
            pytest.raises(AdapterError, match="does not verify"),
        ):
            open_wire(connector(port, "localhost", "amqps"), WAIT)

    def test_a_certificate_for_another_host_counts_only_without_host_validation(
        self, certificates: Certificates
    ) -> None:
        trusted = {"cacert": str(certificates.authority)}
        with (
            tls(certificates.elsewhere, certificates.elsewhere_key) as port,
            pytest.raises(AdapterError, match=r"does not verify.*localhost"),
        ):
            open_wire(connector(port, "localhost", "amqps", **trusted), WAIT)
        with tls(certificates.elsewhere, certificates.elsewhere_key) as port:
            wanted = connector(port, "localhost", "ssl", host_validation=False, **trusted)
            with open_wire(wanted, WAIT) as sock:
                assert greeting(sock) == b"hello"

    @pytest.mark.parametrize("together", [True, False])
    def test_a_client_certificate_is_shown(self, certificates: Certificates, together: bool) -> None:
        if together:
            files = {"clientcert": str(certificates.client_both)}
        else:
            files = {"clientcert": str(certificates.client), "clientkey": str(certificates.client_key)}
        seen: list[Any] = []
        with tls(certificates.server, certificates.server_key, clients=certificates.authority, seen=seen) as port:
            wanted = connector(port, "localhost", "amqps", cacert=str(certificates.authority), **files)
            with open_wire(wanted, WAIT) as sock:
                assert greeting(sock) == b"hello"
        assert seen[0]["subject"] == ((("commonName", certificates.client_name),),)

    def test_nothing_older_than_tls_1_2_is_spoken(self, certificates: Certificates) -> None:
        with (
            tls(certificates.server, certificates.server_key, old=True) as port,
            pytest.raises(AdapterError, match="TLS handshake failed"),
        ):
            open_wire(connector(port, "localhost", "amqps", cacert=str(certificates.authority)), WAIT)

    def test_a_peer_that_speaks_no_tls_gets_an_error(self) -> None:
        with (
            served(lambda sock: sock.sendall(b"AMQP\x00\x00\x09\x01")) as port,
            pytest.raises(
                AdapterError, match=f"localhost:{port}: the peer speaks no TLS .*: it answers with plain AMQP. Use "
            ),
        ):
            open_wire(connector(port, "localhost", "amqps"), WAIT)

    def test_a_peer_that_hangs_up_is_lost(self) -> None:
        with (
            served(lambda sock: sock.recv(1) and None) as port,  # type: ignore[arg-type] # bytes or None
            pytest.raises(ConnectionLost, match=f"127.0.0.1:{port}"),
        ):
            open_wire(connector(port, scheme="amqps"), WAIT)

    def test_an_address_that_says_nothing_to_the_handshake_leaves_time_for_the_next(
        self, resolver: Resolver, certificates: Certificates
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server, certificates.server_key)

        def serve(sock: socket.socket) -> None:
            threading.Event().wait(0.2)  # a far one
            with context.wrap_socket(sock, server_side=True) as secure:
                secure.sendall(b"hello")
                secure.recv(1)

        with listening() as (_, silent), served(serve) as port:
            resolver(("127.0.0.1", silent), ("127.0.0.1", port))
            at = connector(1, "localhost", "amqps", cacert=str(certificates.authority))
            with open_wire(at, 2.0) as wire:
                assert greeting(wire) == b"hello"

    def test_a_handshake_that_does_not_end_is_given_up_in_time(self) -> None:
        with listening() as (_, port):
            start = time.monotonic()
            with pytest.raises(ConnectionLost, match=r"no answer within 0\.4 s"):
                open_wire(connector(port, scheme="amqps"), 0.4)
            assert 0.3 < time.monotonic() - start < WAIT / 2


class TestNames:
    """Which hosts a certificate is for."""

    @pytest.mark.parametrize(
        ("names", "host"),
        [
            (("localhost",), "localhost"),
            (("LocalHost",), "localhost"),
            (("localhost",), "LOCALHOST"),
            (("localhost",), "localhost."),
            (("127.0.0.1",), "127.0.0.1"),
            (("other.example", "127.0.0.1"), "127.0.0.1"),
            (("::1",), "::1"),
            (("[::1]",), "0:0:0:0:0:0:0:1"),
            (("*.broker.example",), "one.broker.example"),
            (("bücher.example",), "bücher.example"),
            (("xn--bcher-kva.example",), "bücher.example"),
        ],
    )
    def test_it_is_for_this_one(
        self, certificates: Certificates, resolver: Resolver, names: tuple[str, ...], host: str
    ) -> None:
        files = certificates.broker(f"for-{abs(hash((names, host)))}", *names)
        where = "::1" if ":" in host else "127.0.0.1"
        with tls(*files, host=where) as port:
            if not host[-1].isdigit():
                resolver((where, port))
            with open_wire(connector(port, host, "amqps", cacert=str(certificates.authority)), WAIT) as sock:
                assert greeting(sock) == b"hello"

    @pytest.mark.parametrize(
        ("names", "host", "kind"),
        [
            (("other.example",), "localhost", "DNS:localhost"),
            (("localhost",), "127.0.0.1", "IP:127.0.0.1"),  # a name is no address
            (("127.0.0.1",), "localhost", "DNS:localhost"),  # nor the reverse
            (("127.0.0.2",), "127.0.0.1", "IP:127.0.0.1"),
            (("*.broker.example",), "broker.example", "DNS:broker.example"),
            (("*.broker.example",), "one.two.broker.example", "DNS:one.two.broker.example"),
            (("localhost",), "::1", "IP:::1"),
        ],
    )
    def test_it_is_for_others(
        self, certificates: Certificates, resolver: Resolver, names: tuple[str, ...], host: str, kind: str
    ) -> None:
        files = certificates.broker(f"for-{abs(hash((names, host)))}", *names)
        where = "::1" if ":" in host else "127.0.0.1"
        trusted = {"cacert": str(certificates.authority)}
        with tls(*files, host=where) as port:
            if not host[-1].isdigit():
                resolver((where, port))
            with pytest.raises(AdapterError, match="does not verify") as caught:
                open_wire(connector(port, host, "amqps", **trusted), WAIT)
        assert f"have it issued for {kind} (subjectAltName)" in str(caught.value)
        assert "host_validation = 0" in str(caught.value)
        with tls(*files, host=where) as port:
            if not host[-1].isdigit():
                resolver((where, port))
            with open_wire(connector(port, host, "amqps", host_validation=False, **trusted), WAIT) as sock:
                assert greeting(sock) == b"hello"


class TestTimes:
    @pytest.mark.parametrize("host_validation", [True, False])
    @pytest.mark.parametrize(
        ("days", "said"), [((-9, -1), "has expired. Renew it"), ((2, 9), "not yet valid. This machine's clock says 20")]
    )
    def test_a_certificate_counts_in_its_time_only(
        self, certificates: Certificates, host_validation: bool, days: tuple[int, int], said: str
    ) -> None:
        files = certificates.broker(f"time-{days[0]}-{host_validation}", "localhost", days=days)
        trusted = {"cacert": str(certificates.authority), "host_validation": host_validation}
        with tls(*files) as port, pytest.raises(AdapterError, match="does not verify") as caught:
            open_wire(connector(port, "localhost", "amqps", **trusted), WAIT)
        assert said in str(caught.value)
        assert f"localhost:{port}" in str(caught.value)


class TestTransfers:
    """What is sent over TLS comes whole, whatever the sockets take at a time."""

    def test_much_both_ways_at_once_through_narrow_sockets(self, certificates: Certificates) -> None:
        size = 3_000_000
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server, certificates.server_key)
        data = random.Random(7).randbytes(size)
        heard = bytearray()

        def serve(sock: socket.socket) -> None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            with context.wrap_socket(sock, server_side=True) as secure:
                while len(heard) < size:
                    piece = secure.recv(30_000)
                    heard.extend(piece)
                    secure.sendall(piece)
                secure.recv(1)

        with served(serve) as port:
            wire = open_wire(connector(port, "localhost", "amqps", cacert=str(certificates.authority)), WAIT)
            back, pieces, position = bytearray(), itertools.cycle([1, 100, 70_000, 16_384, 16_385]), 0
            deadline = time.monotonic() + WAIT
            while len(back) < size:
                assert time.monotonic() < deadline
                if position < size and len(wire.buffer) < 500_000:
                    piece = data[position : position + next(pieces)]
                    wire.write(piece)
                    position += len(piece)
                    continue
                poll = select.poll()
                poll.register(wire.fileno(), select.POLLIN | (select.POLLOUT if wire.buffer else 0))
                poll.poll(1000)
                wire.write()
                back += wire.read()
            assert not wire.buffer
            assert not wire.read()
            wire.close()
        assert bytes(back) == data == bytes(heard)

    def test_the_end_of_the_connection_is_reported_after_what_came_before(self, certificates: Certificates) -> None:
        with tls(certificates.server, certificates.server_key) as port:
            wire = open_wire(connector(port, "localhost", "amqps", cacert=str(certificates.authority)), WAIT)
            came = bytearray()
            wire.write(b"x")  # the peer hangs up on that
            while len(came) < 5:
                came += wire.read()
                assert came or select.select([wire], [], [], WAIT)[0]
            assert bytes(came) == b"hello"
            assert select.select([wire], [], [], WAIT)[0]
            with pytest.raises(OSError, match="closed by the peer"):
                wire.read()
            wire.close()


class TestFiles:
    """A file that is wrong is named, before anything is sent."""

    def refused(self, **options: str) -> str:
        with listening() as (listener, port):
            with pytest.raises(AdapterError) as caught:
                open_wire(connector(port, scheme="amqps", **options), WAIT)
            listener.settimeout(0)
            with pytest.raises(BlockingIOError):
                listener.accept()
        return str(caught.value)

    @pytest.mark.parametrize("option", ["cacert", "clientcert", "clientkey"])
    @pytest.mark.parametrize("kind", ["missing", "directory", "binary", "empty"])
    def test_a_file_that_is_none(self, certificates: Certificates, tmp_path: Path, option: str, kind: str) -> None:
        path = tmp_path / "file.pem"
        if kind == "directory":
            path.mkdir()
        elif kind != "missing":
            path.write_bytes(b"\x00\xff" * 100 if kind == "binary" else b"")
        options = {option: str(path)}
        if option == "clientkey":
            options["clientcert"] = str(certificates.client)
        text = self.refused(**options)
        assert str(path) in text
        assert option in text

    def test_a_key_of_another_certificate(self, certificates: Certificates) -> None:
        _, key = certificates.user("somebody")
        text = self.refused(clientcert=str(certificates.client), clientkey=str(key))
        assert f"the key in clientkey {key} is not that of the certificate in clientcert {certificates.client}" in text

    def test_a_certificate_without_its_key(self, certificates: Certificates) -> None:
        assert str(certificates.client) in self.refused(clientcert=str(certificates.client))

    def test_a_key_without_a_certificate(self, certificates: Certificates) -> None:
        assert "without a clientcert" in self.refused(clientkey=str(certificates.client_key))

    def test_an_encrypted_key_is_refused_without_asking_the_terminal(
        self, certificates: Certificates, tmp_path: Path
    ) -> None:
        encrypted = tmp_path / "encrypted.key"
        subprocess.run(
            ["openssl", "pkcs8", "-topk8", "-in", certificates.client_key, "-out", encrypted, "-passout", "pass:x"],
            check=True,
        )
        text = self.refused(clientcert=str(certificates.client), clientkey=str(encrypted))
        assert f"the key in clientkey {encrypted} is encrypted" in text
        assert f"openssl pkey -in {encrypted} -out NEW" in text

    @pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o602])
    def test_a_key_that_others_can_read_or_change(self, certificates: Certificates, mode: int) -> None:
        _, key = certificates.user(f"open-{mode:o}")
        key.chmod(mode)
        text = self.refused(clientcert=str(certificates.client), clientkey=str(key))
        assert f"clientkey {key} has a private key: mode {mode:04o} lets " in text
        assert f"chmod 600 {key}" in text

    @pytest.mark.parametrize("option", ["cacert", "clientcert"])
    @pytest.mark.parametrize("mode", [0o664, 0o646])
    def test_a_certificate_that_others_can_change(self, certificates: Certificates, option: str, mode: int) -> None:
        certificate, key = certificates.user(f"changed-{option}-{mode:o}")
        certificate.chmod(mode)
        options = {option: str(certificate)} | ({"clientkey": str(key)} if option == "clientcert" else {})
        assert f"{option} {certificate}: mode {mode:04o} lets " in self.refused(**options)

    def test_one_file_for_both_is_as_secret_as_the_key(self, certificates: Certificates, tmp_path: Path) -> None:
        both = tmp_path / "both.pem"
        both.write_bytes(certificates.client_both.read_bytes())
        both.chmod(0o644)
        assert f"chmod 600 {both}" in self.refused(clientcert=str(both))

    def test_a_fifo_does_not_hold_it_up(self, tmp_path: Path) -> None:
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        assert f"cacert {fifo} is no regular file" in self.refused(cacert=str(fifo))
