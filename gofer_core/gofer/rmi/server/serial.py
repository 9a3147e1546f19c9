"""A thread beside the one that reads the broker, for jobs that may take a while."""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from math import inf

__all__ = ["Outcome", "SerialThread"]

log = logging.getLogger(__name__)

_IDLE = 2.0  # seconds without a job after which the thread ends

Job = Callable[[], object]


class Outcome(enum.Enum):
    """What became of limited work."""

    DONE = "done"
    LATE = "late"  # it took longer than it may; the jobs behind it have gone on meanwhile
    FULL = "full"  # not done: too many others hang


class _Work:
    """Limited work that is being done."""

    __slots__ = ("due", "late", "over")

    def __init__(self, due: float, late: Job) -> None:
        self.due = due
        self.late = late
        self.over = False


class SerialThread:
    """Does jobs one after another, in the order in which they came, in a thread of its own. Any thread; nothing waits.

    A job may have its work limited. Nothing can end work that takes longer, so it is left to itself, and another thread
    goes on with the jobs behind it. At most ``most`` are left to themselves at a time; more are not started.

    Args:
        limit: seconds.
    """

    def __init__(self, name: str, *, limit: float = 1.0, most: int = 4) -> None:
        self._name = name
        self.limit = limit
        self.most = most
        self._changed = threading.Condition(threading.Lock())
        self._jobs: deque[Job] = deque()
        self._thread: threading.Thread | None = None
        self._running = False
        self._work: _Work | None = None
        self._hanging = 0
        self._stopped = False

    @property
    def busy(self) -> bool:
        """Whether a job waits or is being done; those that were left to themselves do not count."""
        return self._running or bool(self._jobs)

    @property
    def waiting(self) -> int:
        """How many jobs have not started."""
        return len(self._jobs)

    def put(self, job: Job) -> None:
        """Have a job done; what it raises is logged."""
        with self._changed:
            self._jobs.append(job)
            if self._thread is None:
                self._start()
            else:
                self._changed.notify()

    def limited(self, work: Job, late: Job) -> Outcome:
        """Do some work of the job that calls this; what it raises goes through, unless it is late.

        Args:
            late: called by the thread of ``look`` when it takes too long; nothing of the job may be done after that.
        """
        with self._changed:
            if self._hanging >= self.most:
                return Outcome.FULL
            mine = self._work = _Work(time.monotonic() + self.limit, late)
        failed: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # noqa: BLE001 - raised again, if it still counts
            failed = raised
        with self._changed:
            if mine.over:
                self._hanging -= 1
            else:
                self._work = None
        if mine.over:
            log.warning("%s: work that had taken too long has ended", self._name, exc_info=failed)
            return Outcome.LATE
        if failed is not None:
            raise failed
        return Outcome.DONE

    def look(self, now: float) -> float:
        """See whether the work in hand takes too long. Called by one thread, often.

        Returns:
            When to look again.
        """
        if self._work is None:
            return inf
        with self._changed:
            work = self._work
            if work is None or work.due > now:
                return inf if work is None else work.due
            work.over = True
            self._hanging += 1
            self._work = self._thread = None
            self._running = False
            if self._jobs:
                self._start()
        work.late()
        return inf

    def stop(self) -> None:
        """Have the thread end when all jobs are done. What hangs is left to itself."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _start(self) -> None:
        thread = self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        thread.start()

    def _run(self) -> None:
        me = threading.current_thread()
        while (job := self._next(me)) is not None:
            try:
                job()
            except BaseException:  # SystemExit, too: the others are still to be done
                log.exception("%s: a job failed", self._name)
            del job  # or the last request would live until the next one

    def _next(self, me: threading.Thread) -> Job | None:
        with self._changed:
            if self._thread is not me:
                return None  # another one has gone on
            self._running = False
            until = time.monotonic() + _IDLE
            while not self._jobs:
                left = until - time.monotonic()
                if left <= 0 or self._stopped:
                    self._thread = None
                    return None
                self._changed.wait(left)
            self._running = True
            return self._jobs.popleft()
