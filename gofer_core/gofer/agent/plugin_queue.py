"""The queue of a plugin at its broker: declared, kept bound to its exchange, and deleted when the plugin goes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import TYPE_CHECKING

from gofer.errors import AdapterError, MessagingError, NotFound
from gofer.messaging.adapter import NO_EXPIRY, Bind, DeclareQueue, DeleteQueue
from gofer.messaging.subscription import Steps

if TYPE_CHECKING:
    from gofer.messaging.thread_driver import ThreadConnection
    from gofer.rmi.clock import Clock, Timer

__all__ = ["PluginQueue"]

log = logging.getLogger(__name__)

_PATIENCE = 5.0  # seconds for the broker to answer
_MOMENT = 0.02
_REBIND = 30.0  # seconds between two times that a queue is bound: no broker says that a binding was removed


class PluginQueue:
    """One queue. Any thread; only ``delete`` waits for the broker.

    ``managed`` 0: the queue must be there. 1: it is declared, and bound to its exchange by its own name. 2: it is also
    emptied and deleted when its plugin is unloaded. The broker deletes a queue with an expiration when it had no reader
    for so long, with what waits in it. It is never declared auto-delete, as gofer 2.12 did: such a queue goes with its
    last reader, so all that waits is lost when the agent stops or dies.

    Args:
        plugin: the plugin's name.
        exchange: what the queue is bound to; empty: nothing.
    """

    def __init__(
        self, plugin: str, declared: DeclareQueue, exchange: str, managed: int, *, link: ThreadConnection, clock: Clock
    ) -> None:
        self.name = declared.name
        self.managed = managed
        self._plugin = plugin
        self._declared = declared
        self._exchange = exchange
        self._link = link
        self._clock = clock
        self._difference: str | None = None  # between the queue as it is, and as it is declared
        self._deleting = threading.Lock()  # nobody else takes from the queue while it is deleted
        self.spared = False
        self._lock = threading.Lock()
        self._ended = False
        self._timer: Timer | None = None
        self._refused = ""

    @property
    def volatile(self) -> bool:
        """Whether the broker deletes it with its last reader, as queues that gofer 2.12 has declared."""
        return self._declared.expires is not None and self._difference not in (None, NO_EXPIRY)

    def prepare(self) -> Steps:
        """Make sure that the queue is there: the operations before each (re)subscribing.

        They fail when the broker does not let us, or there is no such exchange.
        """
        if not self.managed:
            return
        difference = yield self._declared
        if difference is not None and difference != self._difference:
            self._difference = difference
            log.warning("plugin %s: queue %r is used as it is: %s", self._plugin, self.name, difference)
        if self._exchange:
            yield self._binding

    def keep_bound(self) -> None:
        """Bind the queue to its exchange again and again: where the binding is lost, callers reach nobody."""
        with self._lock:
            if self.managed and self._exchange and not self._ended:
                self._timer = self._clock.call_after(_REBIND, self._bind)

    def end(self) -> None:
        """Bind it no more."""
        with self._lock:
            self._ended = True
            if self._timer is not None:
                self._timer.cancel()

    @property
    def _binding(self) -> Bind:
        return Bind(self.name, self._exchange, self.name)

    def _bind(self) -> None:
        if self._link.is_open:
            self._link.ask_nowait(self._binding, self._bound)
        else:
            self.keep_bound()

    def _bound(self, _: object, error: Exception | None) -> None:
        why = "" if error is None else str(error)
        if why and why != self._refused and not self._ended:
            text = "plugin %s: queue %r cannot be bound to exchange %r: %s"
            log.warning(text, self._plugin, self.name, self._exchange, why)
        self._refused = why
        self.keep_bound()

    def spare(self) -> None:
        """Keep the queue: another endpoint reads it. Waits while it is being deleted."""
        with self._deleting:
            self.spared = True

    def delete(self, over: Callable[[], bool]) -> bool:
        """Delete the queue, which nobody else reads, as soon as it is empty; return whether it is gone.

        Args:
            over: tells whether the agent stops, and there is no time for that.
        """
        kept = None if self._difference in (None, NO_EXPIRY) else "another program has declared it"
        if self._declared.kind == "quorum":
            kept = "brokers cannot delete a quorum queue on condition that it is empty"
        if kept is not None:
            log.info("plugin %s: queue %r is left, empty: %s", self._plugin, self.name, kept)
            return False
        deadline = monotonic() + _PATIENCE
        while True:
            try:
                with self._deleting:
                    if self.spared:
                        return False
                    self._link.ask(DeleteQueue(self.name, if_empty=True), _PATIENCE)
            except NotFound:
                return True
            except AdapterError as refused:
                # What it holds is on its way to be rejected.
                if monotonic() < deadline and not over():
                    sleep(_MOMENT)
                    continue
                log.warning("plugin %s: queue %r is not deleted: %s", self._plugin, self.name, refused)
            except MessagingError as gone:
                log.warning("plugin %s: queue %r stays as it is: %s", self._plugin, self.name, gone)
            else:
                log.info("plugin %s: queue %r deleted", self._plugin, self.name)
                return True
            return False
