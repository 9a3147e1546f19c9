"""What bad company does to the local broker and to those who use it meanwhile: nothing."""

from __future__ import annotations

import os
import random
import select
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
from gofer.messaging.adapter.base import Delivery, Outcome, QueueSpec, Settled
from gofer.messaging.adapter.local import LocalAdapter
from gofer.messaging.address import Address
from gofer.messaging.broker import Broker, protocol, serving
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from support.local_clients import WAIT, Raw, connected, event, send


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
            client.say(protocol.Hello(protocol.VERSION, heartbeat))
            assert client.hear() == protocol.Welcome(protocol.VERSION, broker.instance)
        return client

    yield connect
    for client in opened:
        client.sock.close()


@pytest.fixture
def adapter(broker: Broker) -> Iterator[LocalAdapter]:
    made = connected(broker.path)
    yield made
    made.close()


GARBAGE = {
    "text": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "zeros": bytes(1000),
    "ones": b"\xff" * 1000,
    "an unknown frame": b"\0\0\0\x02\x91\x63",
    "a frame of the broker": b"\0\0\0\x02\x91\x0e",
    "noise": random.Random(7).randbytes(5000),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("greeted", [False, True])
def test_who_talks_garbage_is_told_and_left_and_nobody_else_notices(
    raw: Callable[..., Raw], adapter: LocalAdapter, garbage: bytes, greeted: bool
) -> None:
    adapter.declare_queue(QueueSpec("q"), WAIT)
    adapter.subscribe("q", 1, WAIT)
    bad = raw(greeted=greeted)
    if greeted and garbage == GARBAGE["a frame of the broker"]:
        garbage = b"\0\0\0\x03\x92\x01\x01"  # a second greeting: a heartbeat is allowed by now
    bad.sock.sendall(garbage)
    failure = bad.hear_until(protocol.Failure)
    assert isinstance(failure, protocol.Failure)
    assert failure.reason
    assert bad.hear() is None
    adapter.send(1, Address("", "q"), b"still there")
    adapter.flush()
    came: list[object] = []
    while len(came) < 2:
        select.select([adapter.fileno()], [], [], WAIT)
        came += adapter.process()
    assert {type(one) for one in came} == {Settled, Delivery}


def test_what_a_garbage_sender_held_goes_back_at_once(raw: Callable[..., Raw], adapter: LocalAdapter) -> None:
    adapter.declare_queue(QueueSpec("q"), WAIT)
    assert send(adapter, "q", b"held").outcome is Outcome.TAKEN
    bad = raw()
    bad.say(protocol.Subscribe(1, "q", 1, False))
    bad.hear_until(protocol.Deliver)
    bad.sock.sendall(b"\xff" * 100)
    adapter.subscribe("q", 1, WAIT)
    delivery = event(adapter)
    assert isinstance(delivery, Delivery)
    assert (delivery.body, delivery.redelivered) == (b"held", True)


def test_another_version_is_told_by_both_numbers(raw: Callable[..., Raw]) -> None:
    client = raw(greeted=False)
    client.say(protocol.Hello(protocol.VERSION + 1))
    failure = client.hear()
    assert isinstance(failure, protocol.Failure)
    assert failure.reason.startswith("this broker speaks version 1 of its protocol and the client version 2:")
    assert client.hear() is None


def test_a_broker_that_sends_us_away_is_an_adapter_error_with_its_reason(tmp_path: Path) -> None:
    path = str(tmp_path / "peer.sock")
    farewell = bytearray()
    protocol.put(farewell, protocol.Failure("because I say so"))
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
            LocalAdapter(Connector(URL.parse(f"local://{path}"))).connect(WAIT)
        thread.join(WAIT)


@pytest.mark.parametrize("heartbeat", [-1.0, float("nan"), float("inf")])
def test_a_senseless_heartbeat_is_refused(raw: Callable[..., Raw], heartbeat: float) -> None:
    client = raw(greeted=False)
    client.say(protocol.Hello(protocol.VERSION, heartbeat))
    failure = client.hear()
    assert isinstance(failure, protocol.Failure)
    assert "heartbeat" in failure.reason


def test_another_user_is_refused() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be another user")
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)  # the directory and the socket let everybody in: what is left is the broker itself
        path = f"{directory}/broker.sock"
        code = f"""
import os
from gofer.errors import AdapterError
from gofer.messaging.adapter.local import LocalAdapter
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
os.setgid(65534)
os.setuid(65534)
try:
    LocalAdapter(Connector(URL.parse("local://{path}"))).connect(10)
except AdapterError as error:
    print(error)
"""
        with serving(path):
            os.chmod(path, 0o666)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            assert done.stdout == f"local broker at {path}: user 65534 may not use this broker: it belongs to user 0\n"
            connected(path).close()


def test_a_client_that_does_not_read_slows_nobody_and_is_not_fed_for_ever(
    broker: Broker, raw: Callable[..., Raw], adapter: LocalAdapter
) -> None:
    adapter.declare_queue(QueueSpec("q"), WAIT)
    deaf = raw()
    deaf.say(protocol.Subscribe(1, "q", 65535, False))
    deaf.hear_until(protocol.Done)
    start = time.monotonic()
    for _ in range(60):
        assert send(adapter, "q", bytes(1 << 20)).outcome is Outcome.TAKEN
    assert time.monotonic() - start < WAIT
    held = sum(len(client.out) for client in broker._clients)
    assert held < 4 << 20, "a client that does not read has megabytes waiting for it"
    adapter.subscribe("q", 1, WAIT)  # what is not in the deaf one's buffer is for others
    delivery = event(adapter)
    assert isinstance(delivery, Delivery)
    came = 0
    while came < 59 and isinstance(deaf.hear_until(protocol.Deliver), protocol.Deliver):
        came += 1
        deaf.say(protocol.Settle(came, 0))
    assert came == 59  # it reads again, and is served again


def test_a_client_that_asks_without_end_and_reads_no_answer_is_not_read_any_more(
    broker: Broker, raw: Callable[..., Raw], adapter: LocalAdapter
) -> None:
    deaf = raw()
    deaf.sock.settimeout(0.5)
    question = bytearray()
    for number in range(1000):
        protocol.put(question, protocol.PurgeQueue(number, "x" * 1000))
    with pytest.raises(TimeoutError):
        deaf.sock.sendall(bytes(question) * 100)  # a hundred megabytes
    assert max(len(client.out) for client in broker._clients) < 16 << 20
    adapter.declare_queue(QueueSpec("q"), WAIT)
    assert send(adapter, "q", b"x").outcome is Outcome.TAKEN


def test_a_full_broker_refuses_with_the_reason_and_recovers(path: str) -> None:
    broker = Broker(path, total_limit=8 << 20, queue_limit=6 << 20)
    with broker:
        thread = threading.Thread(target=broker.serve_forever)
        thread.start()
        adapter = connected(path)
        for name in ("a", "b"):
            adapter.declare_queue(QueueSpec(name), WAIT)
        outcomes = [send(adapter, "a", bytes(1 << 20)) for _ in range(7)]
        assert [settled.outcome for settled in outcomes] == [Outcome.TAKEN] * 5 + [Outcome.REFUSED] * 2
        assert "queue 'a' is full" in outcomes[-1].reason
        outcomes = [send(adapter, "b", bytes(1 << 20)) for _ in range(4)]
        assert [settled.outcome for settled in outcomes] == [Outcome.TAKEN] * 2 + [Outcome.REFUSED] * 2
        assert "the broker is full" in outcomes[-1].reason
        adapter.purge_queue("a", WAIT)
        assert send(adapter, "b", bytes(1 << 20)).outcome is Outcome.TAKEN
        adapter.close()
        broker.stop()
        thread.join(WAIT)


def test_a_body_over_the_limit_is_refused_and_the_connection_stays(adapter: LocalAdapter) -> None:
    adapter.declare_queue(QueueSpec("q"), WAIT)
    settled = send(adapter, "q", bytes(protocol.MAX_BODY + 1))
    assert settled.outcome is Outcome.REFUSED
    assert str(protocol.MAX_BODY) in settled.reason
    assert send(adapter, "q", bytes(protocol.MAX_BODY)).outcome is Outcome.TAKEN


def test_without_descriptors_it_waits_and_then_goes_on(path: str) -> None:
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
from gofer.messaging.broker import Broker
with Broker({path!r}) as broker:
    print("open", flush=True)
    broker.serve_forever()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        first = connected(path)
        crowd = [Raw(path) for _ in range(40)]
        first.declare_queue(QueueSpec("q"), WAIT)  # it serves those it has
        used = resource_time(process.pid)
        threading.Event().wait(0.3)  # the time is what is measured: nothing is waited for
        assert resource_time(process.pid) - used < 0.2, "it spins"
        for client in crowd:
            client.sock.close()
        connected(path).close()
        assert process.poll() is None
        first.close()
        process.kill()


def resource_time(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
