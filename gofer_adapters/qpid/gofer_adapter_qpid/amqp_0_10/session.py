"""Sessions (class "session") and their commands, both ways (class "execution")."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, Protocol

from gofer_adapter_qpid.amqp_0_10 import frames
from gofer_adapter_qpid.amqp_0_10.codec import decode_method, encode_method
from gofer_adapter_qpid.amqp_0_10.errors import ProtocolError, SessionClosed
from gofer_adapter_qpid.amqp_0_10.messages import TRANSFER, Transfer, read_destination, read_header
from gofer_adapter_qpid.amqp_0_10.tables import COMMANDS, CONTROLS

__all__ = ["Home", "Ranges", "Session", "to_ranges"]

#: Pairs of the first and the last number of commands that follow each other.
Ranges = list[tuple[int, int]]

_WORD = 0xFFFFFFFF
# So many commands of the peer, or its reports of ours, may go without an answer that nobody waits for.
_UNREPORTED = 128
# We ask the peer whether it knows of our reports when there are so many commands in one.
_MANY_UNKNOWN = 4096


def to_ranges(ids: Iterable[int]) -> Ranges:
    """Return the ranges of ascending numbers."""
    found: Ranges = []
    low = high = None
    for id in ids:
        if high is None or low is None:
            low = high = id
        elif id == high + 1:
            high = id
        else:
            found.append((low, high))
            low = high = id
    if high is not None and low is not None:
        found.append((low, high))
    return found


class Home(Protocol):
    """What a session needs of its connection."""

    output: list[bytes]
    channel_max: int
    max_frame_size: int

    def attach(self, session: Session) -> bool:
        """Give the session a channel and a name; False: all channels are in use."""

    def detach(self, session: Session) -> None:
        """Take the session's channel back."""


class Session:
    """A session: commands that the peers send each other in order, on one channel of a connection.

    Both number their commands, and report by these numbers which are completed. Numbers are sent as 32 bits
    (sequence-no); here they go on. Subclasses have the methods ``on_...``. One that is ``usable`` is open for both.
    A session is opened once, and never resumed: what is not settled when it ends goes back to its queue.
    """

    def __init__(self, home: Home, ends: frames.Ends | None = None, *, holds: bool = False) -> None:
        """Make a session that is not open yet.

        Args:
            ends: what is kept of a body that comes; None: all of it.
            holds: a message is not completed when it has come, but when ``held`` is decremented for it. In a window
                (message.set-flow-mode) that is what makes room for the next one.
        """
        self.home = home
        self.channel, self.name, self.usable = 0, b"", False
        #: Our commands of which we want to know that they are completed, ascending, and what is called then.
        self.waiting: dict[int, Any] = {}
        #: How many commands of the peer are not to be reported yet. It is told of the first ones: a broker may keep
        #: only so many numbers behind the first that is not completed, and a window only counts.
        self.held = 0
        self._holds = holds
        self._sent = self._received = 0  # the number of the next command
        self._known = 0  # the first command of the peer's of which it may not know that we have completed it
        self._unreported = self._reports = 0
        ends = ends or frames.Ends(None, 0, 0)
        self._controls, self._commands = frames.Assembler(ends), frames.Assembler(ends)

    # -- what happens -------------------------------------------------------------------------------------------------

    def on_completed(self, ids: list[int]) -> None:
        """Handle that commands in ``waiting`` are completed, and take them out of it."""
        for id in ids:
            call = self.waiting.pop(id, None)
            if call is not None:
                call()

    def on_result(self, id: int, fields: dict[str, Any]) -> None:
        """Handle the result of a command (execution.result)."""

    def on_transfer(self, transfer: Transfer) -> None:
        """Handle a message."""

    def on_rejected(self, ids: list[int], text: str) -> None:
        """Handle that the peer does not take messages in ``waiting``; they are completed all the same."""

    def on_flow(self, allowed: bool) -> None:
        """Handle that the peer asks us to send no messages for now (message.stop), or allows them again."""

    def on_closed(self, closed: SessionClosed) -> None:
        """Handle that the peer has ended the session."""

    # -- sending ------------------------------------------------------------------------------------------------------

    def open(self) -> SessionClosed | None:
        """Attach the session to a channel; its commands may follow at once.

        Returns:
            Why it cannot be: the peer allows no more channels.
        """
        if not self.home.attach(self):
            return SessionClosed(0, f"all {self.home.channel_max} sessions of the connection are in use")
        self.usable = True
        self.control("session.attach", name=self.name)
        self.control("session.command-point", command_id=0, command_offset=0)
        return None

    def control(self, name: str, /, **fields: Any) -> None:
        """Send a control.

        Raises:
            ValueError: a field that does not fit.
        """
        self._put([(frames.CONTROL, encode_method(CONTROLS[name], fields))])

    def send(self, name: str, /, *, sync: bool = False, **fields: Any) -> int:
        """Send a command, and return its number. ``sync``: the peer is to report at once when it is completed.

        Raises:
            ValueError: a field that does not fit.
        """
        self._put([(frames.COMMAND, encode_method(COMMANDS[name], fields, sync=sync))])
        self._sent += 1
        return self._sent - 1

    def transfer(self, method: bytes, header: bytes, body: bytes) -> int:
        """Send a message, as ``encode_transfer`` and ``encode_header`` have it, and return its number."""
        self._put([(frames.COMMAND, method), (frames.HEADER, header), *([(frames.BODY, body)] if body else ())])
        self._sent += 1
        return self._sent - 1

    def report(self) -> None:
        """Report which commands of the peer are completed: all but ``held``."""
        self._unreported = 0
        last = self._received - self.held - 1
        if last >= self._known:
            many = last - self._known >= _MANY_UNKNOWN
            self.control("session.completed", commands=[(self._known, last)], timely_reply=many)

    def close(self) -> None:
        """Detach the session. What still comes on it is dropped."""
        if self.usable:
            self.usable = False
            self.control("session.detach", name=self.name)

    def _put(self, segments: list[tuple[int, bytes]]) -> None:
        self.home.output += frames.assembly_frames(self.channel, self.home.max_frame_size, segments)

    # -- receiving ----------------------------------------------------------------------------------------------------

    def receive(self, flags: int, kind: int, payload: bytes) -> None:
        """Take a frame of the session's channel.

        Raises:
            ProtocolError: it cannot come here.
        """
        if kind == frames.CONTROL:
            controls = self._controls
            if flags != frames.WHOLE or not controls.whole:
                if not controls.add(flags, kind, payload):
                    return
                payload = controls.method
            self._receive_control(payload)
        elif self.usable:
            commands = self._commands
            if flags == frames.WHOLE and kind == frames.COMMAND and commands.whole:
                self._receive_command(payload)
            elif commands.add(flags, kind, payload):
                if commands.method[:2] == TRANSFER:
                    self._receive_transfer(commands)
                elif commands.header or commands.body is not None:
                    raise ProtocolError(f"command {commands.method[:2].hex()} has a header or a body")
                else:
                    self._receive_command(commands.method)

    def _receive_transfer(self, whole: frames.Assembler) -> None:
        body, cut = (b"", 0) if whole.body is None else whole.body.finish()
        redelivered, ttl = read_header(whole.header)
        id, self._received = self._received, self._received + 1
        self.held += self._holds
        self._count(whole.method[3] & 1 == 1)
        self.on_transfer(Transfer(id, read_destination(whole.method), body, cut, redelivered, ttl, whole.header))

    def _receive_command(self, payload: bytes) -> None:
        if payload[:2] == TRANSFER:
            self._commands.method, self._commands.header, self._commands.body = payload, b"", None
            self._receive_transfer(self._commands)
            return
        layout, sync, fields = decode_method(payload, command=True)
        self._received += 1
        match layout.name:
            case "execution.result":
                name, result = fields.get("value", ("", {}))
                self.on_result(self._ours(fields.get("command_id", 0)), result if name else {})
            case "execution.exception":
                self._end(SessionClosed(fields.get("error_code", 0), fields.get("description", "")))
                return
            case "message.reject":
                text = fields.get("text") or ("unroutable" if fields.get("code") == 1 else "rejected")
                self.on_rejected(self._among(fields.get("transfers", [])), text)
            case "message.stop":
                self.on_flow(False)
            case "message.flow":
                self.on_flow(True)
            case "execution.sync" | "message.accept" | "message.release" | "message.set-flow-mode":
                pass  # these say nothing that is not said otherwise
            case _:
                raise ProtocolError(f"unexpected command {layout.name}")
        self._count(sync)

    def _receive_control(self, payload: bytes) -> None:
        layout, _, fields = decode_method(payload, command=False)
        commands = fields.get("commands", [])
        match layout.name:
            case "session.detached":
                self.home.detach(self)
                code = fields.get("code", 0)
                self._end(SessionClosed(0, f"the session was detached (code {code})"))
            case "session.detach":
                self.control("session.detached", name=self.name, code=0)
                self.home.detach(self)
                self._end(SessionClosed(0, "the session was detached"))
            case "session.attached" | "session.timeout" | "session.confirmed" | "session.expected":
                pass
            case _ if not self.usable:
                pass
            case "session.request-timeout":
                self.control("session.timeout", timeout=0)  # a session that lost its connection is not wanted any more
            case "session.completed":
                self._receive_report(commands, answer=bool(fields.get("timely_reply")))
            case "session.known-completed":
                highest = max((self._theirs(high) for _, high in commands), default=-1)
                self._known = max(self._known, min(highest + 1, self._received))
            case "session.flush":
                self.report()
            case "session.command-point":
                self._received = self._known = fields.get("command_id", 0)
            case _:
                raise ProtocolError(f"unexpected control {layout.name}")

    def _receive_report(self, commands: Ranges, *, answer: bool) -> None:
        ids = self._among(commands)
        if ids:
            self.on_completed(ids)
        self._reports += 1
        if self.usable and (answer or self._reports >= _UNREPORTED):  # else that was all it was for
            self._reports = 0
            self.control("session.known-completed", commands=commands)

    def _end(self, closed: SessionClosed) -> None:
        """End a session that the peer ends, once."""
        if self.usable:
            self.usable = False
            self.on_closed(closed)
            self.waiting.clear()

    def _count(self, sync: bool) -> None:
        """Count a command that the peer sent, and report them when it asks for that, or there are many."""
        self._unreported += 1
        if sync or self._unreported >= _UNREPORTED:
            self.report()

    def _among(self, ranges: Ranges) -> list[int]:
        """Return which of our commands in ``waiting`` are in the peer's ranges."""
        if not self.waiting or not ranges:
            return []
        ours = sorted((self._ours(low), self._ours(high)) for low, high in ranges)
        lows, highs = [low for low, _ in ours], [high for _, high in ours]
        last, found = max(highs), []
        for id in self.waiting:
            if id > last:
                break
            at = bisect_right(lows, id) - 1
            if at >= 0 and id <= highs[at]:
                found.append(id)
        return found

    def _ours(self, number: int) -> int:
        """Return the number of a command of ours from its lower 32 bits: it is not above the next."""
        return self._sent - ((self._sent - number) & _WORD)

    def _theirs(self, number: int) -> int:
        return self._received - ((self._received - number) & _WORD)
