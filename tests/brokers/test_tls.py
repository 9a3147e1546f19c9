"""TLS: every adapter on every broker. What is about our end alone is in tests/unit: test_net.py, test_tls_handshake.py.

A proxy stands between where the network, the name or the time of a handshake is what is tested.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from gofer import aio
from gofer.errors import AdapterError, ConnectionLost, MessagingError
from gofer.messaging.adapters import installed
from gofer.messaging.connector import Connector
from gofer.messaging.thread_driver import ThreadConnection
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer.testing.proxy import Proxy
from support.brokers import Broker
from support.brokers.chosen import FIXTURES, chosen_brokers
from support.certificates import Certificates
from support.connections import connection_to
from support.goferd import AgentProcess
from support.pairs import Pair, spoken
from support.ports import free_port
from support.presence import until_it_answers
from support.probe import PROBE
from support.tls_peer import Answers, peer, server_context
from support.waiting import eventually


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run everything for each adapter that is installed, on each broker that was chosen and that it speaks to."""
    here = {one.name for one in installed()}
    pairs = [Pair(one, one, broker) for broker in chosen_brokers() for one in spoken(broker) if one in here]
    metafunc.parametrize("pair", pairs, ids=lambda pair: f"{pair.agent}-{pair.broker}", indirect=True, scope="module")


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest) -> Pair:
    found: Pair = request.param
    return found


@pytest.fixture(scope="module")
def broker(request: pytest.FixtureRequest, pair: Pair) -> Broker:
    found: Broker = request.getfixturevalue(FIXTURES[pair.broker])
    return found


@dataclass(frozen=True)
class Place:
    """The broker as the tests connect to it."""

    broker: Broker
    adapter: str
    certificates: Certificates

    @property
    def url(self) -> URL:
        """Over TLS, as guest."""
        return URL.parse(self.broker.url(adapter=self.adapter, tls=True))

    @property
    def external(self) -> URL:
        """Over TLS, where the client certificate is the login."""
        return URL.parse(self.broker.url(adapter=self.adapter, external=True))

    def connector(self, url: URL | None = None, **options: Any) -> Connector:
        options = {"cacert": str(self.certificates.authority), "reconnect_max": 0.2, **options}
        return Connector(url or self.url, **options)

    def certified(self, **options: Any) -> Connector:
        """Log in by the client certificate."""
        files = {"clientcert": str(self.certificates.client), "clientkey": str(self.certificates.client_key)}
        return self.connector(self.external, **{**files, **options})


@pytest.fixture
def place(broker: Broker, pair: Pair, certificates: Certificates) -> Place:
    return Place(broker, pair.agent, certificates)


@contextmanager
def opened(connector: Connector) -> Iterator[ThreadConnection]:
    """Have a connection of the test's own, which is closed at the end."""
    connection = connection_to(connector)
    try:
        yield connection
    finally:
        connection.close()


def connected(connector: Connector, timeout: float = 20.0) -> None:
    """Connect, log in, and hang up."""
    with opened(connector) as link:
        link.open(time.monotonic() + timeout)
        assert link.is_open


def refused(connector: Connector, timeout: float = 20.0) -> MessagingError:
    """Try to connect, and return why that cannot be."""
    with opened(connector) as link, pytest.raises(MessagingError) as caught:
        link.open(time.monotonic() + timeout)
    return caught.value


class TestTrust:
    def test_the_authority_and_the_name_decide(self, place: Place) -> None:
        connected(place.connector())

    def test_an_address_that_the_certificate_has_is_as_good_as_a_name(self, place: Place) -> None:
        connected(place.connector(replace(place.url, host="127.0.0.1")))

    @pytest.mark.parametrize("host_validation", [True, False])
    def test_another_authoritys_is_refused_whether_or_not_the_name_counts(
        self, place: Place, host_validation: bool
    ) -> None:
        other = str(place.certificates.other_authority)
        error = refused(place.connector(cacert=other, host_validation=host_validation))
        assert isinstance(error, AdapterError)
        assert f"localhost:{place.url.port}: the broker's certificate does not verify" in str(error)
        assert f"No authority in cacert {other} has issued it" in str(error)

    def test_the_systems_authorities_do_not_know_it(self, place: Place) -> None:
        assert "set cacert to the file of the one that has" in str(refused(place.connector(cacert=None)))

    def test_a_name_that_the_certificate_does_not_have_counts_only_without_validation(self, place: Place) -> None:
        url = replace(place.url, host="localhost.localdomain")
        if place.broker.name == "Broker-J" and place.adapter == "proton":
            url = replace(url, path="default")  # else Broker-J looks for a virtual host of the host's name
        with named("localhost.localdomain"):
            error = refused(place.connector(url))
            assert "have it issued for DNS:localhost.localdomain (subjectAltName)" in str(error)
            connected(place.connector(url, host_validation=False))


class TestClientCertificates:
    @pytest.mark.parametrize("together", [True, False], ids=["one-file", "two-files"])
    def test_it_is_the_login(self, place: Place, together: bool) -> None:
        both = {"clientcert": str(place.certificates.client_both), "clientkey": None}
        connected(place.certified(**(both if together else {})))

    @pytest.mark.parametrize(
        ("days", "other", "said"),
        [
            ((-9, -1), False, r"(not valid at the time of the broker|does not verify there|closed by the peer)"),
            ((3, 9), False, r"(not valid at the time of the broker|does not verify there|closed by the peer)"),
            ((0, 9), True, r"(does not know the authority|does not verify there|closed by the peer)"),
        ],
        ids=["ended", "not-yet", "foreign"],
    )
    def test_one_that_the_broker_cannot_believe_is_refused_by_name(
        self, place: Place, pair: Pair, days: tuple[int, int], other: bool, said: str
    ) -> None:
        name = f"bad-{pair.agent}-{pair.broker}-{days[0]}"
        certificate, key = place.certificates.user(name, days=days, other=other)
        error = refused(place.certified(clientcert=str(certificate), clientkey=str(key)))
        assert re.search(said, str(error)), error
        if "closed by the peer" not in str(error):
            assert f"refuses clientcert {certificate}" in str(error)
            assert other or "(valid from 20" in str(error)

    def test_none_where_one_is_asked_for(self, place: Place, pair: Pair) -> None:
        if pair.broker.startswith("rabbitmq"):  # it takes passwords there, too; test_certs.py has it insist
            connected(place.connector(place.external))
            return
        error = refused(place.connector(place.external))
        # Some brokers let it in, and have no way to log in then.
        assert re.search(r"asks for a client certificate|closed by the peer|refused|log in|EXTERNAL", str(error)), error


class TestPorts:
    def test_tls_to_a_port_without(self, place: Place) -> None:
        """Broker-J serves both on some ports; these do not."""
        error = refused(place.connector(replace(place.url, port=place.broker.port)))
        assert f"localhost:{place.broker.port}" in str(error)
        assert re.search(r"speaks no TLS|Does port \d+ speak TLS", str(error)), error

    def test_a_plain_connection_to_a_port_with_tls(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gofer.messaging.core._LOGIN", 1.0)  # Broker-J waits for more, in silence
        error = refused(Connector(replace(place.url, protocol="amqp"), reconnect_max=0.2))
        assert "amqps://" in str(error), error


class TestHandshakes:
    """The real broker, over a network that stops: in the TLS handshake, and in the login."""

    @pytest.fixture
    def handshake(self, place: Place) -> int:
        """How many bytes the broker sends until the client is logged in."""
        with Proxy(place.url) as proxy, opened(place.connector(proxy.url)) as link:
            link.open(time.monotonic() + 20)
            return proxy.to_client.passed

    def test_cut_at_every_step_it_is_an_error_and_comes_back(self, place: Place, handshake: int) -> None:
        for sent in sorted({0, 1, 5, 6, 60, *range(100, handshake, max(1, handshake // 12))}):
            with Proxy(place.url) as proxy:
                proxy.to_client.limit = sent
                with opened(place.connector(proxy.url)) as link:
                    with pytest.raises(MessagingError, match=f"localhost:{proxy.url.port}"):
                        link.open(time.monotonic() + 20)
                    proxy.to_client.limit = None
                    link.open(time.monotonic() + 20)

    def test_silent_at_every_step_it_is_given_up_in_time(
        self, place: Place, handshake: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gofer.messaging.driver.OPEN", 0.6)
        monkeypatch.setattr("gofer.messaging.core._LOGIN", 0.6)
        for sent in sorted({0, 5, 60, handshake // 3, handshake // 2, handshake - 200, handshake - 8}):
            with Proxy(place.url, to_client=lambda sent=sent: first(sent)) as proxy:
                start = time.monotonic()
                error = refused(place.connector(proxy.url))
                assert time.monotonic() - start < 15
            assert isinstance(error, ConnectionLost)
            text = str(error)
            assert "the TLS handshake stopped" in text or "no answer to the login within" in text, text
            if not sent:
                assert f"Does port {proxy.url.port} speak TLS?" in text


class TestHosts:
    """Several hosts of one name, whose ports differ: one has a certificate that has ended, one is not there."""

    @pytest.fixture
    def ended(self, place: Place, pair: Pair) -> Iterator[int]:
        name = f"ended-{pair.agent}-{pair.broker}-{time.monotonic_ns()}"
        files = place.certificates.broker(name, "localhost", days=(-9, -1))
        with peer(server_context(*files), Answers()) as port:
            yield port

    def test_a_host_that_cannot_be_believed_does_not_keep_from_the_next(self, place: Place, ended: int) -> None:
        more = (("localhost", free_port()), ("localhost", place.url.port or 0))
        connected(place.connector(replace(place.url, port=ended, others=more)))

    def test_all_are_named_when_none_will_do(self, place: Place, ended: int) -> None:
        closed = free_port()
        error = refused(place.connector(replace(place.url, port=ended, others=(("localhost", closed),))))
        assert isinstance(error, AdapterError)
        assert f"localhost:{ended}: the broker's certificate does not verify: certificate has expired" in str(error)
        assert f"localhost:{closed}: " in str(error)


class TestUse:
    """An agent and its callers, both over TLS with client certificates."""

    @pytest.fixture
    def goferd(self, root: Path) -> Iterator[AgentProcess]:
        with AgentProcess(root) as goferd:
            yield goferd

    def start(self, goferd: AgentProcess, place: Place, pair: Pair, certificate: Path, key: Path | None) -> str:
        """Start an agent with a descriptor of Katello's shape."""
        queue = f"tls-{pair.agent}-{pair.broker}-{time.monotonic_ns()}"
        own = f"clientkey={key}\n" if key else ""
        text = (
            f"[main]\nenabled=1\n[messaging]\nurl={place.external}\nuuid={queue}\ncacert={place.certificates.authority}\n"
            f"clientcert={certificate}\n{own}host_validation=1\n"
        )
        goferd.plugin("probe", PROBE, text)
        goferd.start()
        return queue

    @pytest.mark.parametrize("loop", ["thread", "asyncio", "uvloop"])
    def test_calls_small_and_large_both_ways(self, goferd: AgentProcess, place: Place, pair: Pair, loop: str) -> None:
        queue = self.start(goferd, place, pair, place.certificates.client_both, None)
        things = ["small", "L" * 900_000, "", "m" * 40_000, "last"]
        if loop == "thread":
            with Agent(place.certified(), queue) as agent:
                probe = until_it_answers(agent).Probe()
                assert [probe.echo(thing) for thing in things] == things
            return

        async def call() -> list[Any]:
            async with aio.Agent(place.certified(), queue) as agent:
                probe = agent.Probe()
                return list(await asyncio.gather(*[probe.echo(thing) for thing in things * 4]))

        with Agent(place.certified(), queue) as agent:
            until_it_answers(agent)
        factory = None
        if loop == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            assert runner.run(call()) == things * 4

    def test_renewed_files_are_used_at_the_next_connection(
        self, goferd: AgentProcess, place: Place, pair: Pair, tmp_path: Path
    ) -> None:
        """An agent whose certificate has ended is refused; with the renewed file it is back without a restart."""
        store = place.certificates.store
        good = place.certificates.client_both.read_bytes()
        name = f"ended-{pair.agent}-{pair.broker}-{time.monotonic_ns()}"
        certificate, key = place.certificates.user(name, days=(-9, -1))
        both = tmp_path / "both.pem"
        both.touch(0o600)
        both.write_bytes(certificate.read_bytes() + key.read_bytes())
        assert store.find(f"clients/{name}").ends.timestamp() < time.time()
        queue = self.start(goferd, place, pair, both, None)
        eventually(lambda: "cannot connect" in goferd.log.read_text(), what="the refusal in the log")
        new = both.with_suffix(".new")
        new.touch(0o600)
        new.write_bytes(good)
        new.replace(both)
        with Agent(place.certified(), queue) as agent:
            assert until_it_answers(agent).Probe().echo("back") == "back"


def first(size: int) -> Callable[[bytes], bytes]:
    """Return a filter that passes on so many bytes, and then nothing."""
    left = size

    def filter_(data: bytes) -> bytes:
        nonlocal left
        passed, left = data[:left], left - min(left, len(data))
        return passed

    return filter_


@contextmanager
def named(name: str) -> Iterator[None]:
    """Have a name mean 127.0.0.1 in this process; no machine can be counted on to have a second name."""
    import socket

    resolve = socket.getaddrinfo

    def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == name and not options.get("flags"):
            host = "127.0.0.1"
        return resolve(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        yield
