"""SASL EXTERNAL of AMQP 1.0 by hand: what a broker says to a client certificate, whichever adapters are installed."""

from __future__ import annotations

import select
import time

from gofer.errors import ConnectionLost
from gofer.messaging.connector import Connector
from gofer.messaging.tls import explain
from gofer.messaging.transport import open_wire
from gofer.messaging.wire import Wire

__all__ = ["sasl_external"]

_HEADER = b"AMQP\x03\x01\x00\x00"
#: A frame of SASL: its size, then the list ``sasl-init`` with the mechanism as a symbol and an empty response.
_BODY = b"\x00\x53\x41\xc0\x0d\x02\xa3\x08EXTERNAL\xa0\x00"
_OUTCOME = b"\x00\x53\x44"
_INIT = (8 + len(_BODY)).to_bytes(4) + b"\x02\x01\x00\x00" + _BODY


def sasl_external(connector: Connector, timeout: float = 10.0) -> int:
    """Log in by the client certificate, and return the code of the outcome: 0 is success.

    Raises:
        MessagingError: the broker cannot be reached, or ends the connection.
    """
    wire = open_wire(connector, timeout)
    try:
        wire.write(_HEADER)
        data = _until(b"EXTERNAL", wire, timeout)
        assert data.startswith(_HEADER), data
        wire.write(_INIT)
        data = _until(_OUTCOME, wire, timeout)
    except OSError as error:
        raise ConnectionLost(explain(error, connector)) from error
    finally:
        wire.close()
    body = data.partition(_OUTCOME)[2]  # a list whose first field is an ubyte
    return body[body.index(0x50) + 1]


def _until(wanted: bytes, wire: Wire, timeout: float) -> bytes:
    data, deadline = b"", time.monotonic() + timeout
    while wanted not in data:
        assert select.select([wire], [], [], max(0.0, deadline - time.monotonic()))[0], data
        data += wire.read()
    return data
