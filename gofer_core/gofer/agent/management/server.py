"""Where an agent listens for management, and the threads that answer: one for each socket, and one for each caller."""

from __future__ import annotations

import errno
import hmac
import logging
import os
import socket
import socketserver
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from gofer.agent.config import ManagementConfig
from gofer.agent.management import wire
from gofer.agent.management.wire import MAX_REQUEST, Channel, Unusable, encode, proof, socket_of, token_of
from gofer.errors import ConfigError
from gofer.limit import LimitedLog
from gofer.messaging.local.paths import reachable
from gofer.ownership import user_name
from gofer.root import Root

__all__ = ["Management", "loopback", "may_manage", "open_tcp", "open_unix", "peer_of", "write_token"]

log = logging.getLogger(__name__)

_PEER = struct.Struct("3i")  # process, user, group
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # what a machine without IPv6 says, or one without IPv4
_READING = 5.0  # seconds in which a request must have come
_WRITING = 30.0  # seconds in which its answer must have been taken
_MOST = 64  # callers at a time, at each socket
_PAUSE = 0.2  # seconds without a new caller when one could not be let in
_LEFT = 16 << 20  # bytes of a request too large that are read all the same, so that its sender gets to the answer
_END = 1.0  # seconds that a caller has to go when the agent stops


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
    except (OSError, ConfigError) as error:
        listening.close()
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: cannot listen: {error.strerror}") from error
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


class Management:
    """Listens for ``gofer agent``: at a Unix socket, and by TCP if that is enabled.

    What is wrong with the one or the other is a line in the log; the agent goes on without. Nothing that callers send
    or leave out holds up anything but their own thread.
    """

    def __init__(self, root: Root, config: ManagementConfig, do: Callable[[wire.Request, str], Any]) -> None:
        """Keep the settings. Nothing is opened yet.

        Args:
            do: does what a request of a caller says, and returns plain JSON, or raises Unusable. It may take its time.
        """
        self._root = root
        self._config = config
        self._do = do
        self._servers: list[_Server] = []
        self._unix: tuple[int, int] | None = None  # which file it is

    def start(self) -> None:
        """Open the sockets, and begin to answer. Never fails."""
        try:
            self._serve(open_unix(self._root), None)
            found = os.lstat(socket_of(self._root))
            self._unix = found.st_dev, found.st_ino
        except (ConfigError, OSError) as error:
            log.error("no management on a Unix socket: %s", error)
        with suppress(OSError):  # of an agent that was killed
            token_of(self._root).unlink()
        if self._config.enabled:
            try:
                self._open_tcp()
            except ConfigError as error:
                log.error("no management on TCP: %s", error)
        os.register_at_fork(after_in_child=self._close)  # a fork would keep the port, which the next agent needs

    def _open_tcp(self) -> None:
        token = os.urandom(32).hex().encode()
        opened = open_tcp(self._config)
        try:
            path = write_token(self._root, token)
        except ConfigError:
            for listening in opened:
                listening.close()
            raise
        names = ", ".join("{} port {}".format(*listening.getsockname()[:2]) for listening in opened)
        for listening in opened:
            self._serve(listening, token)
        log.info("management on TCP: %s, for callers that can read %s", names, path)

    def _serve(self, listening: socket.socket, token: bytes | None) -> None:
        server = _Server(listening, token, self._do)
        threading.Thread(target=server.serve_forever, args=(None,), name="gofer-management", daemon=True).start()
        self._servers.append(server)

    def stop(self) -> None:
        """Let nobody in any more, end what is being answered, and remove what was made. May be repeated."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.stop()
        deadline = monotonic() + _END
        for server in servers:
            server.wait(deadline)
        try:
            path = socket_of(self._root)
            with suppress(FileNotFoundError):  # somebody has cleaned up before us
                found = os.lstat(path)
                if (found.st_dev, found.st_ino) == self._unix:  # else somebody has put another there
                    path.unlink()
            if any(server.token is not None for server in servers):
                token_of(self._root).unlink(missing_ok=True)
        except OSError as error:
            log.warning("management: %s", error)

    def _close(self) -> None:
        for server in self._servers:
            server.socket.close()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """Answers the callers of one listening socket, each in a thread of its own.

    Args:
        token: what callers must know; None: the kernel says who they are.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, listening: socket.socket, token: bytes | None, do: Callable[[wire.Request, str], Any]) -> None:
        socketserver.BaseServer.__init__(self, listening.getsockname(), socketserver.BaseRequestHandler)
        self.socket = listening
        self.token = token
        self._do = do
        self._callers: set[socket.socket] = set()
        self._change = threading.Condition()
        self._complain = LimitedLog(log)
        self._stopping = False

    def stop(self) -> None:
        """Let nobody in any more, and take no more of what callers send. Who is being answered may hear the end."""
        self._stopping = True
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits there
        self.shutdown()
        self.server_close()
        with self._change:
            for connection in self._callers:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)

    def wait(self, deadline: float) -> None:
        """Wait until all callers have gone, or till a deadline."""
        with self._change:
            self._change.wait_for(lambda: not self._callers, max(0.0, deadline - monotonic()))

    # What follows is called by socketserver: the first two in the thread of the listening socket, the others in one of
    # the caller's own.

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError as error:
            if not self._stopping and not isinstance(error, ConnectionError):  # else it has gone again
                self._complain(logging.WARNING, "management: no caller can be accepted: %s", error.strerror)
                time.sleep(_PAUSE)  # descriptors are short: not again and again at once
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        try:
            self._check(request)
        except Unusable as refused:
            with suppress(OSError):  # told if that takes no time
                request.setblocking(False)
                request.send(_error(refused))
        except OSError as error:
            log.debug("management: a caller has gone: %s", error)
        else:
            return True
        return False

    def _check(self, connection: socket.socket) -> None:
        if self.token is None:
            user, who = peer_of(connection)
            if not may_manage(user):
                text = "management: refused: %s; allowed: root, or the agent's user %d"
                self._complain(logging.WARNING, text, who, os.geteuid())
                raise Unusable("refused", "only root and the agent's own user may manage this agent")
        with self._change:
            if len(self._callers) >= _MOST:
                raise Unusable("busy", f"{_MOST} others are being answered; try again")
            self._callers.add(connection)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        threading.current_thread().name = "gofer-management-caller"
        super().process_request_thread(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Read the request, and answer it."""
        channel = Channel(request)
        who, shown = ("a caller that knows the token", "a caller on TCP") if self.token else (peer_of(request)[1],) * 2
        deadline = monotonic() + _READING
        nonce = ""
        if self.token is not None:
            nonce = os.urandom(16).hex()
            channel.send(encode({"nonce": nonce}), deadline)
        unread = False
        try:
            line = self._read(channel, nonce, deadline)
            shown = who  # is it from here on
            written = self._answer(wire.decode_request(line), who)
        except Unusable as refused:
            unread = refused.code in ("too-large", "refused", "malformed")
            self._complain(logging.WARNING, "management: %s: %s: %s", shown, refused.code, refused)
            written = _error(refused)
        if self.token is not None:
            written = encode({"proof": proof(self.token, "agent", nonce, written[:-1])}) + written
        channel.send(written, monotonic() + _WRITING)
        if unread:
            _drain(request, monotonic() + _END)

    def _read(self, channel: Channel, nonce: str, deadline: float) -> bytes:
        """Return the request, from somebody who may make one."""
        if self.token is None:
            return channel.receive(MAX_REQUEST, deadline)
        said = wire.decode(channel.receive(1024, deadline), wire.Answer).proof
        line = channel.receive(MAX_REQUEST, deadline)
        wanted = proof(self.token, "caller", nonce, line)
        if said is None or not hmac.compare_digest(said.encode(), wanted.encode()):
            raise Unusable("refused", "the proof was not made with this agent's token")
        return line

    def _answer(self, request: wire.Request, who: str) -> bytes:
        try:
            return encode({"value": self._do(request, who)})
        except Unusable:
            raise
        except Exception as failed:
            log.exception("management: a request of %s has failed", who)
            return _error(Unusable("internal", f"a fault of the agent's, its log has more: {type(failed).__name__}"))

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._change:
            self._callers.discard(request)
            self._change.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            log.debug("management: a caller has gone: %s", error)
        else:  # no thread can be started, say; the next caller may be luckier
            self._complain(logging.WARNING, "management: a caller is not answered: %s", error, error=error)


def _error(refused: Unusable) -> bytes:
    return encode({"error": {"code": refused.code, "text": str(refused)}})


def _drain(connection: socket.socket, deadline: float) -> None:
    """Take what is still being sent, a little of it: a connection closed before might lose what was just answered."""
    connection.shutdown(socket.SHUT_WR)
    left = _LEFT
    while left > 0 and monotonic() < deadline:
        connection.settimeout(max(0.001, deadline - monotonic()))
        part = connection.recv(1 << 16)
        if not part:
            return
        left -= len(part)
