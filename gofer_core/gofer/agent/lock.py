"""One goferd a root: a lock that ends with the process that holds it, however that ends."""

from __future__ import annotations

import fcntl
import os
from types import TracebackType

from gofer.errors import ConfigError
from gofer.root import Root

__all__ = ["AgentLock", "AlreadyRunning"]


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
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd
        os.register_at_fork(after_in_child=self._leave_it)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None

    def _leave_it(self) -> None:
        # What a plugin has forked would hold the lock, too, when goferd is gone.
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
