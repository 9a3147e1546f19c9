"""Workers: threads that nothing ends but ``stop``."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from gofer.rmi.server.workers import Task, Workers
from support.waiting import eventually


class Job:
    """A task around a function."""

    def __init__(self, function: Callable[[], object], name: str = "") -> None:
        self.function = function
        self.name = name

    def run(self) -> None:
        self.function()


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers("dog", 2)
    workers.start()
    yield workers
    workers.stop(5)


def names(tasks: list[Task]) -> list[str]:
    return [task.name for task in tasks if isinstance(task, Job)]


def test_as_many_run_at_a_time_as_there_are_threads(workers: Workers) -> None:
    meeting = threading.Barrier(2)
    met: list[str] = []

    def meet() -> None:
        meeting.wait(30)
        met.append(threading.current_thread().name)

    workers.put(Job(meet))
    workers.put(Job(meet))
    eventually(lambda: len(met) == 2)
    assert sorted(met) == ["gofer-dog-1", "gofer-dog-2"]


def test_one_thread_keeps_the_order() -> None:
    workers, done = Workers("dog", 1), list[int]()
    for n in range(100):
        workers.put(Job(lambda n=n: done.append(n)))  # type: ignore[misc]  # mypy cannot infer a lambda's default
    workers.start()
    eventually(lambda: len(done) == 100)
    assert done == list(range(100))
    workers.stop(5)


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_nothing_that_is_raised_ends_a_thread(
    workers: Workers, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise kind("out")

    for _ in range(4):
        workers.put(Job(fail))
    done = threading.Semaphore(0)
    workers.put(Job(done.release))
    assert done.acquire(timeout=30)
    eventually(lambda: caplog.text.count(f"{kind.__name__}: out") == 4)


def test_a_log_handler_that_raises_ends_no_thread(workers: Workers, capfd: pytest.CaptureFixture[str]) -> None:
    class Bad(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("cannot log")

    def fail() -> None:
        raise ValueError("out")

    bad = Bad()
    logging.getLogger().addHandler(bad)
    try:
        for _ in range(4):
            workers.put(Job(fail))
        done = threading.Semaphore(0)
        workers.put(Job(done.release))
        assert done.acquire(timeout=30)
        workers.stop(5)
    finally:
        logging.getLogger().removeHandler(bad)
    assert capfd.readouterr().err.count("a worker's task failed") == 4


def test_stop_gives_back_what_waits_and_reports_what_runs() -> None:
    workers, entered, leave = Workers("dog", 1), threading.Event(), threading.Event()
    workers.start()

    def stay() -> None:
        entered.set()
        leave.wait(10)

    workers.put(Job(stay, "runs"))
    workers.put(Job(lambda: sys.exit("never"), "waits"))
    workers.put(Job(lambda: sys.exit("never"), "waits, too"))
    assert entered.wait(30)

    waiting, running = workers.stop(0.05)
    assert (names(waiting), names(running)) == (["waits", "waits, too"], ["runs"])

    leave.set()
    assert workers.stop(5) == ([], [])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gofer-dog")]


def test_stop_waits_for_what_runs() -> None:
    workers, entered, leave = Workers("dog", 1), threading.Event(), threading.Event()
    done: list[str] = []
    workers.start()

    def stay() -> None:
        entered.set()
        leave.wait(10)
        done.append("ended")

    workers.put(Job(stay))
    assert entered.wait(30)
    threading.Timer(0.05, leave.set).start()
    assert workers.stop(5) == ([], [])
    assert done == ["ended"]


def test_withdrawing_some_leaves_the_others_in_their_order() -> None:
    workers, done = Workers("dog", 1), list[str]()
    for name in ("a1", "b1", "a2", "b2"):
        workers.put(Job(lambda name=name: done.append(name), name))  # type: ignore[misc]  # as above
    taken = workers.withdraw(lambda task: isinstance(task, Job) and task.name.startswith("a"))
    assert names(taken) == ["a1", "a2"]
    assert workers.waiting == 2
    workers.start()
    eventually(lambda: len(done) == 2)
    assert done == ["b1", "b2"]
    workers.stop(5)


def test_threads_start_when_they_are_needed_and_not_before() -> None:
    workers, leave = Workers("dog", 3), threading.Event()

    def threads() -> list[str]:
        return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("gofer-dog"))

    workers.start()
    assert threads() == []
    done = threading.Semaphore(0)
    for _ in range(5):  # one after the other: one thread is enough
        workers.put(Job(done.release))
        assert done.acquire(timeout=30)
        eventually(lambda: workers.busy == 0)
    assert threads() == ["gofer-dog-1"]
    for _ in range(5):
        workers.put(Job(lambda: leave.wait(30)))
    eventually(lambda: workers.busy == 3)
    assert threads() == ["gofer-dog-1", "gofer-dog-2", "gofer-dog-3"]
    leave.set()
    eventually(lambda: workers.waiting == 0)
    assert workers.stop(30) == ([], [])
    assert threads() == []


def test_a_thread_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workers, done = Workers("dog", 1), list[int]()
    workers.start()
    with monkeypatch.context() as patch:
        name = "_start_joinable_thread" if sys.version_info >= (3, 13) else "_start_new_thread"
        patch.setattr(threading, name, _no_more_threads)
        workers.put(Job(lambda: done.append(1)))
    assert "gofer-dog-1 cannot be started: can't start new thread" in caplog.text
    workers.put(Job(lambda: done.append(2)))
    eventually(lambda: done == [1, 2])
    assert workers.stop(30) == ([], [])


def _no_more_threads(*_: object, **__: object) -> None:
    raise RuntimeError("can't start new thread")
