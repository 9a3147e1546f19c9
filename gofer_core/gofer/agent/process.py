"""What goferd has to do with its operating system: its lock, its signals, its service manager, its memory."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import signal
import socket
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from time import monotonic
from types import FrameType

from gofer.errors import ConfigError
from gofer.root import Root

__all__ = ["AgentLock", "AlreadyRunning", "Signals", "give_memory_back", "notify", "watchdog_interval"]


class AlreadyRunning(ConfigError):
    """Another goferd holds the root. ``holder`` is its process id, None when it has not written it yet."""

    def __init__(self, path: str, holder: int | None) -> None:
        who = "another process" if holder is None else f"process {holder}"
        super().__init__(f"goferd is already running: {who} holds {path}")
        self.path = path
        self.holder = holder


class AgentLock:
    """The lock of a root, ``goferd.lock`` in its run directory: taken by entering ``with``, given back by leaving it.

    The file holds the process id of its holder, for people. It stays when the lock is given back: deleting it would let
    a third process lock another file of the same name.
    """

    def __init__(self, root: Root) -> None:
        """Remember the root. Nothing is opened yet."""
        self._root = root
        self._fd: int | None = None

    def __enter__(self) -> AgentLock:
        """Take the lock at once, or not at all.

        Raises:
            AlreadyRunning: another process has it.
            ConfigError: the run directory or the file cannot be used.
        """
        path = self._root.ensure(self._root.run) / "goferd.lock"
        try:
            # Not inherited by children: what a plugin has started must not hold the lock when goferd is gone.
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 20, 0).strip()
            os.close(fd)
            raise AlreadyRunning(str(path), int(holder) if holder.isdigit() else None) from None
        except OSError as error:
            os.close(fd)
            raise ConfigError(f"{path}: cannot be locked: {error.strerror}") from error
        self._fd = fd
        self._tell(f"{os.getpid()}\n")
        os.register_at_fork(after_in_child=self._leave_it)
        return self

    def __exit__(self, *raised: object) -> None:
        """Give the lock back."""
        if self._fd is not None:
            self._tell("")
            os.close(self._fd)
            self._fd = None

    def _tell(self, holder: str) -> None:
        assert self._fd is not None  # noqa: S101 - it is open
        # It is for people: an agent on a full disk is still wanted, to make room there.
        with suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, holder.encode(), 0)

    def _leave_it(self) -> None:
        # What a plugin has forked would hold the lock, too, when goferd is gone.
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


_WOKEN = 0  # no signal has this number


class Signals:
    """The signals that this process wants to hear of, from entering ``with`` to its end. For the main thread alone.

    One that arrives while nobody waits is kept for the next ``wait``. They are not blocked, so that what plugins start
    does not inherit a mask under which it could not be ended.
    """

    def __init__(self, wanted: Iterable[signal.Signals]) -> None:
        """Remember which signals are wanted."""
        self._wanted = tuple(wanted)

    def __enter__(self) -> Signals:
        """Begin to keep the signals."""
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._former = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in self._wanted:
            signal.signal(number, _ignore)
        os.register_at_fork(after_in_child=self._leave_them)
        return self

    def __exit__(self, *raised: object) -> None:
        """Ignore the signals from now on: what ends now has been told to, or has failed."""
        for number in self._wanted:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(self._former)
        os.close(self._read)
        write, self._write = self._write, -1
        os.close(write)

    def _leave_them(self) -> None:
        # A process that a plugin has forked has our pipe: what ends that process would be told to this one.
        if self._write < 0:
            return
        signal.set_wakeup_fd(-1)
        for number in self._wanted:
            signal.signal(number, signal.SIG_DFL)
        os.close(self._read)
        os.close(self._write)
        self._write = -1

    def wake(self) -> None:
        """Have ``wait`` return None soon. Any thread may call this; after the end it does nothing."""
        try:
            os.write(self._write, bytes([_WOKEN]))
        except OSError:
            pass  # full: it wakes anyhow; closed: nobody waits any more

    def wait(self, timeout: float | None = None) -> signal.Signals | None:
        """Wait for the next signal, at most ``timeout`` seconds; None: no limit.

        Returns:
            The signal, or None when the time is over or ``wake`` was called.
        """
        deadline = None if timeout is None else monotonic() + timeout
        poller = select.poll()
        poller.register(self._read, select.POLLIN)
        while True:
            left = None if deadline is None else max(0.0, deadline - monotonic()) * 1000
            if not poller.poll(left):
                return None
            try:
                number = os.read(self._read, 1)[0]
            except BlockingIOError:
                continue
            if number == _WOKEN:
                return None
            if number in self._wanted:
                return signal.Signals(number)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Stand as a handler, so that the default action does not; the wake-up descriptor tells of the signal."""


def notify(environ: Mapping[str, str], state: str) -> bool:
    """Send a state such as ``READY=1`` to the socket that ``NOTIFY_SOCKET`` names. ``main.py`` decides when.

    Returns:
        Whether it was sent; False where no service manager asked for it, or where it does not listen (which must never
        keep the agent from its work). Never blocks.
    """
    path = environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return False
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.sendto(state.encode(), address)
        except OSError:
            return False
    return True


def watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Return how often the service manager wants to be told ``WATCHDOG=1``, in seconds: half of its limit.

    Returns:
        None where it has no watchdog, or has one for another process.
    """
    limit, process = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (limit.isascii() and limit.isdigit() and int(limit)) or process not in ("", str(os.getpid())):
        return None
    return int(limit) / 2e6


# What malloc.h calls M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX.
_TRIM, _MMAP, _ARENAS = -1, -3, -8
_LARGE = 2 * 1024 * 1024


def give_memory_back() -> None:
    """Have glibc return large memory to the system as soon as it is free. Called before other threads start.

    By itself it learns from the first large message to keep such memory: calls with 10 MB left 50 MB behind. One arena
    is enough, as the interpreter's lock lets one thread allocate at a time; with one for each thread 6 MB were left.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # else another C library's, as musl, which gives it back anyway
        for option, value in ((_ARENAS, 1), (_MMAP, _LARGE), (_TRIM, _LARGE)):
            mallopt(option, value)
