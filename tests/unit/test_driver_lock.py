"""The main thread's one step: it writes, or changes nothing, and never keeps the lock."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from gofer.messaging.driver_lock import DriverLock
from gofer.messaging.wire import Wire


class Sender:
    """A wire, its peer, and a lock whose I/O thread sleeps."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.wire = Wire(ours)
        self.lock = DriverLock()
        self.lock.acquire()
        self.lock.sleep()
        self.notes: list[str] = []
        self.failures: list[OSError] = []

    def write(self, data: bytes, asleep: object = None) -> bool | None:
        return self.lock.write(
            self.lock.asleep if asleep is None else asleep,
            self.wire,
            data,
            note=Note(self.notes),
            failed=self.failures.append,
        )

    @property
    def free(self) -> bool:
        """Whether another thread can acquire the lock."""
        found: list[bool] = []
        thread = threading.Thread(target=lambda: found.append(self.lock.try_acquire()))
        thread.start()
        thread.join(30)
        if found[0]:
            self.lock.release()
        return found[0]

    def fill(self) -> int:
        """Send until the socket takes nothing more; return how many bytes that were."""
        self.wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        sent = 0
        try:
            while True:
                sent += self.wire.sock.send(b"x" * 1000)
        except BlockingIOError:
            return sent


class Note:
    """Notes that it was called."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def __call__(self) -> None:
        self._notes.append("sent")


@pytest.fixture
def sender() -> Iterator[Sender]:
    made = Sender()
    yield made
    made.wire.close()
    made.peer.close()


def test_it_writes_and_releases_the_lock(sender: Sender) -> None:
    for number in range(3):
        assert sender.write(b"%d" % number) is True
        assert sender.peer.recv(10) == b"%d" % number
        assert sender.free
        assert not sender.lock.is_interrupted
    assert len(sender.notes) == 3


def test_it_does_nothing_while_another_thread_has_the_lock(sender: Sender) -> None:
    assert sender.lock.try_acquire()
    assert sender.write(b"x") is None
    sender.lock.release()
    assert sender.notes == []
    assert sender.write(b"y") is True
    assert sender.peer.recv(10) == b"y"


def test_it_does_nothing_when_the_io_thread_was_awake_meanwhile(sender: Sender) -> None:
    asleep = sender.lock.asleep
    assert not sender.lock.wake_up()
    assert sender.write(b"x", asleep) is None
    sender.lock.sleep()
    assert sender.write(b"x", asleep) is None
    assert sender.free
    assert sender.notes == []


def test_it_does_nothing_while_other_bytes_wait(sender: Sender) -> None:
    sender.wire.buffer += b"rest"
    assert sender.write(b"x") is None
    assert sender.free
    assert (sender.notes, bytes(sender.wire.buffer)) == ([], b"rest")


def test_what_the_socket_does_not_take_waits_for_the_io_thread(sender: Sender) -> None:
    before = sender.fill()
    assert sender.write(b"late") is False
    assert sender.free
    assert bytes(sender.wire.buffer) == b"late"
    sender.wire.buffer.clear()
    got = 0
    while got < before:
        got += len(sender.peer.recv(1 << 16))
    data = b"y" * 1_000_000  # more than it takes at once
    assert sender.write(data) is False
    assert sender.free
    assert 0 < len(sender.wire.buffer) < len(data)
    assert len(sender.notes) == 2
    assert sender.failures == []


def test_the_end_of_the_socket_is_told(sender: Sender) -> None:
    sender.peer.close()
    assert sender.write(b"x") is False
    assert sender.free
    assert [type(error) for error in sender.failures] == [BrokenPipeError]


def test_a_lock_that_was_left_half_way_is_free_again(sender: Sender) -> None:
    assert sender.lock.try_acquire()
    sender.lock._steps = [True]
    assert sender.lock.is_interrupted
    assert sender.lock.wake_up()
    sender.lock.sleep()
    assert sender.write(b"x") is True
    assert not sender.lock.wake_up()
