"""The threads that answer management: one that lets callers in, and one for each of them."""

from __future__ import annotations

import hmac
import logging
import os
import select
import selectors
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

from gofer.agent.config import ManagementConfig
from gofer.agent.management.doors import Door, caller_of, open_tcp, open_unix, write_token
from gofer.agent.management.wire import MAX_REQUEST, Channel, Unusable, decode, encode, proof, socket_of, token_of
from gofer.errors import ConfigError
from gofer.limit import Limit
from gofer.messaging.wire import Wakeup
from gofer.root import Root

__all__ = ["Answering", "Management"]

log = logging.getLogger(__name__)

_READING = 5.0  # seconds in which a request must have come
_WRITING = 30.0  # seconds in which its answer must have been taken
_MOST = 64  # callers at a time, at each door
_PAUSE = 0.2  # seconds without a new caller when one could not be let in
_LEFT = 16 << 20  # bytes of a request too large that are read all the same, so that its sender gets to the answer
_END = 1.0  # seconds that a caller has to go when the agent stops


class Answering(Protocol):
    """What answers requests: :class:`gofer.agent.management.operations.Operations`."""

    def do(self, request: Mapping[str, Any], caller: str) -> Any:
        """Do what a request says, and return plain JSON. May take its time.

        Raises:
            Unusable: it cannot be done; says why.
        """


class Management:
    """Listens for ``gofer mgt``: at a Unix socket, and by TCP if that is enabled.

    What is wrong with the one or the other is a line in the log; the agent goes on without. Nothing that callers send
    or leave out holds up anything but their own thread.
    """

    def __init__(self, root: Root, config: ManagementConfig, operations: Answering) -> None:
        """Keep the settings. Nothing is opened yet."""
        self._root = root
        self._config = config
        self._operations = operations
        self._lock = threading.Lock()
        self._callers: dict[socket.socket, tuple[Door, threading.Thread]] = {}
        self._doors: list[Door] = []
        self._unix: tuple[int, int] | None = None  # which file it is
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._complaints = Limit(1, 20)  # log lines about callers, a second

    def start(self) -> None:
        """Open the doors, and begin to answer. Never fails."""
        self._wakeup = Wakeup()
        try:
            self._doors.append(open_unix(self._root))
            found = os.lstat(socket_of(self._root))
            self._unix = found.st_dev, found.st_ino
        except (ConfigError, OSError) as error:
            log.error("no management by a Unix socket: %s", error)
        with suppress(OSError):  # of an agent that was killed
            token_of(self._root).unlink()
        if self._config.enabled:
            try:
                self._open_tcp()
            except ConfigError as error:
                log.error("no management by TCP: %s", error)
        os.register_at_fork(after_in_child=self._leave)
        self._thread = threading.Thread(target=self._listen, name="gofer-management", daemon=True)
        self._thread.start()

    def _open_tcp(self) -> None:
        from secrets import token_hex  # only who asks for it pays for it

        token = token_hex(32).encode()
        doors = open_tcp(self._config, token)
        try:
            path = write_token(self._root, token)
        except ConfigError:
            for door in doors:
                door.socket.close()
            raise
        self._doors += doors
        names = ", ".join("{} port {}".format(*door.socket.getsockname()[:2]) for door in doors)
        log.info("management by TCP: %s, for who can read %s", names, path)

    def stop(self) -> None:
        """Let nobody in any more, end what is being answered, and remove what was made. May be repeated."""
        with self._lock:
            if self._stopping or self._thread is None:
                return
            self._stopping = True
        self._wakeup.set()
        self._thread.join()
        with self._lock:
            callers = dict(self._callers)
        for connection in callers:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)  # who is being answered may hear the end of it
        deadline = monotonic() + _END
        for _, thread in callers.values():
            thread.join(max(0.0, deadline - monotonic()))
        try:
            self._remove()
        except OSError as error:
            log.warning("management: %s", error)

    def _remove(self) -> None:
        for door in self._doors:
            door.socket.close()
        path = socket_of(self._root)
        with suppress(FileNotFoundError):  # somebody has cleaned up before us
            found = os.lstat(path)
            if (found.st_dev, found.st_ino) == self._unix:  # else somebody has put another there
                path.unlink()
        if any(door.token is not None for door in self._doors):
            token_of(self._root).unlink(missing_ok=True)

    def _leave(self) -> None:
        # What a plugin has forked would keep the port, which the next agent then could not have.
        for door in self._doors:
            door.socket.close()

    # -- letting in -----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        try:
            self._let_everybody_in()
        except Exception:
            log.exception("management has ended; the agent goes on without")

    def _let_everybody_in(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakeup.fileno(), selectors.EVENT_READ)
            for door in self._doors:
                selector.register(door.socket, selectors.EVENT_READ, door)
            while not self._stopping:
                for key, _ in selector.select():
                    if isinstance(key.data, Door) and not self._stopping:
                        self._let_in(key.data)

    def _let_in(self, door: Door) -> None:
        try:
            connection = door.socket.accept()[0]
        except (BlockingIOError, ConnectionError):
            return  # it has gone again
        except OSError as error:
            self._complain(f"nobody can be let in: {error.strerror}")
            select.select([self._wakeup.fileno()], [], [], _PAUSE)  # descriptors are short: not again and again at once
            return
        try:
            who = self._who(door, connection)
            self._begin(door, connection, who)
        except Unusable as refused:
            _refuse(connection, refused)
        except Exception as error:  # noqa: BLE001 - no thread can be started, say; the next caller may be luckier
            self._complain(f"a caller is not answered: {error}")
            connection.close()

    def _who(self, door: Door, connection: socket.socket) -> str:
        if door.token is not None:
            return "somebody who knows the token"
        caller = caller_of(connection)
        if not caller.may:
            self._complain(f"refused: {caller}; allowed: root, or the agent's user {os.geteuid()}")
            raise Unusable("refused", "only root and the agent's own user may manage this agent")
        return str(caller)

    def _begin(self, door: Door, connection: socket.socket, who: str) -> None:
        with self._lock:
            if sum(one is door for one, _ in self._callers.values()) >= _MOST:
                raise Unusable("busy", f"{_MOST} others are being answered; try again")
            thread = threading.Thread(
                target=self._serve, args=(door, connection, who), name="gofer-management-caller", daemon=True
            )
            self._callers[connection] = door, thread
            try:
                thread.start()
            except BaseException:
                del self._callers[connection]
                raise

    # -- answering ------------------------------------------------------------------------------------------------

    def _serve(self, door: Door, connection: socket.socket, who: str) -> None:
        try:
            self._answer(door, connection, who)
        except OSError as error:
            log.debug("management: %s has gone: %s", who, error)
        except Exception:
            log.exception("management: %s is not answered", who)
        finally:
            with self._lock:
                del self._callers[connection]
            connection.close()

    def _answer(self, door: Door, connection: socket.socket, who: str) -> None:
        channel = Channel(connection)
        nonce = ""
        deadline = monotonic() + _READING
        if door.token is not None:
            nonce = os.urandom(16).hex()
            channel.send(encode({"nonce": nonce}), deadline)
        unread, shown = False, who if door.token is None else "somebody by TCP"
        try:
            line = self._read(channel, door, nonce, deadline)
            shown = who  # is it from here on
            written = self._do(decode(line), who)
        except Unusable as refused:
            unread = refused.code in ("too-large", "refused", "malformed")
            self._complain(f"{shown}: {refused.code}: {refused}")
            written = encode({"error": {"code": refused.code, "text": str(refused)}})
        deadline = monotonic() + _WRITING
        if door.token is not None:
            written = encode({"proof": proof(door.token, "agent", nonce, written[:-1])}) + written
        channel.send(written, deadline)
        if unread:
            _drain(connection, monotonic() + _END)

    def _do(self, request: Mapping[str, Any], who: str) -> bytes:
        try:
            return encode({"value": self._operations.do(request, who)})
        except Unusable:
            raise
        except Exception as failed:
            log.exception("management: a request of %s has failed", who)
            text = f"a fault of the agent's, its log has more: {type(failed).__name__}"
            return encode({"error": {"code": "internal", "text": text}})

    def _read(self, channel: Channel, door: Door, nonce: str, deadline: float) -> bytes:
        """Return the request, from somebody who may make one."""
        if door.token is None:
            return channel.receive(MAX_REQUEST, deadline)
        said = decode(channel.receive(1024, deadline)).get("proof")
        line = channel.receive(MAX_REQUEST, deadline)
        wanted = proof(door.token, "caller", nonce, line)
        if not isinstance(said, str) or not hmac.compare_digest(said.encode("utf-8", "replace"), wanted.encode()):
            raise Unusable("refused", "the proof is not that of who knows this agent's token")
        return line

    def _complain(self, text: str) -> None:
        if self._complaints.allows():
            log.warning("management: %s", text)


def _refuse(connection: socket.socket, refused: Unusable) -> None:
    """Send one error to somebody who is not let in, if that takes no time."""
    with connection:
        connection.setblocking(False)
        with suppress(OSError):
            connection.send(encode({"error": {"code": refused.code, "text": str(refused)}}))


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
