"""The login: SASL, as AMQP 1.0 frames it, before the connection itself.

It is done here and not by proton: proton takes ANONYMOUS when a broker offers it, whatever the password, and what else
it can do depends on how it was built.
"""

from __future__ import annotations

from typing import Any

from gofer.messaging.connector import Connector
from gofer.messaging.endings import BrokerClosed, LoginRefused, ProtocolError, who_answers
from proton import Array, Data, DataException, Described, symbol, ulong

__all__ = ["Login"]

_HEADER = b"AMQP\x03\x01\x00\x00"
_MECHANISMS, _INIT, _CHALLENGE, _RESPONSE, _OUTCOME = range(0x40, 0x45)
_TEMPORARY = 4
_LONGEST = 4096


class Login:
    """One login. ``offered``: the mechanisms of the broker; ``done``: it succeeded; ``output``: what is to be sent."""

    def __init__(self, connector: Connector, output: bytearray) -> None:
        self.output, self.offered, self.done = output, list[str](), False
        self._connector, self._input, self._offset = connector, b"", len(_HEADER)

    def begin(self) -> None:
        """Greet."""
        self.output += _HEADER

    def receive(self, data: bytes) -> bytes:
        """Take what came, and return what comes after the login.

        Raises:
            LoginRefused, BrokerClosed: the broker refuses the login, or does so for now.
            ProtocolError: the peer does not speak AMQP 1.0.
        """
        self._input += data
        if not _HEADER.startswith(self._input[:8]):
            raise ProtocolError(who_answers(self._input))
        while not self.done and len(frame := self._input[self._offset :]) >= 8:
            size, start, kind = int.from_bytes(frame[:4]), frame[4] * 4, frame[5]
            if not 8 <= start <= size <= _LONGEST or kind != 1:
                raise ProtocolError(f"not a frame of a login: {frame[:40]!r}")
            if len(frame) < size:
                break
            self._offset += size
            try:
                self._take(frame[start:size])
            except (DataException, ValueError, AttributeError, TypeError, IndexError) as error:
                raise ProtocolError(f"not a frame of a login: {frame[:40]!r}") from error
        return self._input[self._offset :] if self.done else b""

    def _take(self, frame: bytes) -> None:
        data = Data()
        data.decode(frame)
        data.rewind()
        data.next()
        described: Any = data.get_object()
        code, (first, *_) = described.descriptor, described.value
        if code == _MECHANISMS:
            self.offered = [str(name) for name in (first.elements if isinstance(first, Array) else [first])]
            self._send(_INIT, *self._choose())
        elif code == _CHALLENGE:
            self._send(_RESPONSE, b"")
        elif code == _OUTCOME and first == 0:
            self.done = True
        elif code == _OUTCOME and first == _TEMPORARY:
            raise BrokerClosed("it cannot log anybody in now")
        elif code == _OUTCOME:
            raise LoginRefused("the broker refused it")
        else:
            raise ProtocolError(f"unexpected frame {code:#x} during the login")

    def _choose(self) -> tuple[symbol, bytes]:
        """Return the mechanism and what it begins with. A user and a password are never sent away for ANONYMOUS."""
        url = self._connector.url
        ways = {"PLAIN": f"\0{url.user or ''}\0{url.password or ''}".encode()}
        if url.user is None and url.password is None:
            certified = {} if self._connector.clientcert is None else {"EXTERNAL": b""}
            ways = {**certified, "ANONYMOUS": b"gofer", "PLAIN": b"\0guest\0guest"}
        for name, initial in ways.items():
            if name in self.offered:
                return symbol(name), initial
        raise LoginRefused(f"the broker offers {', '.join(self.offered)}; {' or '.join(ways)} is needed")

    def _send(self, code: int, *fields: symbol | bytes) -> None:
        data = Data()
        data.put_object(Described(ulong(code), list(fields)))
        body = data.encode()
        self.output += (8 + len(body)).to_bytes(4) + b"\x02\x01\x00\x00" + body
