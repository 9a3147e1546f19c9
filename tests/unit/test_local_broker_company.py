"""What bad company does to the local broker and to those who use it meanwhile: nothing."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gofer.errors import AdapterError
from gofer.messaging.adapter import (
    Closed,
    DeclareQueue,
    Delivery,
    Done,
    Opened,
    Outcome,
    PurgeQueue,
    Subscribe,
)
from gofer.messaging.local import wire
from gofer.messaging.local.server import Broker, serving
from gofer.testing._contract.driver import Driver
from support.local_clients import WAIT, Raw, connected, send
from support.localbroker import LocalBroker


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "run" / "broker.sock")


@pytest.fixture
def broker(path: str) -> Iterator[Broker]:
    with serving(path) as broker:
        yield broker


@pytest.fixture
def raw(broker: Broker) -> Iterator[Callable[..., Raw]]:
    opened: list[Raw] = []

    def connect(*, greeted: bool = True, heartbeat: float = 0.0) -> Raw:
        client = Raw(broker.path)
        opened.append(client)
        if greeted:
            client.send(wire.Hello(wire.VERSION, heartbeat))
            assert client.receive() == Opened()
        return client

    yield connect
    for client in opened:
        client.sock.close()


@pytest.fixture
def driver(broker: Broker) -> Iterator[Driver]:
    made = connected(broker.path)
    yield made
    made.close()


GARBAGE = {
    "text": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "an unknown frame": b"\0\0\0\x01\x63\x80",
    "a frame of the broker": b"\0\0\0\x01\x06\x80",
    "a second greeting": b"\0\0\0\x0a\x01\x81\xa7version\x02" * 2,
    "noise": random.Random(7).randbytes(5000),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("greeted", [False, True])
def test_who_talks_garbage_is_reported_and_left_and_nobody_else_notices(
    raw: Callable[..., Raw], driver: Driver, garbage: bytes, greeted: bool
) -> None:
    driver.queue("q")
    driver.subscribe("q", 1)
    bad = raw(greeted=greeted)
    bad.sock.sendall(garbage)
    assert refusal(bad.receive_until(Closed))
    assert bad.receive() is None
    driver.give("q", b"still there")
    assert driver.one().body == b"still there"


def refusal(frame: object) -> str:
    """Return why the broker sends a client away."""
    assert isinstance(frame, Closed)
    assert isinstance(frame.error, AdapterError)
    return str(frame.error)


def test_what_a_garbage_sender_held_goes_back_at_once(raw: Callable[..., Raw], driver: Driver) -> None:
    driver.queue("q")
    assert send(driver, "q", b"held").outcome is Outcome.CONFIRMED
    bad = raw()
    bad.send(wire.Ask(1, Subscribe(1, "q", 1)))
    bad.receive_until(Delivery)
    bad.sock.sendall(b"\xff" * 100)
    driver.subscribe("q", 1)
    delivery = driver.one()
    assert (delivery.body, delivery.redelivered) == (b"held", True)


def test_another_version_is_reported_by_both_numbers(raw: Callable[..., Raw]) -> None:
    client = raw(greeted=False)
    client.send(wire.Hello(wire.VERSION + 1))
    says = f"this broker speaks version {wire.VERSION} of its protocol and the client version {wire.VERSION + 1}:"
    assert refusal(client.receive()).startswith(says)
    assert client.receive() is None


def test_a_broker_that_sends_us_away_is_an_adapter_error_with_its_reason(tmp_path: Path) -> None:
    path = str(tmp_path / "peer.sock")
    farewell = bytearray()
    wire.write(farewell, Closed(AdapterError("because I say so")))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def refuse() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(farewell)

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(AdapterError, match=rf"{path}: because I say so"):
            connected(path)
        thread.join(WAIT)


@pytest.mark.parametrize("heartbeat", [-1.0, float("nan"), float("inf")])
def test_a_senseless_heartbeat_is_refused(raw: Callable[..., Raw], heartbeat: float) -> None:
    client = raw(greeted=False)
    client.send(wire.Hello(wire.VERSION, heartbeat))
    assert "heartbeat" in refusal(client.receive())


def test_another_user_is_refused() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # the directory and the socket let everybody in: what is left is the broker itself
        path = f"{directory}/broker.sock"
        code = f"""
import os, sys
sys.path[:0] = {sys.path!r}
from gofer.errors import AdapterError
from support.localbroker import LocalBroker
from support.local_clients import connected
os.setgid(65534)
os.setuid(65534)
try:
    connected("{path}")
except AdapterError as error:
    print(error)
"""
        with serving(path):
            os.chmod(path, 0o666)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            assert done.stdout == f"local broker at {path}: user 65534 may not use this broker: it belongs to user 0\n"
            connected(path).close()


def test_who_has_spoken_while_the_broker_stood_still_is_not_left(path: str) -> None:
    with LocalBroker(path) as frozen:
        client = Raw(path)
        client.send(wire.Hello(wire.VERSION, 0.3))
        client.receive_until(Opened)
        frozen.freeze()
        client.send(wire.Heartbeat())
        threading.Event().wait(1.0)  # more than two heartbeats: nothing else is waited for
        frozen.thaw()
        client.send(wire.Ask(1, DeclareQueue("q")))
        assert client.receive_until(Done) == Done(1)
        client.sock.close()


def test_a_client_that_does_not_read_slows_nobody_and_is_not_fed_for_ever(
    broker: Broker, raw: Callable[..., Raw], driver: Driver
) -> None:
    driver.queue("q")
    deaf = raw()
    deaf.send(wire.Ask(1, Subscribe(1, "q", 65535)))
    deaf.receive_until(Done)
    start = time.monotonic()
    for _ in range(60):
        assert send(driver, "q", bytes(1 << 20)).outcome is Outcome.CONFIRMED
    assert time.monotonic() - start < WAIT
    assert max(waiting(broker)) < 4 << 20, "a client that does not read has megabytes waiting for it"
    driver.subscribe("q", 1)  # what is not in the deaf one's buffer is for others
    driver.one()
    came = 0
    while came < 59 and deaf.receive_until(Delivery):
        came += 1
        deaf.send(wire.Settle(came, requeue=False))
    assert came == 59  # it reads again, and is served again


def test_a_client_that_asks_without_end_and_reads_no_answer_is_not_read_any_more(
    broker: Broker, raw: Callable[..., Raw], driver: Driver
) -> None:
    deaf = raw()
    deaf.sock.settimeout(0.5)
    question = bytearray()
    for number in range(1000):
        wire.write(question, wire.Ask(number, PurgeQueue("x" * 1000)))
    with pytest.raises(TimeoutError):
        deaf.sock.sendall(bytes(question) * 100)  # a hundred megabytes
    assert max(waiting(broker)) < 16 << 20
    driver.queue("q")
    assert send(driver, "q", b"x").outcome is Outcome.CONFIRMED


def test_a_full_broker_refuses_with_the_reason_and_recovers(path: str) -> None:
    broker = Broker(path, total_limit=8 << 20, queue_limit=6 << 20)
    with broker:
        thread = threading.Thread(target=broker.serve_forever)
        thread.start()
        driver = connected(path)
        for name in ("a", "b"):
            driver.queue(name)
        outcomes = [send(driver, "a", bytes(1 << 20)) for _ in range(7)]
        assert [settled.outcome for settled in outcomes] == [Outcome.CONFIRMED] * 5 + [Outcome.REFUSED] * 2
        assert "queue 'a' is full" in outcomes[-1].reason
        outcomes = [send(driver, "b", bytes(1 << 20)) for _ in range(4)]
        assert [settled.outcome for settled in outcomes] == [Outcome.CONFIRMED] * 2 + [Outcome.REFUSED] * 2
        assert "the broker is full" in outcomes[-1].reason
        driver.ask(PurgeQueue("a"))
        assert send(driver, "b", bytes(1 << 20)).outcome is Outcome.CONFIRMED
        driver.close()
        broker.stop()
        thread.join(WAIT)


def test_a_body_over_the_limit_is_refused_and_the_connection_stays(driver: Driver) -> None:
    driver.queue("q")
    settled = send(driver, "q", bytes(wire.MAX_BODY + 1))
    assert settled.outcome is Outcome.REFUSED
    assert str(wire.MAX_BODY) in settled.reason
    assert send(driver, "q", bytes(wire.MAX_BODY)).outcome is Outcome.CONFIRMED


def test_without_descriptors_it_waits_and_then_goes_on(path: str) -> None:
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
from gofer.messaging.local.server import Broker
with Broker({path!r}) as broker:
    print("open", flush=True)
    broker.serve_forever()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        first = connected(path)
        crowd = [Raw(path) for _ in range(40)]
        first.queue("q")  # it serves those it has
        used = resource_time(process.pid)
        threading.Event().wait(0.3)  # the time is what is measured: nothing is waited for
        assert resource_time(process.pid) - used < 0.2, "it spins"
        for client in crowd:
            client.sock.close()
        connected(path).close()
        assert process.poll() is None
        first.close()
        process.kill()


def waiting(broker: Broker) -> list[int]:
    """Return how many bytes wait for each client."""
    return [client._transport.get_write_buffer_size() for client in broker._clients]


def resource_time(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
