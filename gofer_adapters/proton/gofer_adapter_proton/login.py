"""The login: SASL, as AMQP 1.0 frames it, before the connection itself.

It is done here and not by proton: proton takes ANONYMOUS when a broker offers it, whatever the password, and what else
it can do depends on how it was built.
"""

from __future__ import annotations

from typing import Any

from gofer.messaging.connector import Connector
from proton import Array, Data, DataException, ulong

from gofer_adapter_proton.errors import Refused

__all__ = ["REFUSED", "Login", "ProtocolError"]

#: The condition of a login that a person must change something for.
REFUSED = "amqp:unauthorized-access"

_HEADER = b"AMQP\x03\x01\x00\x00"
_MECHANISMS, _INIT, _CHALLENGE, _RESPONSE, _OUTCOME = range(0x40, 0x45)
_TEMPORARY = 4
_LONGEST = 4096


class ProtocolError(Exception):
    """The peer sent bytes that are not AMQP 1.0, or not at this point."""


class Login:
    """One login. ``output`` is what is to be sent; ``offered`` the mechanisms of the broker; ``done``: it succeeded."""

    def __init__(self, connector: Connector) -> None:
        self.output, self.offered, self.done = _HEADER, list[str](), False
        self._connector, self._input, self._begun = connector, b"", False

    def take(self) -> bytes:
        """Return what is to be sent, once."""
        output, self.output = self.output, b""
        return output

    def receive(self, data: bytes) -> bytes:
        """Take what came, and return what comes after the login.

        Raises:
            Refused: the broker refuses the login.
            ProtocolError: the peer does not speak AMQP 1.0.
        """
        self._input += data
        if not self._begun:
            if not _HEADER.startswith(self._input[:8]):
                raise ProtocolError(f"it began with {self._input[:8]!r}")
            if len(self._input) < 8:
                return b""
            self._input, self._begun = self._input[8:], True
        while not self.done and len(self._input) >= 8:
            size, offset, kind = int.from_bytes(self._input[:4]), self._input[4] * 4, self._input[5]
            if not 8 <= offset <= size <= _LONGEST or kind != 1:
                raise ProtocolError(f"not a frame of a login: {self._input[:40]!r}")
            if len(self._input) < size:
                break
            frame, self._input = self._input[offset:size], self._input[size:]
            self._take(frame)
        return self._input if self.done else b""

    def _take(self, frame: bytes) -> None:
        data = Data()
        try:
            data.decode(frame)
            data.rewind()
            data.next()
            described: Any = data.get_object()
            code, fields = int(described.descriptor), list(described.value)
        except (DataException, AttributeError, TypeError, ValueError) as error:
            raise ProtocolError(f"not a frame of a login: {frame[:40]!r}") from error
        if code == _MECHANISMS:
            mechanisms = fields[0].elements if isinstance(fields[0], Array) else fields[:1]
            self.offered = [str(name) for name in mechanisms]
            self._send(_INIT, *self._choose())
        elif code == _CHALLENGE:
            self._send(_RESPONSE, b"")
        elif code == _OUTCOME and fields[0] == 0:
            self.done = True
        elif code == _OUTCOME:
            condition = "" if fields[0] == _TEMPORARY else REFUSED
            raise Refused(condition, "the broker refused it" if condition else "the broker cannot log anybody in now")
        else:
            raise ProtocolError(f"unexpected frame {code:#x} during the login")

    def _choose(self) -> tuple[str, bytes]:
        """Return the mechanism and what it begins with. A user and a password are never sent away for ANONYMOUS."""
        url = self._connector.url
        plain = "PLAIN", f"\0{url.user or ''}\0{url.password or ''}".encode()
        ways = [plain]
        if url.user is None and url.password is None:
            ways = [("ANONYMOUS", b"gofer"), ("PLAIN", b"\0guest\0guest")]
            if self._connector.clientcert is not None:
                ways.insert(0, ("EXTERNAL", b""))
        for way in ways:
            if way[0] in self.offered:
                return way
        wanted = " or ".join(name for name, _ in ways)
        raise Refused(REFUSED, f"the broker offers {', '.join(self.offered)}; {wanted} is needed")

    def _send(self, code: int, *fields: object) -> None:
        data = Data()
        data.put_described()
        data.enter()
        data.put_ulong(ulong(code))
        data.put_list()
        data.enter()
        for field in fields:
            if isinstance(field, bytes):
                data.put_binary(field)
            else:
                data.put_symbol(str(field))
        body = data.encode()
        self.output += (8 + len(body)).to_bytes(4) + b"\x02\x01\x00\x00" + body
