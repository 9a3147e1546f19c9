"""A client of the local broker: its socket, its buffers, and whether it is alive."""

from __future__ import annotations

import socket
from math import inf

from gofer.errors import AdapterError, MessagingError
from gofer.messaging.adapter import Closed, Opened
from gofer.messaging.local import wire
from gofer.messaging.local.model import Model
from gofer.messaging.local.session import Session

__all__ = ["Client"]

#: Bytes that wait for a client: with more it gets no deliveries, and with much more it is not read from either.
_ENOUGH = 1 << 20
_TOO_MUCH = 8 << 20

#: Seconds for a new client to say hello, and for one that is sent away to read why.
_GREETING = 10.0
_FAREWELL = 1.0


class Client:
    """One connection. It neither blocks nor raises; ``over`` says that it must be closed.

    ``heard_at`` and ``spoke_at``: when bytes last came from it and last went to it. Who has something to be written is
    put into ``dirty``.
    """

    def __init__(self, sock: socket.socket, model: Model, instance: str, dirty: dict[Client, None]) -> None:
        """Take over a non-blocking socket."""
        self.sock = sock
        self.out = bytearray()
        self.over = False
        self.mask = 0
        self.heard_at = self.spoke_at = self._since = model.clock()
        self.session = Session(model, self)
        self._clock = model.clock
        self._instance = instance
        self._dirty = dirty
        self._reader = wire.to_broker()
        self._heartbeat: float | None = None  # until it has said hello
        self._leaving = False
        self._starved = False

    # -- for the loop ----------------------------------------------------------------------------------------

    @property
    def reads(self) -> bool:
        """Whether it wants to be read from."""
        return not self._leaving and len(self.out) < _TOO_MUCH

    def receive(self, scratch: bytearray) -> bool:
        """Read once, and do what is asked. Returns whether that may have set new deadlines."""
        try:
            count = self.sock.recv_into(scratch)
        except BlockingIOError:
            return False
        except OSError:
            count = 0
        if not count:
            self.over = True
            return True
        self.heard_at = self._clock()
        deadlines = False
        for frame in self._reader.feed(memoryview(scratch)[:count]):
            if self._leaving:
                break
            deadlines |= not isinstance(frame, wire.Publish | wire.Settle | wire.Beat)
            self._obey(frame)
        return deadlines

    def write(self) -> None:
        """Write what the socket takes, and take deliveries again if it took enough."""
        try:
            while self.out:
                del self.out[: self.sock.send(self.out)]
                self.spoke_at = self._clock()
        except BlockingIOError:
            pass  # the rest when it takes more
        except OSError:
            self.over = True
            return
        if not self.out and self._leaving:
            self.over = True
        elif self._starved and len(self.out) < _ENOUGH // 2:
            self._starved = False
            self.session.ready()

    def check(self, now: float) -> float:
        """See to heartbeats and deadlines. Returns when to come again."""
        if self._leaving or self._heartbeat is None:
            end = self._since + (_FAREWELL if self._leaving else _GREETING)
            self.over = self.over or now >= end
            return end
        if not self._heartbeat:
            return inf
        # What it takes is a sign of life as well: with a full buffer we do not read from it.
        dead_at = max(self.heard_at, self.spoke_at if not self.reads else 0.0) + 2 * self._heartbeat
        if now >= dead_at:
            # What is there unread shows that it was this process that stood still, not the client.
            self.over = not self._has_spoken()
            return now + self._heartbeat / 2
        beat_at = self.spoke_at + self._heartbeat / 2
        if now >= beat_at:
            beat_at = now + self._heartbeat / 2
            if not self.out:
                self.say(wire.Beat())
        return min(beat_at, dead_at)

    def _has_spoken(self) -> bool:
        if not self.reads:
            return False
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def leave(self, error: MessagingError | None) -> None:
        """Say goodbye, with the reason why it is sent away. What it holds goes back at once."""
        if not self._leaving:
            self._leaving = True
            self._since = self._clock()
            self.session.close()
            self.say(Closed(error))

    # -- for the session: see Peer ---------------------------------------------------------------------------

    @property
    def takes(self) -> bool:
        """Whether deliveries may be put into its buffer."""
        self._starved = self._starved or len(self.out) >= _ENOUGH
        return len(self.out) < _ENOUGH

    def say(self, frame: wire.FromBroker) -> None:
        """Put a frame into its buffer."""
        wire.put(self.out, frame)
        self._dirty[self] = None

    # -- frames ----------------------------------------------------------------------------------------------

    def _obey(self, frame: wire.FromClient | wire.Malformed) -> None:
        match frame:
            case wire.Malformed(reason):
                self._refuse(reason)
            case wire.Hello() if self._heartbeat is None:
                self._greet(frame)
            case wire.Hello():
                self._refuse("a second greeting")
            case _ if self._heartbeat is None:
                self._refuse("a frame before the greeting")
            case wire.Publish():
                self.session.publish(frame)
            case wire.Settle(tag, verdict):
                self.session.settle(tag, verdict)
            case wire.Ask(id, operation):
                self.session.ask(id, operation)
            case wire.Bye():
                self.leave(None)

    def _greet(self, hello: wire.Hello) -> None:
        if hello.version != wire.VERSION:
            self._refuse(
                f"this broker speaks version {wire.VERSION} of its protocol and the client version {hello.version}:"
                " both must run the same release of gofer"
            )
        elif not 0 <= hello.heartbeat <= 86400:
            self._refuse(f"a heartbeat of {hello.heartbeat} s is not between 0 and 86400")
        else:
            self._heartbeat = hello.heartbeat
            self.session.max_message = hello.max_message
            self.say(Opened(self._instance))

    def _refuse(self, reason: str) -> None:
        self.leave(AdapterError(reason))
