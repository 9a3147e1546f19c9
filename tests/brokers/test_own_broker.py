"""``gofer adapters --test URL``: what gofer can do on somebody's own broker, which is left as it was."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from typing import Any

import pytest
from support.brokers import Artemis, BrokerJ, RabbitMQ3
from support.certificates import Certificates
from support.commands import GOFER, gofer
from support.waiting import eventually


def findings(*arguments: str, status: int) -> dict[str, dict[str, Any]]:
    done = gofer("adapters", "--json", "--test", *arguments, timeout=580)
    assert done.returncode == status, done.stderr
    return {one["promise"]: one for one in json.loads(done.stdout)}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rabbitmq_supports_everything_and_is_left_as_it_was(rabbitmq3: RabbitMQ3, certificates: Certificates) -> None:
    rabbitmq3.api("PUT", "/queues/%2F/somebody-elses", {"durable": True})
    try:
        before = {queue["name"] for queue in rabbitmq3.queues()}
        found = findings(rabbitmq3.url(tls=True), "--cacert", str(certificates.authority), status=0)
        assert {one["kept"] for one in found.values()} == {True, None}
        assert {one["why"] for one in found.values() if one["kept"] is None} == {"only who runs the broker can do that"}
        assert [one["kept"] for one in found.values()].count(None) == 2  # the alarm, and a broker that stands still
        assert found["it works over tls"]["kept"]
        assert len(found) > 50
        after = {queue["name"] for queue in rabbitmq3.queues()}
        assert after <= before  # queues of earlier tests may expire meanwhile
        assert "somebody-elses" in after
    finally:
        rabbitmq3.api("DELETE", "/queues/%2F/somebody-elses")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_a_broker_does_not_support_is_said(brokerj: BrokerJ) -> None:
    before = {queue["name"] for queue in brokerj.queues()}
    done = gofer("adapters", "--test", brokerj.url(adapter="amqp"), timeout=580)
    assert done.returncode == 1, done.stderr
    lines = {line[:60].strip(): line[60:].split(None, 1) for line in done.stdout.splitlines()}
    assert lines["an expiring queue goes when nobody uses it"][0] == "no"
    assert "the queue does not expire" in lines["an expiring queue goes when nobody uses it"][1]
    assert "guest:***@" in done.stdout.splitlines()[-1]
    assert " of " in done.stdout.splitlines()[-1]
    assert {queue["name"] for queue in brokerj.queues()} == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_needs_something_that_the_broker_lacks_is_not_kept_and_all_else_is_tried(artemis: Artemis) -> None:
    found = findings(artemis.url(adapter="proton"), status=1)
    assert "cannot declare exchange" in found["unbinding undoes binding"]["why"]
    assert found["messages arrive in the order sent"]["kept"]
    assert sum(one["kept"] is True for one in found.values()) > 40, found


def test_a_broker_that_lets_nobody_in_is_reported_at_once(rabbitmq3: RabbitMQ3) -> None:
    done = gofer("adapters", "--test", rabbitmq3.url(password="certainly-wrong"))
    assert (done.returncode, done.stdout) == (6, "")
    assert "login refused for user 'guest'" in done.stderr
    assert "certainly-wrong" not in done.stderr


def test_an_adapter_that_is_not_installed_is_reported_at_once() -> None:
    done = gofer("adapters", "--test", "nonsense+amqp://localhost")
    assert (done.returncode, done.stdout) == (6, "")
    assert "the adapter 'nonsense'" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_an_interrupted_test_leaves_nothing_behind(brokerj: BrokerJ, number: signal.Signals) -> None:
    def made() -> set[str]:
        return {queue["name"] for queue in brokerj.queues() if queue["name"].startswith("contract-")}

    before = made()
    heard = f"--default-signal={number.name.removeprefix('SIG')}"  # nohup has its children ignore SIGHUP
    command = ["env", heard, GOFER, "adapters", "--test", brokerj.url(adapter="amqp")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            eventually(lambda: made() - before)
            running.send_signal(number)
            assert running.wait(60) == 130
        finally:
            running.kill()
    assert made() == before


@pytest.mark.parametrize("adapter", ["amqp", "proton", "qpid"])
def test_a_peer_that_says_nothing_is_reported(adapter: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = gofer("adapters", "--test", f"{adapter}+amqp://guest:secret@127.0.0.1:{silent.getsockname()[1]}")
    assert (done.returncode, done.stdout) == (6, "")
    assert "still waiting for the login" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr
