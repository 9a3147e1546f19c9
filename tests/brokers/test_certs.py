"""``gofer certs``: what it makes and prints, pasted into brokers and descriptors as it is, and then connected to."""

from __future__ import annotations

import json
import re
import shlex
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import ConnectionLost, MessagingError, NotFound
from gofer.messaging.connector import Connector
from gofer.proxy import Agent
from support.brokers import Artemis, BrokerJ
from support.brokers.rabbitmq import RabbitMQ
from support.commands import gofer
from support.external import sasl_external
from support.goferd import AgentProcess
from support.plugins import install
from support.ports import free_port
from support.presence import until_it_answers

PLUGIN = """
from gofer.decorators import remote

@remote
def hello():
    return "hello"
"""


def certs(*arguments: str, status: int = 0) -> str:
    """Run ``gofer certs`` and return what it prints."""
    done = gofer("certs", *arguments)
    assert done.returncode == status, done.stderr
    return done.stdout


@dataclass
class Place:
    """A directory of ``gofer certs``."""

    folder: Path

    def certs(self, command: str, *arguments: str, status: int = 0) -> str:
        return certs(command, "--dir", str(self.folder), *arguments, status=status)

    def connector(self, url: str, client: str = "web-42") -> Connector:
        clients = self.folder / "clients"
        return Connector(
            url,
            cacert=str(self.folder / "ca.pem"),
            clientcert=str(clients / f"{client}.pem"),
            clientkey=str(clients / f"{client}.key"),
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """What one command makes, for RabbitMQ: an authority, the broker's and two clients' certificates."""
    place = Place(tmp_path_factory.mktemp("certs") / "pki")
    place.certs("init", "--broker", "localhost,127.0.0.1", "--client", "web-42", "--client", "ops")
    return place


@pytest.fixture(scope="module")
def rabbit(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RabbitMQ, int]]:
    """A RabbitMQ with exactly the lines that were printed, and its port for TLS."""
    port = free_port()
    printed = place.certs("lines", "rabbitmq", "--listen", "127.0.0.1", "--port", str(port))
    configuration, _, commands = printed.partition("# Then type")
    typed = [shlex.split(line) for line in commands.splitlines()[1:] if line]
    plugins = [words[2] for words in typed if words[:2] == ["rabbitmq-plugins", "enable"]]
    with RabbitMQ(tmp_path_factory.mktemp("rabbit") / "node", plugins=plugins, config=configuration) as broker:
        for words in typed:
            if words[0] == "rabbitmqctl":
                broker.ctl(*words[1:])
        yield broker, port


@pytest.fixture
def goferd(root: Path, tmp_path: Path) -> Iterator[AgentProcess]:
    install(tmp_path, "plain", PLUGIN)
    with AgentProcess(root, path=(tmp_path,)) as goferd:
        yield goferd


@pytest.mark.xdist_group("certs-rabbitmq")
class TestRabbitMQ:
    def test_an_agent_with_the_printed_descriptor_answers_a_caller_with_a_certificate(
        self, place: Place, rabbit: tuple[RabbitMQ, int], goferd: AgentProcess
    ) -> None:
        broker, port = rabbit
        printed = place.certs("lines", "descriptor", "--client", "web-42", "--port", str(port))
        goferd.descriptor("plain", f"[main]\nenabled = 1\n{printed}[model]\nqueue = plain\n")
        goferd.start()
        connector = place.connector(f"amqps://localhost:{port}", "ops")
        with Agent(connector, "plain") as agent:
            assert until_it_answers(agent).plain.hello() == "hello"
            users = broker.ctl("list_connections", "user", "ssl", "auth_mechanism").split("\n")
        assert {line.split("\t")[0] for line in users if "EXTERNAL" in line} == {"web-42", "ops"}
        assert all("true" in line for line in users if "\t" in line and "auth_mechanism" not in line)

    def test_a_descriptor_of_katellos_shape(
        self, place: Place, rabbit: tuple[RabbitMQ, int], goferd: AgentProcess
    ) -> None:
        """One file with certificate and key, names relative to the descriptor's directory, an adapter in the URL."""
        place.certs("client", "katello", "--bundle")
        rabbit[0].ctl("add_user", "katello", "never used")
        rabbit[0].ctl("set_permissions", "-p", "/", "katello", ".*", ".*", ".*")
        bundle = goferd.root / "etc/gofer/plugins/bundle.pem"
        bundle.touch(0o600)
        bundle.write_bytes((place.folder / "clients/katello.bundle").read_bytes())
        goferd.descriptor(
            "plain",
            f"""
            [main]
            enabled = 1
            [messaging]
            url=amqp+amqps://localhost:{rabbit[1]}
            uuid=katello-agent
            cacert={place.folder}/ca.pem
            clientcert=bundle.pem
            host_validation=1
            """,
        )
        goferd.start()
        with Agent(place.connector(f"amqps://127.0.0.1:{rabbit[1]}"), "katello-agent") as agent:
            assert until_it_answers(agent).plain.hello() == "hello"

    def test_no_certificate_and_one_of_another_authority_are_refused(
        self, place: Place, rabbit: tuple[RabbitMQ, int], tmp_path: Path
    ) -> None:
        url = f"amqps://localhost:{rabbit[1]}"
        strange = Place(tmp_path / "strange")
        strange.certs("init", "--client", "web-42")
        ours = str(place.folder / "ca.pem")
        mixed = replace(strange.connector(url), cacert=ours)
        for connector, said in (
            (Connector(url, cacert=ours), "asks for a client certificate. Set clientcert"),
            (mixed, f"refuses clientcert {mixed.clientcert}: it does not know the authority that issued it"),
            (strange.connector(url), f"No authority in cacert {strange.folder}/ca.pem has issued it"),
        ):
            with Agent(connector, "plain") as agent, pytest.raises(MessagingError, match=re.escape(said)):
                agent.Admin().hello()

    def test_renewed_certificates_serve_at_the_next_connection_without_a_restart(
        self, place: Place, rabbit: tuple[RabbitMQ, int], goferd: AgentProcess
    ) -> None:
        """All of them: the clients' with new keys, the authority's with a new key, the broker's issued by that."""
        broker, port = rabbit
        printed = place.certs("lines", "descriptor", "--client", "web-42", "--port", str(port))
        goferd.descriptor("plain", f"[main]\nenabled = 1\n{printed}[model]\nqueue = renewed\n")
        goferd.start()
        connector = place.connector(f"amqps://localhost:{port}", "ops")
        with Agent(connector, "renewed") as agent:
            assert until_it_answers(agent).plain.hello() == "hello"
            place.certs("renew", "ca", "--new-key")
            place.certs("renew", "--new-key", "clients/web-42", "clients/ops", "brokers/localhost")
            broker.restart()
            assert agent.plain.hello() == "hello"
        with Agent(connector, "renewed") as agent:
            assert agent.plain.hello() == "hello"

    def test_the_broker_takes_a_renewed_certificate_when_it_is_told_to(
        self, place: Place, rabbit: tuple[RabbitMQ, int]
    ) -> None:
        def shown() -> int:
            context = ssl.create_default_context(cafile=str(place.folder / "ca.pem"))
            context.load_cert_chain(place.folder / "clients/ops.pem", place.folder / "clients/ops.key")
            with (
                socket.create_connection(("127.0.0.1", rabbit[1]), 10) as sock,
                context.wrap_socket(sock, server_hostname="localhost") as secure,
            ):
                return int(dict(secure.getpeercert() or {})["serialNumber"], 16)

        before = shown()
        place.certs("renew", "brokers/localhost")
        rabbit[0].evaluate("ssl:clear_pem_cache()")
        assert shown() != before
        connected = place.connector(f"amqps://localhost:{rabbit[1]}", "ops")
        with Agent(connected, "nobody") as agent, pytest.raises(NotFound):
            agent.Admin().hello()


class _BrokerJ(BrokerJ):
    """A Broker-J whose configuration has what was printed."""

    place: Place

    def _configuration(self) -> dict[str, Any]:
        configuration = super()._configuration()
        printed = self.place.certs("lines", "broker-j", "--listen", "127.0.0.1", "--port", str(self.external_port))
        for kind, objects in json.loads(printed[printed.index("\n{") :]).items():
            configuration.setdefault(kind, []).extend(objects)
        return configuration

    def ports(self) -> tuple[int, ...]:
        return (self.port, self.external_port)


class _Artemis(Artemis):
    """An Artemis whose files have what was printed for each."""

    place: Place

    def write_files(self) -> None:
        super().write_files()
        printed = self.place.certs("lines", "artemis", "--listen", "127.0.0.1", "--port", str(self.external_port))
        etc = self.base_dir / "etc"
        for name, text in re.findall(r"^# (\S+\.\w+)\b.*:\n((?:[^#].*\n)+)", printed, re.MULTILINE):
            path = Path(name) if name.startswith("/") else self.base_dir / name
            whole = text
            if path.name == "broker.xml":
                whole = path.read_text().replace("</acceptors>", f"{text}</acceptors>")
            elif path.name == "login.config":
                whole = path.read_text().replace("activemq {", f"activemq {{\n{text}", 1)
            path.write_text(whole)
        assert (etc / "cert-users.properties").exists()

    def ports(self) -> tuple[int, ...]:
        return (self.port, self.external_port)


@pytest.mark.parametrize("kind", ["brokerj", "artemis"])
def test_other_brokers_take_the_printed_lines(kind: str, tmp_path: Path) -> None:
    place = Place(tmp_path / "pki")
    target = {"brokerj": "broker-j"}.get(kind, kind)
    place.certs("init", "--broker", "localhost", "--client", "web-42")
    advice = gofer("certs", "lines", target, "--dir", str(place.folder))
    assert advice.returncode == 1
    command = shlex.split(advice.stderr.partition("Type: ")[2])
    assert command[:2] == ["gofer", "certs"]
    certs(*command[2:])  # what it says to type
    make: Any = {"brokerj": _BrokerJ, "artemis": _Artemis}[kind]
    broker = make(tmp_path / "broker")
    broker.place = place
    with broker:
        url = f"amqps://localhost:{broker.external_port}"
        assert sasl_external(place.connector(url)) == 0
        # Broker-J hangs up without a word about it.
        with pytest.raises(ConnectionLost, match=r"asks for a client certificate|closed by the peer"):
            sasl_external(Connector(url, cacert=str(place.folder / "ca.pem")))
