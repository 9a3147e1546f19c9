"""Where an agent listens for management, and who may come in."""

from __future__ import annotations

import errno
import logging
import os
import pwd
import socket
import stat
import struct
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from gofer.agent.config import ManagementConfig
from gofer.agent.management.wire import socket_of, token_of
from gofer.errors import ConfigError
from gofer.root import Root

__all__ = ["Caller", "Door", "caller_of", "loopback", "open_tcp", "open_unix", "write_token"]

log = logging.getLogger(__name__)

_PEER = struct.Struct("3i")  # process, user, group
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # what a machine without IPv6 says, or one without IPv4


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end of a Unix socket, as the kernel says."""

    process: int
    user: int

    def __str__(self) -> str:
        try:
            name = pwd.getpwuid(self.user).pw_name
        except KeyError:
            name = str(self.user)
        return f"process {self.process} of user {name}"

    @property
    def may(self) -> bool:
        """Whether this is root, or the agent's own user."""
        return self.user in (0, os.geteuid())


@dataclass(frozen=True, slots=True)
class Door:
    """A listening socket. ``token``: what callers must know; None: the kernel says who they are."""

    socket: socket.socket
    token: bytes | None = None


def caller_of(connection: socket.socket) -> Caller:
    """Ask the kernel who has connected."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    process, user, _ = _PEER.unpack(found)
    return Caller(process, user)


def open_unix(root: Root) -> Door:
    """Listen on the Unix socket; one that an agent before this has left is replaced.

    Whoever gets into the directory may connect, to be refused with a word in the log.

    Raises:
        ConfigError: the directory cannot be used, or something else has the socket's name.
    """
    path = socket_of(root)
    root.ensure(root.run)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _reachable(str(path)) as name:
            if os.path.lexists(name):
                if not stat.S_ISSOCK(os.lstat(name).st_mode):
                    raise ConfigError(f"{path} is there, and is not a socket")
                os.unlink(name)  # nobody listens there: the lock of the root is ours
            os.fchmod(listening.fileno(), 0o666)
            listening.bind(name)
            os.chmod(name, 0o666)  # noqa: S103 - whatever the umask; each caller is looked at
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise ConfigError(f"{path}: cannot listen: {error.strerror}") from error
    except BaseException:
        listening.close()
        raise
    listening.setblocking(False)
    return Door(listening)


def _reachable(path: str) -> AbstractContextManager[str]:
    if len(os.fsencode(path)) <= 107:  # bytes: what fits a socket's address
        return nullcontext(path)
    from gofer.messaging.local.paths import reachable  # for few, and it needs some more

    return reachable(path)


def loopback(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """Return the addresses of a host, all of which are this machine's own.

    Raises:
        ConfigError: it has none, or others.
    """
    import ipaddress  # only who asks for TCP pays for it

    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"[management] host: {host!r} has no address: {error}") from error
    addresses: list[tuple[socket.AddressFamily, str]] = list(
        dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found)
    )
    outside = [text for _, text in addresses if not ipaddress.ip_address(text.partition("%")[0]).is_loopback]
    if outside:
        raise ConfigError(
            f"[management] host: {host!r} is {outside[0]}, which others can reach; allowed: localhost, 127.0.0.1, ::1"
        )
    return addresses


def open_tcp(config: ManagementConfig, token: bytes) -> list[Door]:
    """Listen on all addresses of the configured host.

    Raises:
        ConfigError: not on one of them: who listens there could be taken for the agent.
    """
    doors: list[Door] = []
    failed: OSError | None = None
    for family, address in loopback(config.host):
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listening.bind((address, config.port))
            listening.listen(64)
        except OSError as error:
            listening.close()
            failed = error
            if error.errno in _ABSENT:
                continue
            break
        listening.setblocking(False)
        doors.append(Door(listening, token))
    if failed is not None and (failed.errno not in _ABSENT or not doors):
        for door in doors:
            door.socket.close()
        raise ConfigError(
            f"[management] port: cannot listen on {config.host} port {config.port}: {failed.strerror}"
        ) from failed
    return doors


def write_token(root: Root, token: bytes) -> Path:
    """Write the token where only the agent's user can read it.

    Raises:
        ConfigError: it cannot be written.
    """
    path = token_of(root)
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            file.write(token + b"\n")
        os.replace(fresh, path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    return path
