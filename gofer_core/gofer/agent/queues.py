"""A plugin's queue at its broker: declared and bound as gofer 2.12 did, unless the descriptor asks otherwise."""

from __future__ import annotations

import logging

from gofer.agent.config import Descriptor
from gofer.messaging.adapter import Bind, DeclareQueue
from gofer.messaging.address import Address
from gofer.messaging.subscription import Steps

__all__ = ["QueueModel"]

log = logging.getLogger(__name__)


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
        return None if self._told is None else "somebody else has declared it"

    @property
    def volatile(self) -> bool:
        """Whether the queue may go with its last reader: gofer 2.12 may have declared it."""
        return self.spec.expires is not None and self._told is not None

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
        if self.address.exchange:
            yield Bind(self.spec.name, self.address.exchange, self.spec.name)
