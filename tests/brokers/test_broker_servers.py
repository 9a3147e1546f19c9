"""The brokers for tests start, listen for TLS, come back after every kind of end, and leave nothing behind."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import psutil
import pytest
from support.brokers import Artemis, BrokerJ, RabbitMQ4, Server
from support.brokers.server import BrokerError
from support.certificates import Certificates
from support.waiting import eventually

_HEADER = b"AMQP\x03\x01\x00\x00"  # AMQP 1.0 with SASL


def answer(broker: Server, port: int, certificates: Certificates, *, client: bool) -> bytes:
    """Return what a TLS port answers to AMQP's first words."""
    context = ssl.create_default_context(cafile=certificates.authority)
    if client:
        context.load_cert_chain(certificates.client, certificates.client_key)
    with (
        socket.create_connection((broker.host, port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        try:
            secure.sendall(_HEADER)
            return secure.recv(8)
        except OSError:  # with TLS 1.3 a refusal comes after the handshake
            return b""


def ports_take_certificates(broker: Server, certificates: Certificates) -> None:
    for client in (False, True):
        assert answer(broker, broker.tls_port, certificates, client=client) == _HEADER
    assert answer(broker, broker.external_port, certificates, client=True) == _HEADER
    assert answer(broker, broker.external_port, certificates, client=False) == b""


def comes_back(broker: Server) -> None:
    with broker:
        ports = (broker.port, broker.url())
        first = psutil.Process(broker.pid)
        broker.freeze()
        eventually(lambda: first.status() == psutil.STATUS_STOPPED)
        broker.thaw()
        eventually(lambda: first.status() != psutil.STATUS_STOPPED)
        broker.kill()
        assert not broker.running
        assert not first.is_running()
        broker.start()
        broker.freeze()
        broker.restart()
        assert ports == (broker.port, broker.url())
        assert broker.running
    assert not broker.running
    assert not broker.base_dir.exists()


def test_broker_j_takes_client_certificates(brokerj: BrokerJ, certificates: Certificates) -> None:
    ports_take_certificates(brokerj, certificates)


def test_artemis_takes_client_certificates(artemis: Artemis, certificates: Certificates) -> None:
    ports_take_certificates(artemis, certificates)


@pytest.mark.slow
@pytest.mark.usefixtures("brokerj")
def test_broker_j_comes_back_after_every_end(tmp_path: Path) -> None:
    comes_back(BrokerJ(tmp_path / "broker"))


@pytest.mark.slow
@pytest.mark.usefixtures("artemis")
def test_artemis_comes_back_after_every_end(tmp_path: Path) -> None:
    comes_back(Artemis(tmp_path / "broker"))


@pytest.mark.parametrize(("kind", "script"), [(BrokerJ, "brokerj"), (Artemis, "artemis"), (RabbitMQ4, "rabbitmq4")])
def test_a_missing_broker_says_what_to_run(
    kind: type, script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(f"GOFER_{script.upper()}", raising=False)
    with pytest.raises(BrokerError, match=f"scripts/brokers/{script} build/brokers/{script}$"):
        kind(tmp_path / "broker")
    monkeypatch.setenv(f"GOFER_{script.upper()}", str(tmp_path / "gone"))
    with pytest.raises(BrokerError, match=f"gone, .* is no directory; .*scripts/brokers/{script}"):
        kind(tmp_path / "broker")
