"""Where the local broker's socket is, how long paths are reached, and who holds them."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from gofer.errors import AdapterError, ConnectionLost, MessagingError
from gofer.messaging.connector import Connector
from gofer.messaging.endings import words
from gofer.messaging.url import URL
from gofer.root import Root

__all__ = ["default_path", "listening", "locked", "open_socket", "path_of", "reachable"]

#: The longest path, in bytes, that fits the address of a Unix socket.
_LONGEST = 107

_WHY = {
    errno.ENOENT: "there is no such socket; is the broker running?",
    errno.EAGAIN: "it takes no more connections at the moment",
}


def default_path(environ: Mapping[str, str]) -> str:
    """Return the path of the socket that ``local://`` means: ``/run/gofer/broker.sock`` below the root.

    Raises:
        ConfigError: GOFER_ROOT is no path.
    """
    return str(Root.from_environ(environ).run / "broker.sock")


@contextmanager
def reachable(path: str) -> Iterator[str]:
    """Give a name for a path that is short enough for a socket's address, whatever its directory. Thread-safe.

    Raises:
        OSError: the directory cannot be opened, or the file's own name is too long.
    """
    if len(os.fsencode(path)) <= _LONGEST:
        yield path
        return
    directory, name = os.path.split(path)
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def path_of(url: URL) -> str:
    """Return the path of the socket that a URL means."""
    return os.path.abspath(url.path or default_path(os.environ))


def open_socket(connector: Connector, timeout: float) -> socket.socket:
    """Connect to the broker that a connector's URL means, and return the socket, non-blocking. It never waits.

    Raises:
        ConnectionLost: nobody is there, or it takes no more connections at the moment.
        AdapterError: the system does not let us in.
    """
    path = path_of(connector.url)
    sock = None
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with reachable(path) as name:
            sock.connect(name)
    except OSError as error:
        if sock is not None:
            sock.close()
        if isinstance(error, PermissionError):
            raise AdapterError(f"not permitted to use the local broker's socket {path}") from error
        why = _WHY.get(error.errno or 0) or words(error)
        raise ConnectionLost(f"local broker at {path}: {why}") from error
    return sock


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold a lock file inside the ``with`` block, or to the death of the process. The file goes with the lock.

    The socket that it guards must go before it: then a process that still holds the file's old name replaces nothing.

    Raises:
        MessagingError: another process has the lock; the text names it.
        OSError: the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 100, 0).decode("ascii", "replace").strip() or "another process"
            raise MessagingError(f"{path} is held by {holder}") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}\n".encode(), 0)
        try:
            yield
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)
    finally:
        os.close(descriptor)


@contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """Give a listening, non-blocking socket that only its owner can reach. A dead one in its place is replaced.

    The caller holds the lock that goes with the path.

    Raises:
        MessagingError: there is something else at this path.
        OSError: the socket cannot be made.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        with reachable(path) as name:
            _check_dead(path, name)
            os.fchmod(sock.fileno(), 0o600)  # before it has a name: it never exists with another mode
            sock.bind(name)
        try:
            sock.listen(128)
            yield sock
        finally:
            with reachable(path) as name, suppress(FileNotFoundError):
                os.unlink(name)


def _check_dead(path: str, name: str) -> None:
    """Remove the socket of a broker that died, if there is one; raise MessagingError for anything else."""
    if not os.path.lexists(name):
        return
    if not stat.S_ISSOCK(os.lstat(name).st_mode):
        raise MessagingError(f"{path} is there, and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            os.unlink(name)
            return
        except BlockingIOError:
            pass  # its backlog is full, so it lives
    raise MessagingError(f"{path} is a socket on which another program listens")
