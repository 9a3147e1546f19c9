"""A thread for jobs that may take a while: hooks, Admin, cancelling, passwords. No reader or worker waits for it."""

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


class SerialThread:
    """Does jobs one after another, in the order in which they came, in a thread of its own. Any thread.

    The thread starts with the first job and ends some time after the last one. A job may have its work limited.
    Nothing can end work that takes longer, so it is left to itself, and another thread goes on with the jobs behind it.
    At most ``most`` are left to themselves at a time; more are not started.

    Args:
        limit: seconds.
        idle: seconds without a job after which the thread ends.
    """

    def __init__(self, name: str, *, limit: float = 1.0, most: int = 4, idle: float = _IDLE) -> None:
        self._name = name
        self.limit = limit
        self.most = most
        self._idle = idle
        self._changed = threading.Condition(threading.Lock())
        self._jobs: deque[Job] = deque()
        self._thread: threading.Thread | None = None
        self._running = False
        self._late: Job | None = None  # of the limited work in hand, which is due then
        self._due = inf
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

    @property
    def is_current(self) -> bool:
        """Whether this is its thread."""
        return self._thread is threading.current_thread()

    def put(self, job: Job) -> None:
        """Have a job done; what it raises is logged. Never waits."""
        with self._changed:
            self._jobs.append(job)
            if self._thread is None:
                self._start()
            else:
                self._changed.notify()

    def flush(self, timeout: float) -> bool:
        """Wait until all jobs so far are done, at most ``timeout`` seconds; tell whether they are."""
        if not self.busy:
            return True
        done = threading.Event()
        self.put(done.set)
        return done.wait(timeout)

    def limited(self, work: Job, late: Job) -> Outcome:
        """Do some work of the job that calls this; what it raises goes through, unless it is late.

        Args:
            late: called by the thread of ``look`` when it takes too long; nothing of the job may be done after that.
        """
        with self._changed:
            if self._hanging >= self.most:
                return Outcome.FULL
            self._due, self._late = time.monotonic() + self.limit, late
        failed: BaseException | None = None
        try:
            work()
        except BaseException as raised:  # noqa: BLE001 - raised again, if it still counts
            failed = raised
        with self._changed:
            over = not self.is_current  # ``look`` has another thread go on
            if over:
                self._hanging -= 1
            else:
                self._due, self._late = inf, None
        if over:
            log.warning("%s: work that had taken too long has ended", self._name, exc_info=failed)
            return Outcome.LATE
        if failed is not None:
            raise failed
        return Outcome.DONE

    def look(self, now: float) -> float:
        """See whether the work in hand takes too long; return when to look again. Called by one thread, often."""
        if self._due > now:
            return self._due
        with self._changed:
            late, self._late = self._late, None
            if late is None:  # it has ended just now
                return inf
            self._due = inf
            self._hanging += 1
            self._thread = None
            self._running = False
            if self._jobs:
                self._start()
        late()
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
        while (job := self._next()) is not None:
            try:
                job()
            except BaseException:  # SystemExit, too: the others are still to be done
                log.exception("%s: a job failed", self._name)
            del job  # or the last request would live until the next one

    def _next(self) -> Job | None:
        with self._changed:
            if not self.is_current:
                return None  # another one has gone on
            self._running = False
            if not self._changed.wait_for(lambda: self._jobs or self._stopped, self._idle) or not self._jobs:
                self._thread = None
                return None
            self._running = True
            return self._jobs.popleft()
