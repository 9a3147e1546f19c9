"""An agent's half that is as simple as can be: it answers each request with its first argument, or holds it."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

from gofer.messaging.adapter import DeclareQueue, Delivery
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.subscription import Subscription
from gofer.messaging.url import URL

from support.connections import connection_to, declaring

__all__ = ["EchoAgent"]


class EchoAgent:
    """Reads ``queue`` on a link of its own, in a thread. A context manager. ``hold``: answer only when told."""

    def __init__(self, url: str, queue: str = "agent", *, hold: bool = False) -> None:
        connector = Connector(URL.parse(url), reconnect_max=0.3)
        self.hold = hold
        self.seen: list[dict[str, Any]] = []
        self.link = connection_to(connector)
        self.subscription = Subscription(queue, 1000, self._take, declaring(DeclareQueue(queue)))

    def answer(self, document: dict[str, Any], **said: Any) -> None:
        """Send a result, or what is said instead."""
        body = {"sn": document["sn"], "version": "2.0", "routing": [None, None], "data": None}
        body.update(said or {"result": {"retval": document["request"]["args"][0]}})
        self.link.publish_nowait(Address.parse(document["replyto"]), json.dumps(body).encode())

    def _take(self, delivery: Delivery) -> None:
        document = json.loads(delivery.body)
        self.seen.append(document)
        self.link.accept(delivery)
        if not self.hold and document["replyto"]:
            self.answer(document)

    def __enter__(self) -> EchoAgent:
        self.link.subscribe(self.subscription, 10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.link.close()
