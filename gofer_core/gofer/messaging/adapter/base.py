"""The adapter interface: the one file that an adapter's author reads.

An adapter is one connection to one broker, small and passive. The link above it does everything that takes time or
judgement (waiting, retrying, reconnecting, threads, logging); the adapter only translates.

An adapter

- is called by one thread at a time, by any thread, and needs no locks;
- never retries, sleeps, starts a thread, calls a handler, or logs and goes on;
- blocks only in ``connect`` and in the operations that take a ``timeout`` (seconds as float), and no longer than that;
- raises only :class:`~gofer.errors.NotFound`, :class:`~gofer.errors.ConnectionLost` and
  :class:`~gofer.errors.AdapterError` (ValueError and TypeError for a call that is wrong in itself);
- after :class:`~gofer.errors.ConnectionLost` is finished: only ``close`` and ``abandon`` may follow. A new connection
  is a new object.

Reading and writing are apart. ``send``, ``accept``, ``release`` and ``reject`` only put encoded frames into the
adapter's outbox (and are cheap); ``flush`` gives the socket what it takes without blocking; ``process`` reads and
returns what came. Whatever arrives while an operation waits for its answer is kept and returned by the next
``process``. While ``pending`` is true such events wait already, and ``process`` must be called without waiting for the
descriptor.

Third parties register a class by an entry point of the group ``gofer.adapters``, named by what stands before ``+`` in
a URL, and subclass :class:`gofer.testing.AdapterContract` to have the whole suite of promises tested.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from gofer.messaging.address import Address
from gofer.messaging.connector import Connector

__all__ = [
    "HEAD",
    "TAIL",
    "Adapter",
    "Delivery",
    "Event",
    "ExchangeSpec",
    "Outcome",
    "QueueSpec",
    "Settled",
    "SubscriptionLost",
]

#: Bytes that are kept of the beginning and of the end of a message that is over its subscription's limit.
HEAD, TAIL = 65536, 4096


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue as it is declared. ``expires``: seconds without use after which the broker deletes it, None: never.

    The defaults are those of gofer 2.12: durable, shared, kept. ``kind`` is ``classic`` or ``quorum``.
    """

    name: str
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    expires: float | None = None
    kind: str = "classic"


@dataclass(frozen=True, slots=True)
class ExchangeSpec:
    """An exchange as it is declared. ``kind`` is ``direct``, ``topic`` or ``fanout``."""

    name: str
    kind: str = "direct"
    durable: bool = True
    auto_delete: bool = False


class Delivery(msgspec.Struct, frozen=True, eq=False):
    """A message that the broker has handed to us and holds until it is accepted, released or rejected.

    ``redelivered``: it was delivered before; None: this broker cannot tell. ``ttl``: the message's time to live as its
    sender set it, in seconds. ``tag`` is the adapter's own; a delivery of an earlier connection or channel is stale,
    and settling it does nothing. ``cut``: so many bytes are left out of the middle of ``body``, between its first
    ``HEAD`` and its last ``TAIL`` bytes, for it is over the limit.
    """

    subscription: int
    body: bytes
    redelivered: bool | None
    ttl: float | None
    tag: object
    cut: int = 0


class Outcome(enum.Enum):
    """What became of a sent message."""

    TAKEN = "taken"  # the broker has it, in a queue
    RETURNED = "returned"  # no such exchange, or no queue behind it
    REFUSED = "refused"  # the broker did not take it: a limit, a full queue, a permission
    LOST = "lost"  # not known: the channel went away before the broker answered


class Settled(msgspec.Struct, frozen=True):
    """The broker's answer to one ``send``; ``token`` is the one given there, ``reason`` the broker's own words."""

    token: int
    outcome: Outcome
    reason: str = ""


class SubscriptionLost(msgspec.Struct, frozen=True):
    """A subscription ended from the other side: its queue was deleted, or its channel closed by the broker."""

    subscription: int
    reason: str


Event = Delivery | Settled | SubscriptionLost


class Adapter(ABC):
    """One connection to one broker. See the module's text for the rules all methods share."""

    #: Deliveries carry a true ``redelivered`` flag; False: it is always None.
    tells_redelivered: ClassVar[bool] = True
    #: Messages survive a restart of the broker; False: ``instance`` says when they did not.
    durable: ClassVar[bool] = True

    def __init__(self, connector: Connector) -> None:
        """Keep the connector. No input or output happens before ``connect``."""
        self.connector = connector

    # -- connection ---------------------------------------------------------------------------------------------

    @abstractmethod
    def connect(self, timeout: float) -> None:
        """Open the connection and log in. Called once.

        Raises:
            ConnectionLost: refused (at once), unreachable, or no answer within ``timeout``.
            AdapterError: bad login, unknown virtual host, TLS that does not verify, a certificate file that is missing.
        """

    @abstractmethod
    def close(self) -> None:
        """Close politely if that is quick (a second at most), else hard. Idempotent, never raises.

        The broker takes back every delivery that was not settled. What is still in the outbox is written first if the
        socket takes it.
        """

    @abstractmethod
    def abandon(self) -> None:
        """Close the descriptors without a word to the peer: in a forked child, where the parent still uses them."""

    @property
    def instance(self) -> str | None:
        """The identity of the broker's memory: when it differs after a reconnect, its messages are gone.

        None for a broker whose durable queues survive.
        """
        return None

    @property
    @abstractmethod
    def blocked(self) -> str | None:
        """Why the broker takes no messages at the moment (an alarm of its own), in its words; None: it does."""

    @abstractmethod
    def fileno(self) -> int:
        """The descriptor to wait on: for reading always, for writing while ``unwritten`` is not 0."""

    @property
    @abstractmethod
    def unwritten(self) -> int:
        """Bytes in the outbox that the socket has not taken."""

    @property
    @abstractmethod
    def pending(self) -> bool:
        """Whether ``process`` has something to return or read that the descriptor would not show."""

    @abstractmethod
    def flush(self) -> None:
        """Write what the socket takes without blocking.

        Raises:
            ConnectionLost: the connection is gone.
        """

    @abstractmethod
    def process(self) -> Sequence[Event]:
        """Read what is there without blocking, and return it in the order it came. Returns at once, perhaps nothing.

        Reads a bounded amount a call, so that one busy connection cannot keep its thread for ever.

        Raises:
            ConnectionLost: the connection is gone, or the peer breaks the protocol. Events read before that are
                returned first; the next call raises.
        """

    @abstractmethod
    def tick(self) -> None:
        """Send and check heartbeats. The link calls this about every second (and at least twice a heartbeat).

        Raises:
            ConnectionLost: nothing was heard from the peer for two heartbeats.
        """

    # -- nodes: each waits for the broker's answer, at most ``timeout`` seconds ------------------------------------
    # Each raises ConnectionLost when there is no answer in time, and leaves the connection usable after NotFound and
    # AdapterError.

    @abstractmethod
    def declare_queue(self, queue: QueueSpec, timeout: float) -> str | None:
        """Make sure that the queue exists.

        Returns:
            None, or, when it exists with other properties, a sentence that names the difference; it is used as it is.

        Raises:
            AdapterError: not permitted, or somebody else's exclusive queue.
        """

    @abstractmethod
    def delete_queue(self, name: str, timeout: float, *, if_unused: bool = False, if_empty: bool = False) -> None:
        """Delete a queue.

        Raises:
            NotFound: there is none.
            AdapterError: it is in use, or not empty, and that was asked.
        """

    @abstractmethod
    def purge_queue(self, name: str, timeout: float) -> None:
        """Drop the messages that wait in a queue (not those delivered).

        Raises:
            NotFound: there is no such queue.
        """

    @abstractmethod
    def declare_exchange(self, exchange: ExchangeSpec, timeout: float) -> str | None:
        """Make sure that the exchange exists. Returns and raises as ``declare_queue``."""

    @abstractmethod
    def delete_exchange(self, name: str, timeout: float) -> None:
        """Delete an exchange.

        Raises:
            NotFound: there is none.
        """

    @abstractmethod
    def bind(self, queue: str, exchange: str, key: str, timeout: float) -> None:
        """Route messages for ``key`` at the exchange to the queue. Binding again changes nothing.

        Raises:
            NotFound: no such queue or exchange.
        """

    @abstractmethod
    def unbind(self, queue: str, exchange: str, key: str, timeout: float) -> None:
        """Undo ``bind``. A binding that does not exist is no error; a missing queue or exchange is NotFound."""

    # -- receiving ------------------------------------------------------------------------------------------------

    @abstractmethod
    def subscribe(
        self, queue: str, prefetch: int, timeout: float, *, exclusive: bool = False, limit: int | None = None
    ) -> int:
        """Have the messages of a queue delivered, at most ``prefetch`` (1 to 65535) of them unsettled at a time.

        Args:
            limit: of a body of more bytes (and more than ``HEAD`` and ``TAIL`` together) the middle is thrown away
                while it is read, so that it takes no memory. None: no limit.

        Returns:
            The subscription's number, never used again on this connection.

        Raises:
            NotFound: no such queue.
            AdapterError: the queue is somebody's alone, or ``exclusive`` was asked and it has another subscriber.
        """

    @abstractmethod
    def cancel(self, subscription: int, timeout: float) -> None:
        """End a subscription. What was delivered can still be settled. An unknown or ended one is ignored.

        Deliveries that were on their way may still come out of ``process``, once; they too must be settled.
        """

    @abstractmethod
    def accept(self, delivery: Delivery) -> None:
        """Tell the broker that the message is done with. A stale or settled delivery is ignored."""

    @abstractmethod
    def release(self, delivery: Delivery) -> None:
        """Give the message back to its queue, to be delivered again (marked redelivered where brokers do that)."""

    @abstractmethod
    def reject(self, delivery: Delivery) -> None:
        """Tell the broker to drop the message, or to dead-letter it where the queue is set up so."""

    # -- sending --------------------------------------------------------------------------------------------------

    @abstractmethod
    def send(
        self,
        token: int,
        address: Address,
        body: bytes,
        *,
        ttl: float | None = None,
        isolated: bool = False,
        durable: bool = True,
        confirm: bool = True,
    ) -> None:
        """Put a message into the outbox. Its :class:`Settled` event follows from ``process``, exactly one.

        Args:
            token: the sender's number for it, unique on this connection.
            ttl: seconds after which the broker may drop it, undelivered.
            durable: it shall survive a restart of the broker, where its queue does; else it need not, which spares a
                broker with a disk the writing.
            confirm: False: the sender hears otherwise that it arrived, and calls ``forget`` then. Until that it has its
                event if it is RETURNED, REFUSED or LOST, as far as the broker says so; TAKEN need not be told. It may
                overtake, or be overtaken by, confirmed ones.

        No message ever disturbs another's delivery or settlement: an unknown exchange is RETURNED, a message over the
        broker's limit REFUSED (where it closed a shared channel, its neighbours are LOST and their senders try again,
        isolated). When the connection ends, unsettled sends have no event: the link counts them as LOST.
        """

    @abstractmethod
    def forget(self, token: int) -> None:
        """Note that nobody waits any more for the event of a message that was sent with ``confirm=False``.

        Nothing of it need be kept, and an event that comes all the same is ignored; so is an unknown token here.
        """
