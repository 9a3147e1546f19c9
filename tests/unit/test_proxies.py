"""HTTP proxies: which one is asked for a tunnel, and what each of its answers means."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from gofer.errors import AdapterError, ConfigError, ConnectionLost
from gofer.messaging.connector import Connector
from gofer.messaging.proxies import parse_proxy
from gofer.messaging.transport import open_wire
from gofer.messaging.url import URL
from support.certificates import Certificates
from support.relays import ConnectProxy

pytestmark = pytest.mark.xdist_group("net")

WAIT = 20.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@contextmanager
def greeter(context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve a port: each connection is told ``hello``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    sock.settimeout(WAIT)
                    try:
                        if context is not None:
                            sock = context.wrap_socket(sock, server_side=True)
                        sock.sendall(b"hello")
                        sock.recv(1)
                    except OSError:
                        pass  # the client's to tell
                    finally:
                        sock.close()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(WAIT)


@pytest.fixture(autouse=True)
def no_other_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def broker() -> Iterator[int]:
    with greeter() as port:
        yield port


@pytest.fixture
def proxy(broker: int) -> Iterator[ConnectProxy]:
    with ConnectProxy({"broker.example:5672": broker, "[2001:db8::1]:5672": broker}) as proxy:
        yield proxy


def through(proxy: str, hosts: str = "broker.example", scheme: str = "amqp", **options: str | bool) -> Connector:
    return Connector(URL.parse(f"{scheme}://{hosts}"), proxy=proxy, **options)  # type: ignore[arg-type] # any option


def greeting(connector: Connector, timeout: float = WAIT) -> bytes:
    data = b""
    with open_wire(connector, timeout) as wire:
        while not data.endswith(b"o"):
            data += wire.read()
            assert data.endswith(b"o") or select.select([wire], [], [], WAIT)[0]
    return data


class TestAnswers:
    @pytest.mark.parametrize("host", ["broker.example", "[2001:db8::1]"])
    def test_a_tunnel_leads_to_the_broker_by_its_name(self, proxy: ConnectProxy, host: str) -> None:
        assert greeting(through(proxy.url, host)) == b"hello"
        assert proxy.asked == [f"{host}:5672"]

    def test_what_follows_the_answer_at_once_is_the_brokers(self, proxy: ConnectProxy) -> None:
        proxy.says = b"HTTP/1.0 200\r\n\r\nhello"
        assert greeting(through(proxy.url)) == b"hello"

    def test_a_login_is_sent(self, broker: int) -> None:
        with ConnectProxy({"broker.example:5672": broker}, login="some one:h:sh@1") as proxy:
            assert greeting(through(f"http://some%20one:h:sh%401@127.0.0.1:{proxy.port}")) == b"hello"

    @pytest.mark.parametrize("login", ["", "someone@", "someone:hush-hush@"])
    def test_a_login_that_is_refused_is_reported_without_its_password(self, broker: int, login: str) -> None:
        with ConnectProxy({"broker.example:5672": broker}, login="other:secret") as proxy:
            with pytest.raises(AdapterError, match=r"broker\.example:5672.*refuses.*407 Proxy Auth") as caught:
                greeting(through(f"http://{login}127.0.0.1:{proxy.port}"))
            assert str(proxy.port) in str(caught.value)
            assert "hush" not in str(caught.value)

    @pytest.mark.parametrize("status", ["403 Forbidden", "302 Found", "405 Method Not Allowed", ""])
    def test_a_refusal_is_reported_in_the_proxys_words(self, proxy: ConnectProxy, status: str) -> None:
        proxy.says = f"HTTP/1.1 {status}\r\nLocation: /login\r\n\r\n".encode()
        with pytest.raises(AdapterError, match=f"refuses the connection: '{status}'"):
            greeting(through(proxy.url))

    @pytest.mark.parametrize("status", ["500 Oops", "502 Bad Gateway", "503 Service Unavailable", "504 Timeout"])
    def test_a_proxy_that_does_not_reach_the_broker_may_later(self, proxy: ConnectProxy, status: str) -> None:
        proxy.says = f"HTTP/1.1 {status}\r\n\r\n".encode()
        with pytest.raises(ConnectionLost, match=rf"broker\.example:5672 by the proxy 127\.0\.0\.1.*{status}"):
            greeting(through(proxy.url))

    def test_a_host_that_the_proxy_does_not_reach_costs_the_others_nothing(self, proxy: ConnectProxy) -> None:
        assert greeting(through(proxy.url, "nobody.example,broker.example")) == b"hello"
        assert proxy.asked == ["nobody.example:5672", "broker.example:5672"]

    @pytest.mark.parametrize(
        "words",
        [
            b"SSH-2.0-OpenSSH_9.2p1\r\n",
            b"AMQP\x00\x00\x09\x01",
            b"\x15\x03\x01\x00\x02\x02\x46",
            b"http/1.1 200\r\n\r\n",
        ],
    )
    def test_what_is_no_proxy_is_reported_at_once(self, proxy: ConnectProxy, words: bytes) -> None:
        proxy.says, proxy.stays = words, True
        begun = time.monotonic()
        with pytest.raises(AdapterError, match="does not answer like an HTTP proxy"):
            greeting(through(proxy.url))
        assert time.monotonic() - begun < WAIT / 2

    def test_an_answer_without_an_end_is_not_read_for_ever(self, proxy: ConnectProxy) -> None:
        proxy.says = b"HTTP/1.1 200 OK\r\n" + b"X-Filler: x\r\n" * 2000
        with pytest.raises(AdapterError, match="does not answer like an HTTP proxy"):
            greeting(through(proxy.url))

    @pytest.mark.parametrize("words", [b"", b"HTTP/1.1 200 Conn", b"HTTP/1.1 200 OK\r\n"])
    def test_a_proxy_that_hangs_up_is_lost(self, proxy: ConnectProxy, words: bytes) -> None:
        proxy.says = words
        with pytest.raises(ConnectionLost, match=r"closed by the proxy 127\.0\.0\.1"):
            greeting(through(proxy.url))

    @pytest.mark.parametrize("words", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\n\n"])
    def test_a_proxy_that_does_not_answer_is_given_up_in_time(self, proxy: ConnectProxy, words: bytes) -> None:
        proxy.says, proxy.stays = words, True
        self.given_up(proxy, 0.4)

    def test_a_proxy_that_answers_byte_by_byte_is_given_up_in_time(self, proxy: ConnectProxy) -> None:
        """Each byte comes soon, and the end never."""
        proxy.says, proxy.pace = b"HTTP/1.1 200 OK\r\n" + b"X-Filler: x\r\n" * 600, 0.02
        self.given_up(proxy, 0.6)

    @staticmethod
    def given_up(proxy: ConnectProxy, timeout: float) -> None:
        begun = time.monotonic()
        with pytest.raises(ConnectionLost, match=f"no answer within {timeout:g} s"):
            greeting(through(proxy.url), timeout)
        assert time.monotonic() - begun < WAIT / 2

    def test_a_slow_answer_is_waited_for(self, proxy: ConnectProxy) -> None:
        proxy.says, proxy.pace = b"HTTP/1.1 200 OK\r\n\r\nhello", 0.02
        assert greeting(through(proxy.url)) == b"hello"

    def test_a_proxy_that_is_not_there_is_lost_and_named(self, proxy: ConnectProxy) -> None:
        proxy.stop()
        with pytest.raises(
            ConnectionLost, match=rf"broker\.example:5672 by the proxy 127\.0\.0\.1:{proxy.port}: .*refus"
        ):
            greeting(through(proxy.url))

    def test_a_name_of_a_proxy_that_is_none_is_reported(self) -> None:
        with pytest.raises(ConnectionLost, match=r"no-such-proxy\.invalid:3128"):
            greeting(through("http://no-such-proxy.invalid"))


class TestTls:
    """TLS is spoken with the broker, through the tunnel: the proxy sees none of it."""

    @pytest.fixture
    def secure(self, certificates: Certificates) -> Iterator[ConnectProxy]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.elsewhere, certificates.elsewhere_key)
        names = ("elsewhere.example:5671", "other.example:5671", "localhost:5671")
        with greeter(context) as port, ConnectProxy(dict.fromkeys(names, port)) as proxy:
            yield proxy

    def test_the_brokers_name_is_verified_not_the_proxys(
        self, secure: ConnectProxy, certificates: Certificates
    ) -> None:
        trusted = {"scheme": "amqps", "cacert": str(certificates.authority)}
        assert greeting(through(secure.url, "elsewhere.example", **trusted)) == b"hello"
        with pytest.raises(AdapterError, match=r"other\.example:5671.*does not verify"):
            greeting(through(secure.url, "other.example", **trusted))

    def test_a_host_with_a_wrong_certificate_does_not_keep_from_the_next(
        self, secure: ConnectProxy, certificates: Certificates
    ) -> None:
        trusted = {"scheme": "amqps", "cacert": str(certificates.authority)}
        assert greeting(through(secure.url, "other.example,elsewhere.example", **trusted)) == b"hello"
        with pytest.raises(AdapterError, match=r"other\.example.*does not verify.*; nobody\.example.*502"):
            greeting(through(secure.url, "other.example,nobody.example", **trusted))

    def caller(self, certificates: Certificates, host: str = "elsewhere.example", scheme: str = "amqps") -> Connector:
        return Connector(URL.parse(f"{scheme}://{host}"), cacert=str(certificates.authority))

    @pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
    def test_the_environments_counts_for_tls(
        self, secure: ConnectProxy, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv(name, secure.url)
        assert greeting(self.caller(certificates)) == b"hello"
        assert secure.asked == ["elsewhere.example:5671"]

    def test_the_environments_does_not_count_without_tls(
        self, secure: ConnectProxy, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", secure.url)
        with pytest.raises(ConnectionLost, match="cannot resolve the name"):
            greeting(self.caller(certificates, "elsewhere.invalid", "amqp"))
        assert not secure.asked

    @pytest.mark.parametrize("none", ["elsewhere.invalid", ".invalid", "invalid", "*", "other, elsewhere.invalid"])
    def test_no_proxy_names_hosts_that_are_reached_directly(
        self, secure: ConnectProxy, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, none: str
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", secure.url)
        monkeypatch.setenv("NO_PROXY", none)
        with pytest.raises(ConnectionLost, match="cannot resolve the name"):
            greeting(self.caller(certificates, "elsewhere.invalid"))
        assert not secure.asked

    def test_this_machine_is_reached_directly(
        self, secure: ConnectProxy, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", secure.url)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        for host in ("localhost", "127.0.0.1", "[::1]"):
            with pytest.raises(ConnectionLost, match=f":{port}.*refused"):
                greeting(self.caller(certificates, f"{host}:{port}"))
        assert not secure.asked

    @pytest.mark.parametrize("value", ["https://127.0.0.1:1", "socks5://127.0.0.1:1", "http://", "http://h:99999"])
    def test_one_that_is_none_is_reported(
        self, certificates: Certificates, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        monkeypatch.setenv("HTTPS_PROXY", value)
        with pytest.raises(AdapterError, match=r"no connection to elsewhere\.example: a proxy is http://"):
            greeting(self.caller(certificates))

    def test_no_proxy_at_all_is_asked_for_by_an_empty_one(
        self, secure: ConnectProxy, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An agent's own environment does not count."""
        monkeypatch.setenv("HTTPS_PROXY", secure.url)
        with pytest.raises(ConnectionLost, match="cannot resolve the name"):
            greeting(through("", "elsewhere.invalid", "amqps", cacert=str(certificates.authority)))
        assert not secure.asked


class TestUrls:
    @pytest.mark.parametrize(
        ("text", "where"),
        [
            ("http://proxy", ("proxy", 3128, None, None)),
            ("http://proxy:8080/", ("proxy", 8080, None, None)),
            ("proxy:8080", ("proxy", 8080, None, None)),
            ("HTTP://u:p%40:q@[::1]:1", ("::1", 1, "u", "p@:q")),
            ("http://u@proxy", ("proxy", 3128, "u", None)),
        ],
    )
    def test_one_is_read(self, text: str, where: tuple[object, ...]) -> None:
        url = parse_proxy(text)
        assert (url.host, url.port, url.user, url.password) == where

    @pytest.mark.parametrize(
        "text", ["", "http://", "http://:3128", "https://u:hush@p", "http://u:hush@p:x", "http://p:65536", "http://p/x"]
    )
    def test_one_that_is_none_is_refused_without_its_password(self, text: str) -> None:
        with pytest.raises(ConfigError, match="a proxy is http://") as caught:
            parse_proxy(text)
        assert "hush" not in str(caught.value)
