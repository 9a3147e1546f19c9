"""The other end of an amqp adapter, without a socket: a broker whose every word the test says."""

from __future__ import annotations

from typing import Any

from amqp import spec
from amqp.serialization import dumps, loads
from gofer.messaging.adapter import Event, Operation, Outgoing
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer_adapter_amqp import AmqpAdapter

__all__ = ["Frame", "Peer", "content", "method"]

#: A frame that the adapter has sent: its channel, its method, and the arguments of that.
Frame = tuple[int, tuple[int, int], list[Any]]
_FORMATS = {
    spec.Connection.StartOk: "FsSs",
    spec.Connection.TuneOk: "BlB",
    spec.Connection.Open: "ssb",
    spec.Connection.Close: "BsBB",
    spec.Channel.Open: "s",
    spec.Channel.Close: "BsBB",
    spec.Channel.FlowOk: "b",
    spec.Queue.Declare: "BsbbbbbF",
    spec.Queue.Delete: "Bsbbb",
    spec.Queue.Purge: "Bsb",
    spec.Queue.Bind: "BsssbF",
    spec.Exchange.Declare: "BssbbbbbF",
    spec.Basic.Qos: "lBb",
    spec.Basic.Consume: "BssbbbbF",
    spec.Basic.Cancel: "sb",
    spec.Basic.Publish: "Bssbb",
    spec.Basic.Ack: "Lb",
    spec.Basic.Reject: "Lb",
    spec.Confirm.Select: "b",
}
_RABBITMQ = {"product": "RabbitMQ", "version": "3.10.8", "capabilities": {"authentication_failure_close": True}}


def method(channel: int, sig: tuple[int, int], format: str = "", *arguments: object) -> bytes:
    """Make the frame of a method."""
    payload = sig[0].to_bytes(2) + sig[1].to_bytes(2) + dumps(format, arguments)
    return b"\x01" + channel.to_bytes(2) + len(payload).to_bytes(4) + payload + b"\xce"


def content(channel: int, size: int, *parts: bytes) -> bytes:
    """Make the frames of a message's header, without properties, and body."""
    header = b"\x00\x3c\x00\x00" + size.to_bytes(8) + b"\x00\x00"
    frames = [(2, header), *((3, part) for part in parts)]
    return b"".join(
        bytes((kind,)) + channel.to_bytes(2) + len(payload).to_bytes(4) + payload + b"\xce" for kind, payload in frames
    )


class Peer:
    """A broker and the adapter that talks to it. ``now`` is the adapter's time."""

    def __init__(self, url: str = "amqp://broker.example", **options: Any) -> None:
        self.adapter = AmqpAdapter(Connector(URL.parse(url), **options))
        self.now = 1000.0
        self._ids = 0
        self.adapter.begin(self.now)
        self.greeting = self.adapter.take(self.now)

    def start(self, properties: dict[str, object] | None = None, mechanisms: str = "PLAIN AMQPLAIN") -> list[Frame]:
        """Say connection.start, and return the answer."""
        given = _RABBITMQ if properties is None else properties
        return self.say(0, spec.Connection.Start, "ooFSS", 0, 9, given, mechanisms, "en_US")

    def log_in(self, *tune: int, properties: dict[str, object] | None = None) -> Peer:
        """Let the adapter in. ``tune``: the most channels, the longest frame, the heartbeat."""
        self.start(properties)
        self.say(0, spec.Connection.Tune, "BlB", *(tune or (2047, 131_072, 60)))
        self.say(0, spec.Connection.OpenOk, "s", "")
        self.events()
        return self

    def say(self, channel: int, sig: tuple[int, int], format: str = "", *arguments: object) -> list[Frame]:
        """Say a method, and return what is sent then."""
        self.adapter.receive(method(channel, sig, format, *arguments), self.now)
        return self.sent()

    def deliver(self, channel: int, tag: int, body: bytes = b"x") -> None:
        """Deliver a message in one body frame."""
        self.adapter.receive(
            method(channel, spec.Basic.Deliver, "sLbss", "any", tag, False, "", "queue")
            + content(channel, len(body), *([body] if body else [])),
            self.now,
        )

    def refuse(self, channel: int, code: int, text: str) -> list[Frame]:
        """Close a channel."""
        return self.say(channel, spec.Channel.Close, "BsBB", code, text, 0, 0)

    def ask(self, operation: Operation) -> int:
        """Ask the adapter for an operation, and return its id."""
        self._ids += 1
        self.adapter.ask(self._ids, operation)
        return self._ids

    def publish(self, token: int, exchange: str = "", key: str = "queue", body: bytes = b"x", **options: Any) -> None:
        """Publish."""
        self.adapter.publish(Outgoing(token, Address(exchange, key), body, **options))

    def sent(self) -> list[Frame]:
        """Return the methods of all frames that the adapter has to write."""
        data, offset, found = self.adapter.take(self.now), 0, []
        while offset < len(data):
            kind, channel = data[offset], int.from_bytes(data[offset + 1 : offset + 3])
            size = int.from_bytes(data[offset + 3 : offset + 7])
            payload = data[offset + 7 : offset + 7 + size]
            assert data[offset + 7 + size] == 0xCE
            offset += 8 + size
            if kind == 1:
                sig = (int.from_bytes(payload[:2]), int.from_bytes(payload[2:4]))
                found.append((channel, sig, loads(_FORMATS.get(sig, ""), payload, 4)[0]))
            elif kind == 8:
                found.append((channel, (8, 0), []))
        return found

    def events(self) -> list[Event]:
        """Return what the adapter has told."""
        return self.adapter.events()
