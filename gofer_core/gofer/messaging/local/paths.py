"""Where the local broker's socket is, how long paths are reached, and who holds them."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from gofer.errors import AdapterError, ConnectionLost, MessagingError
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.root import Root

__all__ = ["Lock", "default_path", "listen", "open_socket", "path_of", "reachable", "socket_path"]

#: The longest path, in bytes, that fits the address of a Unix socket.
_LONGEST = 107


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


def socket_path(url: URL) -> AbstractContextManager[str]:
    """Give the name by which to connect to a URL's socket; it is good inside the ``with`` block."""
    return reachable(path_of(url))


def open_socket(connector: Connector, timeout: float) -> socket.socket:
    """Connect to the broker that a connector's URL means, and return the socket, non-blocking.

    Raises:
        ConnectionLost: nobody is there, or it takes no connection within ``timeout`` seconds.
        AdapterError: the system does not let us in.
    """
    path = path_of(connector.url)
    sock = None
    try:
        sock = socket.socket(socket.AF_UNIX)
        # A full backlog cannot be polled for; but a blocking connect obeys the time limit for sending.
        limit = divmod(max(int(timeout * 1_000_000), 1), 1_000_000)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", *limit))
        with reachable(path) as name:
            sock.connect(name)
        sock.setblocking(False)
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, PermissionError):
            raise AdapterError(f"not permitted to use the local broker's socket {path}") from error
        if isinstance(error, OSError):
            why = error.strerror or str(error)
            if isinstance(error, BlockingIOError):
                why = f"it took no connection within {timeout:g} s"
            elif isinstance(error, FileNotFoundError):
                why = "there is no such socket; is the broker running?"
            raise ConnectionLost(f"local broker at {path}: {why}") from error
        raise
    return sock


class Lock:
    """A lock file, held from ``Lock(path)`` to ``release``, or to the death of the process."""

    def __init__(self, path: str) -> None:
        """Take the lock.

        Raises:
            MessagingError: somebody has it; the text says who.
            OSError: the file cannot be made.
        """
        self._path = path
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Who releases a lock unlinks its file: one opened before that is nobody's lock any more.
                current = os.path.samestat(os.fstat(descriptor), os.stat(path))
            except FileNotFoundError:
                current = False
            except BlockingIOError as error:
                holder = os.pread(descriptor, 100, 0).decode("ascii", "replace").strip() or "another process"
                os.close(descriptor)
                raise MessagingError(f"{path} is held by {holder}") from error
            except BaseException:
                os.close(descriptor)
                raise
            if current:
                break
            os.close(descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Remove the file and let go of the lock."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass  # somebody cleaned up before us
        os.close(self._descriptor)


def listen(path: str) -> socket.socket:
    """Return a listening, non-blocking socket that only its owner can reach. A dead socket in its place is replaced.

    The caller holds the lock that goes with the path.

    Raises:
        MessagingError: there is something else at this path.
        OSError: the socket cannot be made.
    """
    with reachable(path) as name:
        try:
            mode = os.lstat(name).st_mode
        except FileNotFoundError:
            pass  # as it should be
        else:
            if not stat.S_ISSOCK(mode):
                raise MessagingError(f"{path} is there, and is not a socket")
            _check_dead(path, name)
            os.unlink(name)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            os.fchmod(sock.fileno(), 0o600)  # before it has a name: it never exists with another mode
            sock.bind(name)
            sock.listen(128)
        except BaseException:
            sock.close()
            raise
    return sock


def _check_dead(path: str, name: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(name)
        except ConnectionRefusedError:
            return
        except BlockingIOError:
            pass  # its backlog is full, so it lives
    raise MessagingError(f"{path} is a socket on which another program listens")
