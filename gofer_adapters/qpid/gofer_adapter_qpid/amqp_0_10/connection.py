"""The connection (class "connection"): login, tuning, heartbeats, close, and the channels of its sessions."""

from __future__ import annotations

import uuid
from math import inf
from typing import Any, NamedTuple

from gofer_adapter_qpid.amqp_0_10 import frames
from gofer_adapter_qpid.amqp_0_10.codec import decode_method, encode_method
from gofer_adapter_qpid.amqp_0_10.errors import ConnectionClosed, LoginRefused, PeerSilent, ProtocolError
from gofer_adapter_qpid.amqp_0_10.session import Session
from gofer_adapter_qpid.amqp_0_10.tables import CONTROLS

__all__ = ["Connection", "Login", "logins"]

_CONNECTION = 1  # the class code of the connection's own controls
_HEARTBEAT = frames.frame(frames.WHOLE, frames.CONTROL, 0, encode_method(CONTROLS["connection.heartbeat"], {}))


class Login(NamedTuple):
    """A SASL mechanism with its response (fields of connection.start-ok)."""

    mechanism: str
    response: bytes


def logins(user: str | None, password: str | None, *, certificate: bool) -> list[Login]:
    """Return the ways to log in, the preferred one first.

    With a user that is PLAIN alone: a broker that offers ANONYMOUS, too, must not let a wrong password pass.
    ``certificate``: a client certificate is shown to the broker, which stands for a user that is not named.
    """
    if user is not None or password is not None:
        return [_plain(user or "", password or "")]
    external = [Login("EXTERNAL", b"")] if certificate else []
    return [*external, Login("ANONYMOUS", b""), _plain("guest", "guest")]


def _plain(user: str, password: str) -> Login:
    return Login("PLAIN", b"\0".join((b"", user.encode(), password.encode())))


class Connection:
    """A client's connection, without I/O: bytes go in by ``receive`` and come out by ``take``.

    ``now`` is a monotonic clock, in seconds. ``receive`` and ``tick`` raise when the connection has ended:
    ProtocolError, LoginRefused, ConnectionClosed or PeerSilent. After that nothing may be called but ``take``, for the
    answer to the peer's goodbye. ``deadline`` is when ``tick`` is wanted. ``open``: sessions may be opened. ``ended``:
    ``close`` is answered.
    """

    def __init__(
        self, ways: list[Login], virtual_host: str, *, heartbeat: float, properties: dict[str, Any] | None = None
    ) -> None:
        """Make a connection that has not begun.

        Args:
            ways: how to log in, the preferred way first.
            virtual_host: its name; empty: the broker's default.
            heartbeat: seconds, of which the protocol knows whole ones; 0: none.
            properties: what the broker is told of us (connection.start-ok, client-properties).
        """
        self.output: list[bytes] = []
        self.deadline = inf
        self.open = self.ended = self.closing = False
        self.channel_max, self.max_frame_size, self.heartbeat = 0xFFFF, 0xFFFF, 0
        #: What the broker told of itself (connection.start, server-properties).
        self.server: dict[str, Any] = {}
        self._ways, self._virtual_host, self._properties = ways, virtual_host, properties or {}
        self._wanted = max(1, round(heartbeat)) if heartbeat > 0 else 0
        self._due = "connection.start"  # the next control of the login
        self._response = b""
        self._reader = frames.FrameReader()
        self._sessions: dict[int, Session] = {}
        self._last_channel = 0
        self._names = uuid.uuid4().hex
        self._attached = 0
        self._last_read = self._last_write = 0.0

    # -- bytes --------------------------------------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Send the protocol header: the socket is open."""
        self._last_read = self._last_write = now
        self.output.append(frames.PROTOCOL_HEADER)

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes of the peer, in pieces of any size.

        Raises:
            AmqpError: the connection has ended; see the class.
        """
        self._last_read = now
        for flags, kind, channel, payload in self._reader.read(data):
            session = self._sessions.get(channel)
            if kind == frames.CONTROL and payload[:1] == b"\x01":
                self._receive_control(flags, payload)
            elif self.closing or self.ended:
                pass  # we have said goodbye: what was on its way has no reader
            elif session is not None:
                session.receive(flags, kind, payload)
            elif kind != frames.CONTROL or not self.open:
                raise ProtocolError(f"a frame for channel {channel}, which has no session")

    def take(self, now: float) -> bytes:
        """Return what is to be sent."""
        output, self.output = self.output, []
        if output:
            self._last_write = now
        return b"".join(output)

    def tick(self, now: float) -> None:
        """Send a heartbeat when nothing was sent for half of one.

        Raises:
            PeerSilent: nothing came for two heartbeats.
        """
        if self.heartbeat:
            if now - self._last_read > 2 * self.heartbeat:
                raise PeerSilent(f"the broker was silent for {2 * self.heartbeat} s")
            if now - self._last_write >= self.heartbeat / 2:
                self.output.append(_HEARTBEAT)
            self.deadline = now + self.heartbeat / 4

    def close(self) -> None:
        """Say goodbye; ``ended`` is set when the peer has answered."""
        self.open, self.closing = False, True
        self._control("connection.close", reply_code=200)

    # -- sessions -----------------------------------------------------------------------------------------------------

    def attach(self, session: Session) -> bool:
        """Give a session the channel that is unused for longest, and a name. False: all are in use."""
        # Channel 0 is the connection's own.
        for _ in range(self.channel_max - 1):
            self._last_channel = self._last_channel % (self.channel_max - 1) + 1
            if self._last_channel not in self._sessions:
                self._attached += 1
                session.channel = self._last_channel
                session.name = f"{self._names}-{self._attached}".encode()
                self._sessions[session.channel] = session
                return True
        return False

    def detach(self, session: Session) -> None:
        """Take a session's channel back: both peers have ended it."""
        if self._sessions.get(session.channel) is session:
            del self._sessions[session.channel]

    # -- inside -------------------------------------------------------------------------------------------------------

    def _control(self, name: str, /, **fields: Any) -> None:
        segments = [(frames.CONTROL, encode_method(CONTROLS[name], fields))]
        self.output += frames.assembly_frames(0, self.max_frame_size, segments)

    def _receive_control(self, flags: int, payload: bytes) -> None:
        if flags != frames.WHOLE:
            raise ProtocolError("a control of the connection in several frames")
        layout, _, fields = decode_method(payload, command=False)
        name = layout.name
        if name == "connection.close":
            self._control("connection.close-ok")
            if self._due == "connection.tune":
                raise LoginRefused(fields.get("reply_text", ""))
            raise ConnectionClosed(fields.get("reply_code", 0), fields.get("reply_text", ""))
        if name == "connection.redirect":
            raise ConnectionClosed(0, f"the virtual host is at {fields.get('host')}")
        if name == "connection.close-ok" and self.closing:
            self.ended = True
        elif name == "connection.secure" and self._due == "connection.tune":
            self._control("connection.secure-ok", response=self._response)
            self._response = b""
        elif name == self._due == "connection.start":
            self._start(fields)
        elif name == self._due == "connection.tune":
            self._tune(**fields)
        elif name == self._due == "connection.open-ok":
            self._due, self.open = "", not self.closing
        elif name != "connection.heartbeat":
            raise ProtocolError(f"unexpected control {name}")

    def _start(self, fields: dict[str, Any]) -> None:
        self.server = fields.get("server_properties", {})
        offered = fields.get("mechanisms", [])
        login = next((way for way in self._ways if way.mechanism in offered), None)
        if login is None:
            raise LoginRefused(f"the broker offers only {', '.join(map(str, offered)) or 'no mechanism'}")
        self._control("connection.start-ok", client_properties=self._properties, locale="en_US", **login._asdict())
        self._response, self._due = login.response, "connection.tune"

    def _tune(
        self, channel_max: int = 0, max_frame_size: int = 0, heartbeat_min: int = 0, heartbeat_max: int = 0xFFFF
    ) -> None:
        self.channel_max = max(2, channel_max or self.channel_max)
        self.max_frame_size = max(frames.MIN_MAX_FRAME_SIZE, max_frame_size or self.max_frame_size)
        self._reader.max_size = self.max_frame_size
        if self._wanted:
            self.heartbeat = min(max(self._wanted, heartbeat_min), heartbeat_max or self._wanted)
        agreed = {"channel_max": self.channel_max, "max_frame_size": self.max_frame_size, "heartbeat": self.heartbeat}
        self._control("connection.tune-ok", **agreed)
        self._control("connection.open", virtual_host=self._virtual_host)
        self._due = "connection.open-ok"
        self.deadline = self._last_read if self.heartbeat else inf
