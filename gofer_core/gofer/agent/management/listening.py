"""Where an agent listens for management, and who has connected."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from pathlib import Path

from gofer.agent.config import ManagementConfig
from gofer.agent.management.wire import socket_of, token_of
from gofer.errors import ConfigError
from gofer.messaging.local.paths import reachable
from gofer.ownership import user_name
from gofer.root import Root

__all__ = ["loopback", "may_manage", "open_tcp", "open_unix", "peer_of", "write_token"]

_PEER = struct.Struct("3i")  # process, user, group
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # what a machine without IPv6 says, or one without IPv4


def peer_of(connection: socket.socket) -> tuple[int, str]:
    """Ask the kernel which user has connected to a Unix socket; return its number, and process and user in words."""
    process, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return user, f"process {process} of user {user_name(user)}"


def may_manage(user: int) -> bool:
    """Tell whether a user is root, or the agent's own."""
    return user in (0, os.geteuid())


def open_unix(root: Root) -> socket.socket:
    """Listen on the Unix socket; one that an agent before this has left is replaced.

    Whoever gets into the directory may connect, to be refused with a word in the log.

    Raises:
        ConfigError: the directory cannot be used, or something else has the socket's name.
    """
    path = socket_of(root)
    root.ensure(root.run)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with reachable(str(path)) as name:
            if os.path.lexists(name):
                if not stat.S_ISSOCK(os.lstat(name).st_mode):
                    raise ConfigError(f"{path} is there, and is not a socket")
                os.unlink(name)  # nobody listens there: the lock of the root is ours
            listening.bind(name)
            os.chmod(name, 0o666)  # noqa: S103 - whatever the umask; each caller is looked at
        listening.listen(64)
    except OSError as error:
        listening.close()
        raise ConfigError(f"{path}: cannot listen: {error.strerror}") from error
    except ConfigError:
        listening.close()
        raise
    return listening


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
    for _, text in addresses:
        if not ipaddress.ip_address(text.partition("%")[0]).is_loopback:
            allowed = "localhost, 127.0.0.1, ::1"
            raise ConfigError(f"[management] host: {host!r} is {text}, which others can reach; allowed: {allowed}")
    return addresses


def open_tcp(config: ManagementConfig) -> list[socket.socket]:
    """Listen on all addresses of the configured host.

    Raises:
        ConfigError: not on one of them: who listens there could be taken for the agent.
    """
    opened: list[socket.socket] = []
    failed: OSError | None = None
    for family, address in loopback(config.host):
        try:
            opened.append(socket.create_server((address, config.port), family=family, backlog=64))
        except OSError as error:
            failed = error
            if error.errno not in _ABSENT:
                break
    if failed is not None and (failed.errno not in _ABSENT or not opened):
        for listening in opened:
            listening.close()
        why = os.strerror(failed.errno or 0)
        raise ConfigError(f"[management] port: cannot listen on {config.host} port {config.port}: {why}") from failed
    return opened


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
