"""A plugin's queue at its broker: declared and bound as gofer 2.12 did, unless the descriptor asks otherwise."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from gofer.agent.config import Descriptor
from gofer.messaging.adapter import NO_EXPIRY, Bind, DeclareQueue
from gofer.messaging.address import Address
from gofer.messaging.subscription import Steps

if TYPE_CHECKING:
    from gofer.messaging.thread_driver import ThreadConnection
    from gofer.rmi.clock import Clock, Timer

__all__ = ["Binding", "QueueModel"]

log = logging.getLogger(__name__)

_REBIND = 30.0  # seconds between two times that a queue is bound


class QueueModel:
    """What a descriptor's ``[model]`` asks for.

    ``managed`` 0: nothing, the queue must be there. 1: it is declared, and bound to its exchange by its own name. 2: it
    is also emptied and deleted when its plugin is unloaded, unless ``kept`` says why not. The broker deletes a queue
    with an expiration when it had no reader for so long, with what waits in it. It is never declared auto-delete, as
    gofer 2.12 did: such a queue goes with its last reader, so all that waits is lost when the agent stops or dies.
    """

    def __init__(self, descriptor: Descriptor, address: Address) -> None:
        """Take what is needed; no input or output."""
        self.plugin = descriptor.name
        self.address = address
        self.managed = descriptor.managed
        self.spec = DeclareQueue(address.key, expires=descriptor.expiration, kind=descriptor.kind)
        self._told: str | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QueueModel):
            return NotImplemented
        return (self.address, self.managed, self.spec) == (other.address, other.managed, other.spec)

    __hash__ = None  # type: ignore[assignment]  # two that are equal remember different complaints

    @property
    def kept(self) -> str | None:
        """Why the queue is not deleted when it is empty; None: it is."""
        if self.spec.kind == "quorum":
            return "brokers do not delete quorum queues only if they are empty"
        return None if self._told in (None, NO_EXPIRY) else "somebody else has declared it"

    @property
    def volatile(self) -> bool:
        """Whether the queue may go with its last reader: gofer 2.12 may have declared it."""
        return self.spec.expires is not None and self._told not in (None, NO_EXPIRY)

    def prepare(self) -> Steps:
        """Make sure that the queue is there: the operations before each (re)subscribing.

        They fail when the broker does not let us, or there is no such exchange.
        """
        if not self.managed:
            return
        difference = yield self.spec
        if difference is not None and difference != self._told:
            self._told = difference
            log.warning("plugin %s: queue %r is used as it is: %s", self.plugin, self.spec.name, difference)
        if self.bound:
            yield self.binding

    @property
    def bound(self) -> bool:
        """Whether it is ours to bind the queue to an exchange."""
        return bool(self.managed and self.address.exchange)

    @property
    def binding(self) -> Bind:
        """The binding of the queue to its exchange; nothing changes where it is bound."""
        return Bind(self.spec.name, self.address.exchange, self.spec.name)


class Binding:
    """Keeps a queue bound to its exchange: no broker says that a binding was removed. Any thread.

    Callers that use the exchange would reach nobody, until the next reconnect.
    """

    def __init__(self, queue: QueueModel, link: ThreadConnection, clock: Clock) -> None:
        """Keep what is needed. Nothing is done before ``start``."""
        self._queue = queue
        self._link = link
        self._clock = clock
        self._lock = threading.Lock()
        self._timer: Timer | None = None
        self._stopped = False
        self._told = ""

    def start(self) -> None:
        """Bind it again and again, if it is to be bound at all."""
        with self._lock:
            if self._queue.bound and not self._stopped:
                self._timer = self._clock.call_after(_REBIND, self._bind)

    def stop(self) -> None:
        """Leave it as it is. May be repeated."""
        with self._lock:
            self._stopped = True
            if self._timer is not None:
                self._timer.cancel()

    def _bind(self) -> None:
        if self._link.is_open:
            self._link.ask_nowait(self._queue.binding, self._bound)
        else:
            self.start()

    def _bound(self, _: object, error: Exception | None) -> None:
        why = "" if error is None else str(error)
        if why and why != self._told and not self._stopped:
            text = "plugin %s: queue %r cannot be bound to exchange %r: %s"
            log.warning(text, self._queue.plugin, self._queue.spec.name, self._queue.address.exchange, why)
        self._told = why
        self.start()
