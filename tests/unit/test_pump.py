"""The pump: one thread works for all that wait, and nobody's wake-up is lost."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
from gofer.messaging.pump import Pump, Waiter


class Post:
    """A pump over a queue: each letter wakes the one it is for. Counts how many threads take turns at a time."""

    def __init__(self) -> None:
        self.letters: queue.Queue[int | None] = queue.Queue()
        self.arrived: set[int] = set()
        self.waiters: dict[int, Waiter] = {}
        self.turning = 0
        self.most = 0
        self.fail: Exception | None = None
        self.pump = Pump(self.turn, lambda: self.letters.put(None))

    def turn(self, timeout: float) -> None:
        self.turning += 1
        self.most = max(self.most, self.turning)
        try:
            if self.fail is not None:
                raise self.fail
            try:
                letter = self.letters.get(timeout=timeout)
            except queue.Empty:
                return
            if letter is not None:
                self.arrived.add(letter)
                self.waiters[letter].wake()
        finally:
            self.turning -= 1

    def wait_for(self, letter: int, timeout: float) -> bool:
        waiter = self.waiters[letter]
        return self.pump.drive(lambda: letter in self.arrived, time.monotonic() + timeout, waiter)

    def expect(self, count: int) -> None:
        for letter in range(count):
            self.waiters[letter] = Waiter()


@pytest.fixture
def post() -> Post:
    return Post()


def test_ready_is_returned_at_once_without_a_turn(post: Post) -> None:
    assert post.pump.drive(lambda: True, time.monotonic() + 30)
    assert post.most == 0


def test_a_deadline_ends_the_wait(post: Post) -> None:
    start = time.monotonic()
    assert not post.pump.drive(lambda: False, start + 0.2)
    assert 0.2 <= time.monotonic() - start < 20
    assert not post.pump.busy


def test_letters_in_any_order_reach_everybody_and_one_thread_turns_at_a_time(post: Post) -> None:
    count = 64
    post.expect(count)
    order = list(range(count))
    Random(7).shuffle(order)
    with ThreadPoolExecutor(count) as threads:
        waiting = [threads.submit(post.wait_for, n, 30) for n in range(count)]
        for n in order:
            post.letters.put(n)
        assert all(one.result(30) for one in waiting)
    assert post.most == 1
    assert not post.pump.busy


def test_who_times_out_while_pumping_hands_over(post: Post) -> None:
    post.expect(2)
    with ThreadPoolExecutor(2) as threads:
        short = threads.submit(post.wait_for, 0, 0.3)
        while not post.pump.busy:
            time.sleep(0.001)
        long = threads.submit(post.wait_for, 1, 30)
        assert not short.result(30)
        start = time.monotonic()
        post.letters.put(1)
        assert long.result(30)
        assert time.monotonic() - start < 10  # not the 30 seconds of its wait


def test_a_turn_that_raises_ends_its_own_wait_and_the_next_one_pumps(post: Post) -> None:
    post.expect(2)
    post.fail = KeyError("read")
    with pytest.raises(KeyError, match="read"):
        post.wait_for(0, 10)
    assert not post.pump.busy
    post.fail = None
    post.letters.put(1)
    assert post.wait_for(1, 10)


def test_sleepers_look_again_when_all_are_woken(post: Post) -> None:
    gone = threading.Event()
    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(post.pump.drive, gone.is_set, None) for _ in range(8)]
        while not post.pump.busy:
            time.sleep(0.001)
        gone.set()
        post.pump.wake_all()
        assert all(one.result(30) for one in waiting)


def test_waiting_in_a_handler_is_refused(post: Post) -> None:
    """It could only wait for itself."""
    caught: list[BaseException] = []

    def turn(timeout: float) -> None:
        try:
            pump.drive(lambda: False, None)
        except RuntimeError as refused:
            caught.append(refused)

    pump = Pump(turn, lambda: None)
    assert pump.drive(lambda: bool(caught), time.monotonic() + 30)
    assert "thread that reads" in str(caught[0])


def test_alone_waits_for_the_pumper_to_leave_and_gives_up_in_time(post: Post) -> None:
    post.expect(1)
    done: list[int] = []
    with ThreadPoolExecutor(1) as threads:
        pumping = threads.submit(post.wait_for, 0, 30)
        while not post.pump.busy:
            time.sleep(0.001)
        assert not post.pump.alone(lambda: done.append(1), 0.0)
        assert not post.pump.alone(lambda: done.append(1), 0.1)
        post.letters.put(0)
        assert pumping.result(30)
    assert post.pump.alone(lambda: done.append(2), 5.0)
    assert done == [2]


def test_nobody_is_forgotten_under_random_deadlines(post: Post) -> None:
    """Each wait ends within a second of its letter or its deadline, whoever pumps and whoever leaves."""
    random = Random(20261122)
    count = 400
    post.expect(count)
    waits = [random.uniform(0.01, 0.4) for _ in range(count)]
    delays = [random.uniform(0.0, 0.4) for _ in range(count)]
    late: list[str] = []

    def one(n: int) -> bool:
        start = time.monotonic()
        timer = threading.Timer(delays[n], post.letters.put, [n])
        timer.daemon = True
        timer.start()
        found = post.wait_for(n, waits[n])
        took = time.monotonic() - start
        if took > min(waits[n], delays[n]) + 1:
            late.append(f"{took:.2f} s for a wait of {waits[n]:.2f} s and a letter after {delays[n]:.2f} s")
        timer.join()
        return found

    with ThreadPoolExecutor(32) as threads:
        found = list(threads.map(one, range(count)))
    assert not late
    assert any(found)
    assert not all(found)
    assert post.most == 1
    assert not post.pump.busy
