"""Many agents in one process, for trying what calls many: each has its own connection, and does what a script says.

::

    async with Emulator("local://", 200, Script(fail=0.05, seed=7)) as emulator:
        ...  # gofer fleet, or gofer.fleet.Fleet, finds and calls them

An emulated agent is not goferd: it has no plugins and no ledger. It answers every method, joins the fleet with a card,
and runs no request twice that it still has in memory. Its random choices follow from the seed.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, NamedTuple, Self

import msgspec

from gofer.card import ALL, EXCHANGE, Answer, Card, PluginCard, key_of_group, read_question
from gofer.errors import AdapterError, Cancelled, ConfigError, ConnectionLost, DocumentError
from gofer.messaging.adapter import NO_EXPIRY, Bind, DeclareExchange, DeclareQueue, DeleteQueue, Delivery, Outcome
from gofer.messaging.address import Address
from gofer.messaging.asyncio_driver import AsyncioConnection
from gofer.messaging.connector import Connector
from gofer.messaging.document import VERSION, Request, decode_request, encode, timestamp, unwrap
from gofer.messaging.subscription import Steps, Subscription
from gofer.messaging.url import URL
from gofer.rmi.exceptions import to_result
from gofer.targets import Targets

__all__ = ["EmulatedAgent", "Emulator", "Script"]

_AT_ONCE = 100  # connections that are opened at the same time
_REMEMBERED = 32  # requests of an agent whose results are remembered
_EXPIRES = 600.0
_PATIENCE = 120.0  # seconds for an agent to come up


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What emulated agents do.

    Attributes:
        latency: seconds that a method takes, between these two.
        fail: the share of agents whose methods raise ValueError, 0 to 1.
        frozen: the share that take requests, and never answer.
        gone: the share that answer questions, and whose queues do not exist.
        version: what their cards say of gofer.
        groups: in which all are, beside ``emulated`` and ``g0`` to ``g9``.
        seed: of the random choices; the same one makes the same agents do the same.
    """

    latency: tuple[float, float] = (0.0, 0.0)
    fail: float = 0.0
    frozen: float = 0.0
    gone: float = 0.0
    version: str = "emulated"
    groups: tuple[str, ...] = ()
    seed: int = 0

    def kinds(self, count: int) -> list[str]:
        """Return for each agent whether it is ``well``, ``failing``, ``frozen`` or ``gone``."""
        shares = {"failing": self.fail, "frozen": self.frozen, "gone": self.gone}
        kinds = [kind for kind, share in shares.items() for _ in range(round(share * count))]
        if len(kinds) > count:
            raise ConfigError(f"fail, frozen and gone are more than all: {sum(shares.values()):g}; allowed: up to 1")
        kinds += ["well"] * (count - len(kinds))
        random.Random(self.seed).shuffle(kinds)  # noqa: S311 - to be repeatable is what it is for
        return kinds


class Emulator:
    """Agents ``emulated-00000`` and so on, at addresses of these names. For one event loop.

    Attributes:
        agents: all of them.
        runs: how often the method of a request was run, by its serial number.
        ran: called with each serial number that is run.

    Args:
        prefix: what names and addresses begin with.
        durable: whether their queues are.
    """

    def __init__(
        self,
        url: str | URL | Connector,
        count: int,
        script: Script | None = None,
        *,
        prefix: str = "emulated",
        durable: bool = True,
        ran: Callable[[str], object] = lambda sn: None,
    ) -> None:
        self.connector = Connector.of(url)
        self.script = script or Script()
        self.durable = durable
        self.runs: Counter[str] = Counter()
        self.ran = ran
        self.random = random.Random(self.script.seed)  # noqa: S311 - as above
        kinds = self.script.kinds(count)
        self.agents = [EmulatedAgent(self, f"{prefix}-{n:05}", n, kind) for n, kind in enumerate(kinds)]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Have all connect, and wait until they take requests.

        Raises:
            MessagingError: one of them cannot.
        """
        limit = asyncio.Semaphore(_AT_ONCE)

        async def start(agent: EmulatedAgent) -> None:
            async with limit:
                await agent.start()

        await asyncio.gather(*map(start, self.agents))

    async def stop(self) -> None:
        """Close all connections, and delete the queues."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def stop(agent: EmulatedAgent) -> None:
            async with limit:
                await agent.stop()

        await asyncio.gather(*map(stop, self.agents))

    @property
    def up(self) -> int:
        """How many take requests at the moment."""
        return sum(agent.is_up for agent in self.agents)


def _delete(queue: str) -> Steps:
    yield DeleteQueue(queue)


class _Running(NamedTuple):
    timer: asyncio.TimerHandle
    request: Request
    delivery: Delivery


class EmulatedAgent:
    """One agent. ``kind``: ``well``, ``failing``, ``frozen`` or ``gone``."""

    __slots__ = (
        "_answered",
        "_connection",
        "_emulator",
        "_number",
        "_questions",
        "_requests",
        "_running",
        "kind",
        "name",
    )

    def __init__(self, emulator: Emulator, name: str, number: int, kind: str) -> None:
        self.name = name
        self.kind = kind
        self._emulator = emulator
        self._number = number
        self._connection: AsyncioConnection | None = None
        self._requests: Subscription | None = None
        self._questions: Subscription | None = None
        self._running: dict[str, _Running] | None = None
        self._answered: OrderedDict[str, bytes] | None = None

    @property
    def is_up(self) -> bool:
        """Whether it takes requests and questions."""
        wanted = [one for one in (self._requests, self._questions) if one is not None]
        return bool(wanted) and all(one.active for one in wanted)

    @property
    def groups(self) -> list[str]:
        """Its groups."""
        return ["emulated", f"g{self._number % 10}", *self._emulator.script.groups]

    def card(self) -> Card:
        """Return what it says of itself."""
        return Card(
            name=self.name,
            address=self.name,
            groups=self.groups,
            plugins={"emulated": PluginCard("1.0", self.name, ["Emulated"])},
            facts={"number": self._number},
            version=self._emulator.script.version,
        )

    async def start(self) -> None:
        """Connect, and take requests and questions."""
        emulator = self._emulator
        connection = AsyncioConnection(emulator.connector, lambda _: False, asyncio.get_running_loop())
        self._connection = connection
        queue = f"fleet.{self.name}"
        self._questions = Subscription(
            queue, 10, self._on_question, self._prepare_questions, dispose=partial(_delete, queue)
        )
        if self.kind != "gone":
            self._requests = Subscription(
                self.name, 10, self._on_request, self._prepare_requests, dispose=partial(_delete, self.name)
            )
            await self._subscribe(connection, self._requests)
        try:
            await self._subscribe(connection, self._questions)
        except AdapterError:
            self._questions = None  # a broker without exchanges: it is called by its address

    async def _subscribe(self, connection: AsyncioConnection, subscription: Subscription) -> None:
        """Subscribe; try again while a broker does not take so many connections at once."""
        deadline = monotonic() + _PATIENCE
        while True:
            try:
                await connection.subscribe(subscription, max(1.0, deadline - monotonic()))
            except ConnectionLost:
                if monotonic() > deadline:
                    raise
                await asyncio.sleep(self._emulator.random.uniform(0.0, 2.0))
            else:
                return

    async def stop(self) -> None:
        """Delete its queues, and close its connection."""
        connection = self._connection
        if connection is not None:
            for one in filter(None, (self._requests, self._questions)):
                connection.unsubscribe_nowait(one, dispose=True)
            await connection.aclose()

    def crash(self) -> None:
        """Lose the connection and all that is in memory, and come up again, as an agent that was killed does."""
        for running in (self._running or {}).values():
            running.timer.cancel()
        self._running = self._answered = None
        if self._connection is not None:
            self._connection.reconnect("it was told to crash")

    def _prepare_requests(self) -> Steps:
        yield DeclareQueue(self.name, durable=self._emulator.durable)

    def _prepare_questions(self) -> Steps:
        queue = f"fleet.{self.name}"
        yield DeclareExchange(EXCHANGE, "topic")
        if (yield DeclareQueue(queue, durable=False, expires=_EXPIRES)) == NO_EXPIRY:
            yield DeleteQueue(queue)
            yield DeclareQueue(queue, durable=False, auto_delete=True)
        for key in (ALL, *map(key_of_group, self.groups)):
            yield Bind(queue, EXCHANGE, key)

    # -- questions ----------------------------------------------------------------------------------------------------

    def _on_question(self, delivery: Delivery) -> None:
        connection = self._connection
        assert connection is not None  # noqa: S101 - it has delivered this
        connection.accept(delivery)
        try:
            signed = unwrap(delivery.body)
            question = read_question(delivery.body if signed is None else signed.message.encode())
            card = self.card()
            if not Targets(question.who.targets).matches(msgspec.to_builtins(card)):
                return
        except (DocumentError, ConfigError):
            return
        answer = Answer(sn=question.sn, version=VERSION, routing=[None, question.replyto], origin=self.name, card=card)
        body = encode(msgspec.to_builtins(answer))
        pause = self._emulator.random.uniform(0.0, min(question.who.jitter, question.who.wait / 2))
        connection.loop.call_later(
            pause,
            partial(
                connection.publish_nowait,
                Address("", question.replyto),
                body,
                ttl=question.who.wait,
                durable=False,
                confirm=False,
            ),
        )

    # -- requests -----------------------------------------------------------------------------------------------------

    def _on_request(self, delivery: Delivery) -> None:
        connection = self._connection
        assert connection is not None  # noqa: S101 - it has delivered this
        if self.kind == "frozen":
            return
        try:
            signed = unwrap(delivery.body)
            request = decode_request(delivery.body if signed is None else signed.message.encode())
        except DocumentError:
            connection.reject(delivery)
            return
        sn = request.sn or ""
        answered = None if self._answered is None else self._answered.get(sn)
        if answered is not None:
            self._send(request, delivery, answered)
            return
        if self._running is None:
            self._running = {}
        if sn in self._running:
            connection.accept(delivery)
            return
        emulator = self._emulator
        if request.request.classname == "Admin":
            self._send(request, delivery, encode({"retval": self._administer(request)}))
            return
        emulator.runs[sn] += 1
        emulator.ran(sn)
        pause = emulator.random.uniform(*emulator.script.latency)
        timer = connection.loop.call_later(pause, self._end, sn)
        self._running[sn] = _Running(timer, request, delivery)

    def _end(self, sn: str) -> None:
        running = (self._running or {}).pop(sn, None)
        if running is None:
            return
        _, request, delivery = running
        if self.kind == "failing":
            result = encode(to_result(ValueError("this machine fails")))
        else:
            result = encode({"retval": {"name": self.name, "args": request.request.args}})
        if self._answered is None:
            self._answered = OrderedDict()
        self._answered[sn] = result
        if len(self._answered) > _REMEMBERED:
            self._answered.popitem(last=False)
        self._send(request, delivery, result)

    def _administer(self, request: Request) -> Any:
        if request.request.method != "cancel":
            return "hello"
        sn = str(request.request.keywords.get("sn"))
        running = (self._running or {}).pop(sn, None)
        if running is None:
            return []
        timer, waiting, delivery = running
        timer.cancel()
        self._send(waiting, delivery, encode(to_result(Cancelled("cancelled"))))
        return [sn]

    def _send(self, request: Request, delivery: Delivery, result: bytes) -> None:
        connection = self._connection
        assert connection is not None  # noqa: S101 - it has delivered this
        if request.replyto is None:
            connection.accept(delivery)
            return
        reply = {
            "sn": request.sn,
            "version": VERSION,
            "routing": [None, request.replyto],
            "origin": self.name,
            "timestamp": timestamp(),
            "data": request.data,
            "result": msgspec.Raw(result),
        }

        def settled(outcome: Outcome, _: str) -> None:
            # One that was not taken is asked for again, by its caller; an agent that died in between hears it again.
            if outcome is not Outcome.UNKNOWN:
                connection.accept(delivery)

        connection.publish_nowait(
            Address.parse(request.replyto), encode(reply), durable=request.wait is None, settled=settled
        )
