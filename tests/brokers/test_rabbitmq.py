"""The private RabbitMQ itself: it is alone, it obeys, and it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from gofer.errors import ConnectionLost
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.testing._contract.driver import Driver
from gofer_adapter_amqp import AmqpAdapter
from support.brokers import rabbitmq as module
from support.brokers.rabbitmq import RabbitMQ
from support.brokers.server import BrokerError
from support.waiting import eventually


def processes(folder: Path) -> list[psutil.Process]:
    """Find the living processes whose environment names the folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and str(folder) in process.environ().get("HOME", ""):
                found.append(process)
        except psutil.Error:
            continue  # gone meanwhile, or somebody else's
    return found


def can_log_in(broker: RabbitMQ, timeout: float) -> bool:
    driver = Driver(AmqpAdapter(Connector(URL.parse(broker.url()))))
    try:
        driver.open(timeout)
    except (ConnectionLost, AssertionError):  # refused, or no answer
        return False
    finally:
        driver.close()
    return True


@pytest.mark.slow
def test_its_whole_life(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    broker = RabbitMQ(folder)
    assert not broker.running
    with broker:
        assert broker.running
        assert can_log_in(broker, 5.0)
        listening = {
            connection.laddr.ip
            for process in processes(folder)
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening <= {"127.0.0.1", "::1"}

        broker.freeze()
        assert not can_log_in(broker, 0.3)
        broker.thaw()
        assert can_log_in(broker, 5.0)

        assert "guest" in broker.ctl("list_users")
        with pytest.raises(BrokerError, match="no_such_command"):
            broker.ctl("no_such_command")
        with pytest.raises(BrokerError, match="management"):
            broker.connections()

        before = broker.url()
        broker.kill()
        assert not broker.running
        assert not can_log_in(broker, 1.0)
        with pytest.raises(BrokerError, match="not running"):
            broker.freeze()
        broker.start()
        assert can_log_in(broker, 5.0)
        assert broker.url() == before
        broker.stop()
        assert not broker.running
        assert not can_log_in(broker, 1.0)
        broker.stop()
    assert not broker.running
    assert not folder.exists()
    deadline = time.monotonic() + 5.0
    while left := processes(folder):
        assert time.monotonic() < deadline, left


@pytest.mark.slow
def test_it_does_not_outlive_the_process_that_has_started_it(tmp_path: Path) -> None:
    """Which was killed, and could not end it."""
    folder = tmp_path / "node"
    code = (
        "import os, sys\n"
        "from support.brokers.rabbitmq import RabbitMQ\n"
        "with RabbitMQ(sys.argv[1]):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.fspath(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code, str(folder)], env=environ, check=False, timeout=90)
    assert done.returncode == -signal.SIGKILL
    eventually(lambda: not processes(folder), 20)


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    broker = RabbitMQ(folder, config="no.such.setting = 1")
    with pytest.raises(BrokerError, match=r"ended while starting[\s\S]*no\.such\.setting"):
        broker.start()
    assert not broker.running
    deadline = time.monotonic() + 5.0
    while left := processes(folder):
        assert time.monotonic() < deadline, left


def test_a_missing_installation_names_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GOFER_RABBITMQ", raising=False)
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    monkeypatch.setattr(module, "_PLACES", (os.fspath(tmp_path),))
    with pytest.raises(BrokerError, match="apt-get install -y rabbitmq-server"):
        RabbitMQ(tmp_path / "node")


def test_the_programs_may_be_those_of_another_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By a directory, of the caller or of the environment; one that is not there is named."""
    for name, status in (("rabbitmq-server", 3), ("rabbitmqctl", 4), ("epmd", 5)):
        (tmp_path / name).write_text(f"#!/bin/sh\necho other {name}; exit {status}\n")
        (tmp_path / name).chmod(0o755)
    chosen = RabbitMQ(tmp_path / "node", programs=tmp_path)
    monkeypatch.setenv("GOFER_RABBITMQ", os.fspath(tmp_path))
    for broker in (chosen, RabbitMQ(tmp_path / "node")):
        with pytest.raises(BrokerError, match=r"epmd does not serve port .* 5"):
            broker.start()
        with pytest.raises(BrokerError, match="other rabbitmqctl"):
            broker.ctl("status")
    (tmp_path / "epmd").unlink()
    with pytest.raises(BrokerError, match=f"{tmp_path}/epmd is missing.*GOFER_RABBITMQ"):
        RabbitMQ(tmp_path / "node")
