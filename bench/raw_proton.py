"""The floor over AMQP 1.0: proton's BlockingConnection as its users write it, transient messages, accepted by hand.

``python raw_proton.py URL QUEUE`` serves ping-pong. The queues are there already; messages name where to answer.
"""

from __future__ import annotations

import sys
from contextlib import suppress

from gofer.messaging.url import URL
from proton import Message, Timeout
from proton.utils import BlockingConnection

__all__ = ["Caller", "connect", "serve"]

_BODY = b"x" * 300  # about what a request of gofer is long


def connect(url: str) -> BlockingConnection:
    """Open a connection."""
    where = URL.parse(url)
    user, password = where.user or "guest", where.password or "guest"
    return BlockingConnection(f"{where.host}:{where.port}", user=user, password=password, allowed_mechs="PLAIN")


def serve(url: str, queue: str) -> None:
    """Answer every message with its own body, for ever."""
    connection = connect(url)
    receiver = connection.create_receiver(queue, credit=10)
    senders = {}
    while True:
        with suppress(Timeout):
            message = receiver.receive(timeout=3600)
            sender = senders.get(message.reply_to) or connection.create_sender(message.reply_to)
            senders[message.reply_to] = sender
            sender.send(Message(body=bytes(message.body), inferred=True))
            receiver.accept()


class Caller:
    """One caller: a connection, and a queue for the answers."""

    def __init__(self, url: str, queue: str, answers: str) -> None:
        self.connection = connect(url)
        self._sender = self.connection.create_sender(queue)
        self._receiver = self.connection.create_receiver(answers, credit=10)
        self._answers = answers

    def call(self, durable: bool = False) -> None:
        """Send a message and wait for its answer."""
        self._sender.send(Message(body=_BODY, inferred=True, reply_to=self._answers, durable=durable))
        self._receiver.receive(timeout=30)
        self._receiver.accept()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
