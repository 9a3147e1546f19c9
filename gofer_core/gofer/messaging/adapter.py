"""The adapter interface: the one file that an adapter's author reads.

An adapter is one connection to one broker, as a protocol without I/O: bytes go in, events and bytes come out. The
connection above it does everything that takes time or judgement: it opens the socket (and TLS), reads, writes, waits,
retries and reconnects. The driver calls an adapter like this::

    adapter = SomeAdapter(connector)
    adapter.begin(now)                        # the socket is open
    loop:
        adapter.receive(data, now)            # bytes from the socket
        adapter.tick(now)                     # when adapter.deadline has passed
        adapter.publish(...), .ask(...) ...   # commands, in any order, also before Opened where that says so
        for event in adapter.events(): ...    # after each call or a few of them
        socket.send(adapter.take(now))        # likewise

Promises of every adapter:

- One thread at a time calls it. It needs no lock and is not told which thread.
- It never waits, sleeps, opens or reads a socket or a file, starts a thread, retries, calls a handler, reads a clock or
  logs. All times are seconds as float on one monotonic clock, handed in as ``now``. (Where a broker's messages expire
  at a date, the date is read from the wall clock.)
- It raises nothing but ValueError and TypeError, for a command that is wrong in itself (a name that is too long); such
  a command has no effect and no event. Whatever a peer sends becomes events, at worst ``Closed``.
- ``Opened`` is the first event, unless the connection fails before; ``Closed`` is the last and comes exactly once.
  After ``Closed`` every call is ignored, but ``take`` may return output once more (the answer to the broker's close).
- Until ``Opened`` only ``receive``, ``tick``, ``lost``, ``close``, ``events`` and ``take`` are called.
- What belongs to one operation, message or subscription costs that one alone: a refused declaration, a message to an
  exchange that does not exist, or a queue that was deleted never disturbs another's delivery or confirmation. Where a
  broker closes the whole connection for one operation, that operation is answered with the error before ``Closed``.
- A message larger than its subscription's ``limit`` is never buffered whole: only its ends are kept.

Third parties register a class by an entry point of the group ``gofer.adapters``, named by what stands before ``+`` in a
URL, and subclass :class:`gofer.testing.AdapterContract` to have all promises tested.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from math import inf
from typing import ClassVar

import msgspec

from gofer.errors import MessagingError
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector

__all__ = ["HEAD", "NO_EXPIRY", "TAIL", "Adapter", "Outcome", "Outgoing", "Settlement", "checked"]
__all__ += ["Bind", "Cancel", "CheckQueue", "DeclareExchange", "DeclareQueue", "DeleteExchange", "DeleteQueue"]
__all__ += ["Operation", "PurgeQueue", "Subscribe", "Unbind"]
__all__ += ["Blocked", "Closed", "Confirmed", "Delivery", "Done", "Event", "Opened", "SubscriptionLost"]

#: Bytes that are kept of the beginning and of the end of a message that is over its subscription's limit.
HEAD, TAIL = 65536, 4096

#: What DeclareQueue answers on a broker that cannot delete a queue after ``expires``, if nothing else is different.
NO_EXPIRY = "the queue does not expire: this broker cannot do that, and the queue stays until somebody deletes it"

# -- operations: each is answered by exactly one Done. These and events are tagged: they can be sent as they are ------


class DeclareQueue(msgspec.Struct, frozen=True, tag=True):
    """Make sure that a queue exists. Value: None, or a sentence.

    The sentence says how the queue that is there differs from this; it is used as it is. Errors: AdapterError: not
    permitted, or another connection's exclusive queue. ``expires``: seconds without a consumer after which the broker
    deletes it; None: never. Where the broker cannot do that, the queue is declared without, and the value is
    ``NO_EXPIRY``: then the caller deletes the queue when it is no longer needed. The defaults are those of gofer 2.12:
    durable, shared, kept. ``kind`` is ``classic`` or ``quorum``, and is declared explicitly: a virtual host's default
    does not count. ``bindings``: the exchange and the key of each; the queue is bound to them as by ``Bind``, with as
    few packets as the protocol allows. Errors: NotFound: no such exchange; the queue is there.
    """

    name: str
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    expires: float | None = None
    kind: str = "classic"
    bindings: tuple[tuple[str, str], ...] = ()


class DeleteQueue(msgspec.Struct, frozen=True, tag=True):
    """Delete a queue. Errors: NotFound: there is none; AdapterError: not empty, and that was asked.

    A broker that cannot check the condition answers with an AdapterError that says so, and keeps the queue.
    """

    name: str
    if_empty: bool = False


class CheckQueue(msgspec.Struct, frozen=True, tag=True):
    """Look at a queue; nothing is declared, and nothing changes. Asked only where ``Adapter.checks_queues`` is True.

    Value: None, or a sentence: the queue has no consumer. One whose prefetch window is full is a consumer. Errors:
    NotFound: no such queue; AdapterError: not permitted, another connection's exclusive queue, or this broker cannot
    tell.
    """

    name: str


class PurgeQueue(msgspec.Struct, frozen=True, tag=True):
    """Drop the messages that wait in a queue (not those delivered). Errors: NotFound."""

    name: str


class DeclareExchange(msgspec.Struct, frozen=True, tag=True):
    """Make sure that an exchange exists. Value and errors as of DeclareQueue.

    ``kind`` is ``direct``, ``topic`` or ``fanout``.
    """

    name: str
    kind: str = "direct"
    durable: bool = True
    auto_delete: bool = False


class DeleteExchange(msgspec.Struct, frozen=True, tag=True):
    """Delete an exchange. Errors: NotFound."""

    name: str


class Bind(msgspec.Struct, frozen=True, tag=True):
    """Route messages for ``key`` at the exchange to the queue. Binding again changes nothing.

    Errors: NotFound: no such queue or exchange.
    """

    queue: str
    exchange: str
    key: str


class Unbind(msgspec.Struct, frozen=True, tag=True):
    """Undo ``Bind``. A missing binding is not an error. Errors: NotFound: no such queue or exchange."""

    queue: str
    exchange: str
    key: str


class Subscribe(msgspec.Struct, frozen=True, tag=True):
    """Have the messages of a queue delivered, at most ``prefetch`` (1 to 65535) of them unsettled at a time.

    ``limit``: of a body of more bytes (and more than ``HEAD`` and ``TAIL`` together) the middle is thrown away while it
    is read, so that it takes no memory; None: no limit.

    ``number`` is the connection's name for the subscription: it is new, and no later adapter of the same connection
    uses it. Deliveries may follow in the same batch of events as the Done. Errors: NotFound: no such queue;
    AdapterError: another consumer is exclusive, or ``exclusive`` is asked and the queue has another consumer.
    """

    number: int
    queue: str
    prefetch: int
    exclusive: bool = False
    limit: int | None = None


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """End a subscription. What was delivered can still be settled. An unknown or lost one is no error.

    Deliveries that were on their way come before the Done; they must be settled, too.
    """

    number: int


_OnQueue = DeclareQueue | DeleteQueue | CheckQueue | PurgeQueue | Subscribe | Cancel
_OnExchange = DeclareExchange | DeleteExchange | Bind | Unbind
Operation = _OnQueue | _OnExchange

_KINDS = {DeclareQueue: ("classic", "quorum"), DeclareExchange: ("direct", "topic", "fanout")}


class Outgoing(msgspec.Struct, frozen=True):
    """A message that is to be sent.

    ``token``: the sender's number for it, new on this connection. ``ttl``: seconds after which the broker may drop it,
    undelivered. ``durable``: it survives a restart of the broker, where its queue does; False spares the broker the
    disk.

    ``confirm``: False: the sender learns otherwise that it arrived and calls ``forget`` then. Until that it gets
    RETURNED, REFUSED or UNKNOWN as far as the broker says so; CONFIRMED need not come. It may overtake, or be overtaken
    by, confirmed ones.

    ``isolated``: send it where it can harm no other: its neighbours were UNKNOWN, and it may be the cause.
    """

    token: int
    address: Address
    body: bytes
    ttl: float | None = None
    durable: bool = True
    confirm: bool = True
    isolated: bool = False


class Settlement(enum.Enum):
    """What becomes of a delivery."""

    ACCEPT = "accept"  # it is done with
    RELEASE = "release"  # back to its queue, to be delivered again (marked so); no try, where the broker lets us choose
    REJECT = "reject"  # dropped, or dead-lettered where the queue is set up so


# -- events ---------------------------------------------------------------------------------------------------------


class Outcome(enum.Enum):
    """What became of a published message."""

    CONFIRMED = "confirmed"  # the broker has it, in a queue
    RETURNED = "returned"  # no such exchange, or no queue behind it
    REFUSED = "refused"  # the broker did not take it: a limit, a full queue, a permission
    UNKNOWN = "unknown"  # the channel or the connection went away before the broker answered


class Opened(msgspec.Struct, frozen=True, tag=True):
    """The broker has accepted the login."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """The answer to one ``ask``, with its ``id``: either ``value`` or ``error`` is the result."""

    id: int
    value: str | None = None
    error: MessagingError | None = None


class Delivery(msgspec.Struct, frozen=True, eq=False, tag=True):
    """A message that the broker has handed to us and holds until it is accepted, released or rejected.

    ``redelivered``: it was delivered before; None: this broker cannot tell. ``ttl``: the message's time to live as its
    sender set it, in seconds. ``tag`` is the adapter's own, and all that it needs to settle the message: the rest may
    be dropped. ``cut``: so many bytes are left out of the middle of ``body``, between its first ``HEAD`` and its last
    ``TAIL`` bytes, as it is over the limit.
    Bodies are bytes, never memoryviews.
    """

    subscription: int
    body: bytes
    redelivered: bool | None
    ttl: float | None
    tag: object
    cut: int = 0


class Confirmed(msgspec.Struct, frozen=True, tag=True):
    """The broker's answer to one ``publish``; ``token`` is the one given there, ``reason`` the broker's own words."""

    token: int
    outcome: Outcome
    reason: str = ""


class SubscriptionLost(msgspec.Struct, frozen=True, tag=True):
    """A subscription ended from the other side: its queue was deleted, or the broker closed its channel."""

    number: int
    reason: str


class Blocked(msgspec.Struct, frozen=True):
    """The broker takes no messages for now (an alarm of its own), in its words; None: it takes them again."""

    reason: str | None


class Closed(msgspec.Struct, frozen=True, tag=True):
    """The connection has ended; always the last event.

    ``error`` is None after ``close``. ConnectionLost: it may work again later (cut, silent for two heartbeats, the
    broker stops). AdapterError: the broker refused the login or the virtual host, or does not speak the protocol: a
    person must change something.
    """

    error: MessagingError | None


Event = Opened | Done | Delivery | Confirmed | SubscriptionLost | Blocked | Closed


class Adapter(ABC):
    """One connection to one broker. See the module's text for the promises that all methods share."""

    #: ``CheckQueue`` works; False: it is never asked.
    checks_queues: ClassVar[bool] = False
    #: ``Subscribe.exclusive`` works; False: it is an error.
    subscribes_exclusively: ClassVar[bool] = True

    #: When ``tick`` is wanted (on the clock of ``now``); ``inf``: never. The driver looks after each call.
    deadline: float = inf
    #: The output of ``take`` must be written now. An acknowledgement alone may wait some milliseconds for more output.
    urgent: bool = False

    def __init__(self, connector: Connector) -> None:
        """Keep the connector; ``connector.url`` is the one to log in with. Nothing is sent before ``begin``."""
        self.connector = connector

    # -- bytes --------------------------------------------------------------------------------------------------------

    @abstractmethod
    def begin(self, now: float) -> None:
        """Start the login: the socket is open (TLS included, where the URL says so). Called once."""

    @abstractmethod
    def receive(self, data: bytes, now: float) -> None:
        """Take bytes from the socket, in pieces of any size."""

    @abstractmethod
    def lost(self, reason: str, now: float) -> None:
        """Note that the socket has ended. ``Closed`` follows at once, with what that means at this point."""

    @abstractmethod
    def tick(self, now: float) -> None:
        """Send and check heartbeats, as ``connector.heartbeat`` asks. Called when ``deadline`` has passed, or earlier.

        A peer that was silent for two heartbeats is dead: ``Closed`` follows. Everything that had been received by
        ``now`` was handed to ``receive`` before.
        """

    @abstractmethod
    def events(self) -> list[Event]:
        """Return what has happened since the last call, in order. Each event is returned once."""

    @abstractmethod
    def take(self, now: float) -> bytes:
        """Return what is to be written to the socket, in order. Handed over once; the driver writes all of it."""

    @abstractmethod
    def close(self, now: float) -> None:
        """Close the connection. ``Closed`` follows when the broker has answered; the driver waits a second for that.

        The broker takes back every delivery that was not settled.
        """

    # -- commands -----------------------------------------------------------------------------------------------------

    def ask(self, id: int, operation: Operation) -> None:
        """Check an operation and start it. Exactly one ``Done`` with this id follows, unless ``Closed`` comes first.

        Operations do not wait for each other: one that the broker answers late delays no other (where the protocol
        has an order within a channel, that means several channels).

        Raises:
            ValueError: a name, a kind or a prefetch that no broker can take; the text says what is allowed.
        """
        for field in operation.__struct_fields__:
            value = getattr(operation, field)
            if field == "prefetch" and not 1 <= value <= 65535:
                raise ValueError(f"prefetch is between 1 and 65535, not {value}")
            for exchange, key in value if field == "bindings" else ():
                if not exchange or _is_bad(exchange) or _is_bad(key):
                    raise ValueError(
                        f"a binding's exchange and key have 1 to 255 bytes, unlike {(exchange, key)!r:.60}"
                    )
            if field == "kind" and value not in (kinds := _KINDS[type(operation)]):
                raise ValueError(f"the kind is one of {', '.join(kinds)}, not {value!r}")
            if isinstance(value, str) and (_is_bad(value) or (not value and field != "key")):
                raise ValueError(f"{field} has 1 to 255 bytes, none of them 0, unlike {value[:60]!r}")
        self.start(id, operation)

    @abstractmethod
    def start(self, id: int, operation: Operation) -> None:
        """Start an operation that ``ask`` has checked."""

    def publish(self, message: Outgoing) -> None:
        """Check a message and send it. Exactly one ``Confirmed`` with its token follows, unless ``Closed`` comes first.

        An exchange that does not exist is RETURNED; a message over the broker's limit is REFUSED. Where the broker
        closes a shared channel for it, its neighbours are UNKNOWN.

        Raises:
            ValueError: an address that no broker can take.
        """
        self.send(checked(message))

    @abstractmethod
    def send(self, message: Outgoing) -> None:
        """Send a message that ``publish`` has checked."""

    def encode(self, message: Outgoing) -> bytes | None:
        """Return all that ``send`` would have written, and change nothing; None: that is not only the message, or late.

        It spares a program's main thread the way to the I/O thread. When the driver has written it, ``written`` follows
        before any other call.
        """
        return None

    def written(self, message: Outgoing) -> None:
        """Note that a message was written as ``encode`` has returned it."""
        raise NotImplementedError

    @abstractmethod
    def forget(self, token: int) -> None:
        """Note that nobody waits for the outcome of a message sent with ``confirm=False`` any more.

        An unknown token is ignored.
        """

    @abstractmethod
    def settle(self, delivery: Delivery, how: Settlement) -> None:
        """Tell the broker what becomes of a delivery. A settled or stale one is ignored.

        A stale delivery came with an earlier connection, or its channel is gone.
        """

    def accept(self, delivery: Delivery) -> None:
        """Settle a delivery: see ``Settlement.ACCEPT``."""
        self.settle(delivery, Settlement.ACCEPT)

    def release(self, delivery: Delivery) -> None:
        """Settle a delivery: see ``Settlement.RELEASE``."""
        self.settle(delivery, Settlement.RELEASE)

    def reject(self, delivery: Delivery) -> None:
        """Settle a delivery: see ``Settlement.REJECT``."""
        self.settle(delivery, Settlement.REJECT)


def checked(message: Outgoing) -> Outgoing:
    """Return a message that can be sent.

    Raises:
        ValueError: its address is one that no broker can take.
    """
    for name in message.address:
        if (len(name) > 63 or "\0" in name) and _is_bad(name):  # most are not even looked at
            raise ValueError(f"an exchange and a key have at most 255 bytes, none of them 0, unlike {name[:60]!r}")
    return message


def _is_bad(name: str) -> bool:
    # Only text of more than 63 characters can have more than 255 bytes, and that is cheaper to know.
    return (len(name) > 63 and len(name.encode()) > 255) or "\0" in name
