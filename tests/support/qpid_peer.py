"""A broker of AMQP 0-10 for the qpid adapter, without a socket: a test says its every word and reads every answer."""

from __future__ import annotations

from typing import Any

from gofer.messaging.adapter import Event, Operation
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer_adapter_qpid import QpidAdapter
from gofer_adapter_qpid.amqp_0_10.codec import decode_method, encode_method, encode_struct
from gofer_adapter_qpid.amqp_0_10.frames import (
    BODY,
    COMMAND,
    CONTROL,
    HEADER,
    PROTOCOL_HEADER,
    FrameReader,
    assembly_frames,
)
from gofer_adapter_qpid.amqp_0_10.tables import COMMANDS, CONTROLS, STRUCTS

__all__ = ["Heard", "Peer"]

#: A channel, a control or a command of the adapter, and its fields; of a message ``header`` and ``body``, too.
Heard = tuple[int, str, dict[str, Any]]

_OFFER = {"mechanisms": ["PLAIN", "ANONYMOUS"], "locales": ["en_US"]}


class Peer:
    """An adapter and the broker that the test plays. ``greeting`` is what the adapter sends first."""

    def __init__(self, url: str = "qpid+amqp://anna:hush@h", **options: Any) -> None:
        self.adapter = QpidAdapter(Connector(URL.parse(url), **options))
        self.now = 1000.0
        self.ids = 0
        self.commands: dict[int, int] = {}  # channel -> how many commands the adapter has sent there
        self._reader = FrameReader()
        self._method: Heard | None = None
        self.adapter.begin(self.now)
        self.greeting = self.adapter.take(self.now)
        self._reader.read(self.greeting)

    def log_in(self, product: str = "Apache Qpid Broker-J Core") -> Peer:
        """Let the adapter in, and forget what was said for that."""
        self.start(product)
        self.say(0, "connection.tune", channel_max=256, max_frame_size=65535, heartbeat_min=0, heartbeat_max=120)
        self.say(0, "connection.open-ok")
        self.sent()
        self.events()
        return self

    def start(self, product: str = "Apache Qpid Broker-J Core", **fields: Any) -> list[Heard]:
        """Greet, and begin the login."""
        self.hear(PROTOCOL_HEADER)
        return self.say(0, "connection.start", **{"server_properties": {"product": product}, **_OFFER, **fields})

    def hear(self, data: bytes) -> list[Heard]:
        """Have the adapter receive bytes; return what it says then."""
        self.adapter.receive(data, self.now)
        return self.sent()

    def say(self, channel: int, name: str, /, *, sync: bool = False, **fields: Any) -> list[Heard]:
        """Send a control or a command; return what the adapter says then."""
        return self.hear(written(channel, name, sync=sync, **fields))

    def deliver(self, channel: int, body: bytes, max_size: int = 65535, **properties: Any) -> list[Heard]:
        """Send a message; ``properties`` are its delivery-properties."""
        return self.hear(message(channel, body, max_size, **properties))

    def ask(self, operation: Operation) -> int:
        """Ask the adapter for an operation, and return its id."""
        self.ids += 1
        self.adapter.ask(self.ids, operation)
        return self.ids

    def sent(self) -> list[Heard]:
        """Return what the adapter has said since the last time. Its sessions' commands are counted."""
        found: list[Heard] = []
        for _, kind, channel, payload in self._reader.read(self.adapter.take(self.now)):
            if kind in (HEADER, BODY):
                fields = found[-1][2]
                name = "header" if kind == HEADER else "body"
                fields[name] = fields.get(name, b"") + payload
                continue
            layout, sync, fields = decode_method(payload, command=kind == COMMAND)
            if kind == COMMAND:
                fields |= {"number": self.commands.get(channel, 0), "sync": sync}
                self.commands[channel] = fields["number"] + 1
            elif layout.name == "session.attach":
                self.commands[channel] = 0
            found.append((channel, layout.name, fields))
        return found

    def events(self) -> list[Event]:
        """Return what the adapter has told since the last time."""
        return self.adapter.events()


def written(channel: int, name: str, /, *, sync: bool = False, **fields: Any) -> bytes:
    """Encode a control or a command of the broker."""
    kind = CONTROL if name in CONTROLS else COMMAND
    method = encode_method(CONTROLS.get(name) or COMMANDS[name], fields, sync=sync)
    return b"".join(assembly_frames(channel, 65535, [(kind, method)]))


def message(channel: int, body: bytes, max_size: int = 65535, **properties: Any) -> bytes:
    """Encode a message that the broker delivers."""
    transfer = encode_method(COMMANDS["message.transfer"], {"destination": "0", "accept_mode": 0, "acquire_mode": 0})
    header = encode_struct(STRUCTS["message.delivery-properties"], properties)
    segments = [(COMMAND, transfer), (HEADER, header), *([(BODY, body)] if body else [])]
    return b"".join(assembly_frames(channel, max_size, segments))
