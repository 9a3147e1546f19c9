"""The floor: raw py-amqp, doing by hand and unprotected what gofer does with custody.

``python raw.py URL echo`` serves ping-pong, ``... confirmed`` the same with persistent messages and confirms on both
sides, ``... sink COUNT`` takes messages and answers the last one.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from time import perf_counter

import amqp
from gofer.messaging.url import URL

__all__ = ["Caller", "one_way", "serve"]

_BODY = "x" * 300  # about what a request of gofer is long


def connect(url: str) -> amqp.Connection:
    """Open a connection as py-amqp does by itself."""
    where = URL.parse(url)
    connection = amqp.Connection(
        f"{where.host}:{where.port}", where.user or "guest", where.password or "guest", virtual_host=where.path or "/"
    )
    connection.connect()
    return connection


def serve(url: str, kind: str) -> None:
    """Answer every message with its own body, for ever."""
    connection = connect(url)
    channel = connection.channel()
    confirmed = kind == "confirmed"
    channel.queue_declare(f"bench-{kind}", durable=confirmed, auto_delete=False)
    if confirmed:
        channel.confirm_select()
        answers = connection.channel()
        answers.confirm_select()
        # Publishing inside a delivery's callback and waiting there hangs; so deliveries are taken first, then answered.
        todo: list[amqp.Message] = []
        channel.basic_consume(f"bench-{kind}", callback=todo.append)
        while True:
            connection.drain_events()
            while todo:
                message = todo.pop(0)
                answers.basic_publish_confirm(amqp.Message(message.body, delivery_mode=2), routing_key=message.reply_to)
                channel.basic_ack(message.delivery_tag)

    def answer(message: amqp.Message) -> None:
        channel.basic_publish(amqp.Message(message.body, delivery_mode=1), routing_key=message.reply_to)
        channel.basic_ack(message.delivery_tag)

    channel.basic_consume(f"bench-{kind}", callback=answer)
    while True:
        connection.drain_events()


def sink(url: str) -> None:
    """Take messages; answer those that ask for it."""
    connection = connect(url)
    channel = connection.channel()
    channel.queue_declare("bench-sink", durable=False, auto_delete=False)

    def take(message: amqp.Message) -> None:
        if "reply_to" in message.properties:
            channel.basic_publish(amqp.Message("done", delivery_mode=1), routing_key=message.reply_to)
        channel.basic_ack(message.delivery_tag)

    channel.basic_consume("bench-sink", callback=take)
    while True:
        connection.drain_events()


class Caller:
    """One caller: a connection and a reply queue of its own."""

    def __init__(self, url: str, kind: str, body: str = _BODY) -> None:
        self.connection = connect(url)
        self._body = body
        self.channel = self.connection.channel()
        self.confirmed = kind == "confirmed"
        if self.confirmed:
            self.channel.confirm_select()
        self.queue = self.channel.queue_declare("", durable=self.confirmed, exclusive=True).queue
        self.kind = kind
        self._got: list[amqp.Message] = []
        self.channel.basic_consume(self.queue, callback=self._take)

    def _take(self, message: amqp.Message) -> None:
        self._got.append(message)
        self.channel.basic_ack(message.delivery_tag)

    def call(self) -> None:
        """Send a message and wait for its answer."""
        message = amqp.Message(self._body, reply_to=self.queue, delivery_mode=2 if self.confirmed else 1)
        publish: Callable[..., object] = (
            self.channel.basic_publish_confirm if self.confirmed else self.channel.basic_publish
        )
        publish(message, routing_key=f"bench-{self.kind}")
        while not self._got:
            self.connection.drain_events()
        self._got.clear()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def one_way(url: str, count: int) -> float:
    """Send so many messages without waiting; return the seconds until the last one was taken."""
    caller = Caller(url, "sink")
    start = perf_counter()
    for _ in range(count - 1):
        caller.channel.basic_publish(amqp.Message(_BODY, delivery_mode=1), routing_key="bench-sink")
    caller.call()
    seconds = perf_counter() - start
    caller.close()
    return seconds


def threaded(url: str, callers: int, each: int) -> tuple[float, list[float]]:
    """Call from so many threads, a connection each; return the seconds, and each call's."""
    ready = [Caller(url, "echo") for _ in range(callers)]
    times: list[float] = []

    def run(caller: Caller) -> None:
        for _ in range(each):
            start = perf_counter()
            caller.call()
            times.append(perf_counter() - start)

    threads = [threading.Thread(target=run, args=(caller,)) for caller in ready]
    start = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = perf_counter() - start
    for caller in ready:
        caller.close()
    return seconds, times


if __name__ == "__main__":
    if sys.argv[2] == "sink":
        sink(sys.argv[1])
    else:
        serve(sys.argv[1], sys.argv[2])
