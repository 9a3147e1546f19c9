"""What a link's parts share: the connection of the moment, who may use it, and what was read from it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Any

from gofer.errors import AdapterError, ConnectionLost, MessagingError, NotFound
from gofer.messaging.adapter.base import Adapter, Delivery, Event, Outcome, Settled
from gofer.messaging.backoff import Backoff
from gofer.messaging.connector import Connector
from gofer.messaging.doorbell import Doorbell
from gofer.messaging.subscription import Subscription, Subscriptions

__all__ = ["Carrier", "Settle", "fresh"]

log = logging.getLogger(__name__)

#: What is told of a sent message: its outcome, and the broker's reason.
Settle = Callable[[Outcome, str], None]

#: Seconds that a connection must have lasted for the next one to be tried without a pause.
_LASTING = 5.0


class Carrier:
    """The adapter of the moment, and the order in which it is used.

    ``lock`` guards the adapter and all that is here. It is held for moments only: never while waiting, while the broker
    is asked something, or in a handler. While somebody asks the broker something, the adapter is ``away``: nobody else
    touches it, and what is to be sent meanwhile waits in ``queue``. So does what a signal handler sends that interrupts
    its own thread in the middle of using the adapter.
    """

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self.lock: Any = threading.RLock()  # Any: the stubs do not know what `inside` asks it
        self.bell = Doorbell()
        self.adapter: Adapter | None = None
        #: The adapter is with the thread that asks the broker something, or that connects.
        self.away = False
        self.abandoned = self.closed = self.opened_before = False
        #: The process ends: nothing is begun any more.
        self.ending = False
        #: Why there is no connection, as the last try or loss said.
        self.error: MessagingError | None = None
        #: When the connection came up, when something was last read, and last sent or delivered.
        self.up_since: float | None = None
        self.read_at = 0.0
        self.used_at = monotonic()
        self.tick_at = 0.0
        #: When what is in the outbox is to be written; 0: as soon as the socket takes it.
        self.flush_at = 0.0
        self.sends: dict[int, Settle | None] = {}
        self.subscriptions = Subscriptions(connector.reconnect_max)
        self.retry = Backoff(connector.reconnect_max)
        #: Read, and not yet handled.
        self.todo: deque[Callable[[], object]] = deque()
        #: To be done with the adapter (under the lock) as soon as it is free; and how many bytes each of them holds.
        self.queue: deque[tuple[Callable[[], object], int]] = deque()
        self.handling = False
        #: Gives back a delivery that nobody wants.
        self.unwanted: Callable[[Delivery], None] = lambda _: None
        #: What an event loop does when a connection is given up, before its descriptor is closed.
        self.on_down: Callable[[], None] = lambda: None

    # -- who may use the adapter --------------------------------------------------------------------------------

    @property
    def inside(self) -> bool:
        """Whether the calling thread is in the middle of using the adapter: a signal handler, or a finalizer, asks."""
        owned: bool = self.lock._is_owned()
        return owned

    @property
    def occupied(self) -> bool:
        """Whether the thread that pumps is in a handler, or in the middle of using the adapter."""
        return self.handling or self.inside

    def usable(self) -> None:
        """Raise why it cannot be used at all: ConnectionLost when it was closed; RuntimeError in the wrong moment."""
        if self.abandoned:
            raise ConnectionLost("this connection belongs to the parent process")
        if self.closed:
            raise ConnectionLost(f"the connection to {self.connector.url} was closed")
        if self.inside:
            raise RuntimeError(
                "this signal handler (or finalizer) interrupted its own thread in the middle of a message, and can only"
                " send without waiting (wait=0): have it set a flag, or start a thread that calls"
            )

    @property
    def queued(self) -> int:
        """How many bytes wait for the adapter."""
        return sum(size for _, size in list(self.queue)) if self.queue else 0

    def drain(self) -> None:
        """Do what waited for the adapter, if it is free."""
        while self.queue and not self.away and not self.inside:
            with self.lock:
                if not self.away:
                    self.drain_mine()

    def drain_mine(self) -> None:
        """Do what waited for the adapter (under the lock), which is free, or away with the calling thread."""
        while self.queue:
            self.queue.popleft()[0]()

    # -- reading ------------------------------------------------------------------------------------------------

    def steady(self, adapter: Adapter, work: Callable[[], object]) -> None:
        """Read or write for all (under the lock). A loss, or an interrupt in the middle, takes the connection down."""
        try:
            work()
        except MessagingError as lost:
            self.drop(adapter, lost)
        except BaseException:
            self.drop(adapter, ConnectionLost("interrupted"))
            raise

    def read(self, adapter: Adapter) -> None:
        """Read what is there, and look after heartbeats (under the lock)."""
        self.collect(adapter.process())
        now = self.read_at = monotonic()
        if now >= self.tick_at:
            adapter.tick()
            self.flush(adapter)
            heartbeat = self.connector.heartbeat
            self.tick_at = now + (min(1.0, heartbeat / 4) if heartbeat else 1.0)

    def flush(self, adapter: Adapter) -> None:
        """Write what the socket takes (under the lock)."""
        self.flush_at = 0.0
        adapter.flush()

    def collect(self, events: Iterable[Event]) -> None:
        """Note what was read as work to do. What each event is about is looked up now, under the lock."""
        for event in events:
            if isinstance(event, Delivery):
                self.used_at = monotonic()
                subscription = self.subscriptions.of(event.subscription)
                wanted = self.unwanted if subscription is None else subscription.on_delivery
                self.todo.append(partial(wanted, event))
            elif isinstance(event, Settled):
                callback = self.sends.pop(event.token, None)
                if callback is not None:
                    self.todo.append(partial(callback, event.outcome, event.reason))
            elif (subscription := self.subscriptions.of(event.subscription)) is not None:
                self.fail(subscription, NotFound(event.reason))

    def fail(self, subscription: Subscription, why: MessagingError) -> None:
        """Note that a subscription ended, or cannot be made (under the lock)."""
        if self.subscriptions.failed(subscription, fresh(why)) and subscription.on_lost is not None:
            self.todo.append(partial(subscription.on_lost, str(why)))

    def handle(self) -> None:
        """Do what was noted. Only the thread that pumps."""
        # Popped only when done: an interrupt in the middle leaves the rest, and this one again, to the next pumper.
        try:
            while self.todo:
                self.handling = True
                work = self.todo.popleft()
                try:
                    work()
                except Exception:  # a handler's fault must not become everybody's
                    log.exception("a handler failed")
                except BaseException:
                    self.todo.appendleft(work)
                    raise
        finally:
            self.handling = False

    # -- up and down --------------------------------------------------------------------------------------------

    def take_up(self, adapter: Adapter) -> None:
        """Use a new connection from now on (under the lock)."""
        self.bell.watch(adapter.fileno())
        self.adapter = adapter
        self.tick_at = self.up_since = self.read_at = monotonic()
        self.flush_at = 0.0
        self.error = None
        self.opened_before = True

    def take_down(self, adapter: Adapter, error: MessagingError, *, quietly: bool = False) -> bool:
        """Use a connection no more (under the lock): what is unsettled is LOST, what was subscribed waits.

        Returns:
            Whether it was the connection of the moment. It is the caller's to close.
        """
        if adapter is not self.adapter:
            return False
        if not quietly:
            log.warning("%s: connection lost: %s", self.connector.url, error)
        self.adapter = None
        self.bell.forget()
        self.on_down()
        self.error = fresh(error)
        if quietly or self.up_since is None or monotonic() - self.up_since >= _LASTING:
            self.retry.reset()
        else:
            self.retry.failed()
        self.up_since = None
        self.subscriptions.all_down()
        self.collect([Settled(token, Outcome.LOST, str(error)) for token in list(self.sends)])
        self.bell.ring()
        return True

    def drop(self, adapter: Adapter, error: MessagingError) -> None:
        """Take down a connection that is broken: there is nobody to say goodbye to."""
        if self.take_down(adapter, error):
            adapter.abandon()


def fresh(error: MessagingError) -> MessagingError:
    """Return an error that says the same: one that is raised twice grows, and keeps the frames of who raised it."""
    try:
        return type(error)(*error.args)
    except TypeError:  # an adapter's own class, made in its own way
        return AdapterError(str(error))
