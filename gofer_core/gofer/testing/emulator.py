"""Many agents in one process, for trying what calls many: each has its own connection, and does what a script says.

::

    async with Emulator("local://", 200, Script(fail=0.05, seed=7)) as emulator:
        ...  # gofer fleet, or gofer.fleet.Fleet, finds and calls them

An emulated agent is not goferd: it has no plugins and no ledger. It answers every method, joins the fleet with a card,
and runs no request twice that it still has in memory. What it does follows from the seed, not from the order in which
requests come.
"""

from __future__ import annotations

import asyncio
import random
import resource
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, NamedTuple, Self

import msgspec

from gofer.card import ALL, EXCHANGE, Answer, Card, PluginCard, Question, key_of_group, read_question
from gofer.errors import (
    AdapterError,
    Cancelled,
    ConfigError,
    ConnectionLost,
    DocumentError,
    Interrupted,
    MessagingError,
    NotFound,
)
from gofer.messaging.adapter import DeclareExchange, DeclareQueue, DeleteQueue, Delivery, Outcome
from gofer.messaging.address import Address
from gofer.messaging.asyncio_driver import AsyncioConnection
from gofer.messaging.connector import Connector
from gofer.messaging.document import VERSION, Request, decode_request, encode, timestamp, unwrap
from gofer.messaging.subscription import Steps, Subscription, declare_temporary
from gofer.messaging.url import URL
from gofer.rmi.exceptions import to_result
from gofer.targets import Targets
from gofer.testing._script import Script

__all__ = ["EmulatedAgent", "Emulator", "Script"]

_AT_ONCE = 200  # connections that are opened at the same time
_REMEMBERED = 32  # requests of an agent whose results are remembered
_EXPIRES = 600.0
_PATIENCE = 120.0  # seconds for an agent to come up
_LAST_TRY = 5.0  # seconds for one that is down to come back, and delete its queues
_OWN_FILES = 100  # that a process has open beside a socket for each agent


class Emulator:
    """Agents ``emulated-00000`` and so on, at addresses of these names. For one event loop.

    Attributes:
        agents: all of them.
        runs: how often the method of a request was run, by its serial number.
        crashes: how often an agent has crashed.
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
        self.crashes = 0
        self.has_exchange = False  # the broker, as far as is known: ten thousand need not ask for it
        self.ran = ran
        self._asked: tuple[bytes, Question, Targets] | None = None
        self.random = random.Random(self.script.seed)  # noqa: S311 - as above: for what is to be spread
        kinds = self.script.kinds(count)
        self.agents = [EmulatedAgent(self, f"{prefix}-{n:05}", n, kind) for n, kind in enumerate(kinds)]

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Have all connect, and wait until they take requests.

        Raises:
            ConfigError: this process may not open so many sockets.
            MessagingError: one of them cannot connect.
        """
        _allow_files(len(self.agents) + _OWN_FILES)
        await self._with_all(EmulatedAgent.start)

    async def stop(self) -> None:
        """Close all connections, and delete the queues."""
        await self._with_all(EmulatedAgent.stop)

    async def _with_all(self, work: Callable[[EmulatedAgent], Awaitable[None]]) -> None:
        """Do something with all agents, some at a time, until one fails."""
        waiting = iter(self.agents)

        async def go_on() -> None:
            for agent in waiting:
                await work(agent)

        tasks = [asyncio.create_task(go_on()) for _ in range(_AT_ONCE)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def read(self, body: bytes) -> tuple[Question, Targets]:
        """Read a question to the fleet, and whom it means. All agents get the same one: it is read once.

        Raises:
            DocumentError, ConfigError: it is none, or its targets cannot be read.
        """
        if self._asked is None or self._asked[0] != body:
            signed = unwrap(body)
            question = read_question(body if signed is None else signed.message.encode())
            self._asked = body, question, Targets(question.who.targets)
        return self._asked[1:]

    @property
    def up(self) -> int:
        """How many take requests at the moment."""
        return sum(agent.is_up for agent in self.agents)


def _allow_files(wanted: int) -> None:
    """Raise this process's limit of open files as far as it may itself.

    Raises:
        ConfigError: that is not enough.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard) and hard < wanted:
        raise ConfigError(
            f"{wanted - _OWN_FILES} agents need {wanted} open files, and this process may have {hard}. Allowed here:"
            f" {max(0, hard - _OWN_FILES)} agents. To allow more type, as root: prlimit --pid $$ --nofile={wanted}"
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _note(answered: asyncio.Future[None], *_: object) -> None:
    if not answered.done():
        answered.set_result(None)


class _Running(NamedTuple):
    timer: asyncio.TimerHandle
    request: Request
    delivery: Delivery


@dataclass(slots=True, eq=False)
class EmulatedAgent:
    """One agent. ``kind``: ``well``, ``failing``, ``frozen`` or ``gone``."""

    _emulator: Emulator
    name: str
    _number: int
    kind: str
    _connection: AsyncioConnection | None = None
    _requests: Subscription | None = None
    _questions: Subscription | None = None
    _running: dict[str, _Running] | None = None
    _answered: OrderedDict[str, bytes] | None = None
    _interrupted: set[str] | None = None  # what it was running when it crashed
    _runs: int = 0
    _down: asyncio.TimerHandle | None = None

    @property
    def is_up(self) -> bool:
        """Whether it takes requests and questions."""
        wanted = [one for one in (self._requests, self._questions) if one is not None]
        return bool(wanted) and all(one.active for one in wanted)

    @property
    def groups(self) -> list[str]:
        """Its groups."""
        return [f"g{self._number % 10}", *self._emulator.script.groups]

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
        connection.core.spread()
        connection.users = 1  # else it looks every few seconds whether it should close
        self._connection = connection
        wanted = self._questions = Subscription(f"fleet.{self.name}", 10, self._on_question, self._prepare_questions)
        if self.kind != "gone":
            wanted = self._requests = Subscription(self.name, 10, self._on_request, self._prepare_requests)
            connection.subscribe_nowait(self._questions)  # with the other: each goes with fewer packets
        await self._subscribe(connection, wanted)
        try:
            await self._subscribe(connection, self._questions)
        except AdapterError:
            connection.unsubscribe_nowait(self._questions)
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
        if connection is None:
            return
        if self._down is not None:  # its queues are still there
            self._down.cancel()
            with suppress(MessagingError):
                await connection.open(monotonic() + _LAST_TRY)
        loop = connection.loop
        for one in filter(None, (self._requests, self._questions)):
            for ask in (
                partial(connection.core.unsubscribe, one),
                partial(connection.core.ask, DeleteQueue(one.queue)),
            ):
                answered = loop.create_future()
                connection.call_soon(partial(ask, partial(_note, answered)))
                await answered
        await connection.aclose()

    def crash(self, down: float = 0.0) -> None:
        """Lose the connection and all that is in memory, as an agent that was killed.

        Args:
            down: seconds after which it comes back. What it was running it answers then with Interrupted.
        """
        connection = self._connection
        if connection is None or self._down is not None:
            return
        self._emulator.crashes += 1
        for sn, running in (self._running or {}).items():
            running.timer.cancel()
            self._interrupted = {*(self._interrupted or ()), sn}
        self._running = self._answered = None
        connection.call_soon(connection.core.suspend)
        self._down = connection.loop.call_later(down, self._come_back, connection)

    def _come_back(self, connection: AsyncioConnection) -> None:
        self._down = None
        connection.connect_nowait()

    def _prepare_requests(self) -> Steps:
        yield DeclareQueue(self.name, durable=self._emulator.durable)

    def _prepare_questions(self) -> Steps:
        queue = f"fleet.{self.name}"
        if not self._emulator.has_exchange:
            yield DeclareExchange(EXCHANGE, "topic")
            self._emulator.has_exchange = True
        keys = (ALL, *map(key_of_group, self.groups))
        wanted = DeclareQueue(queue, durable=False, expires=_EXPIRES, bindings=tuple((EXCHANGE, key) for key in keys))
        try:
            yield from declare_temporary(wanted)
        except NotFound:
            self._emulator.has_exchange = False  # somebody has deleted it: the next try makes it again
            raise

    # -- questions ----------------------------------------------------------------------------------------------------

    def _on_question(self, delivery: Delivery) -> None:
        connection = self._connection
        assert connection is not None  # noqa: S101 - it has delivered this
        card = self.card()
        try:
            question, targets = self._emulator.read(delivery.body)
            meant = targets.matches(msgspec.to_builtins(card))
        except (DocumentError, ConfigError):
            meant = False
        if not meant:
            connection.accept(delivery)
            return
        answer = Answer(sn=question.sn, version=VERSION, routing=[None, question.replyto], origin=self.name, card=card)
        body = encode(msgspec.to_builtins(answer))
        pause = self._emulator.random.uniform(0.0, min(question.who.jitter, question.who.wait / 2))
        connection.loop.call_later(pause, self._answer, connection, delivery, question, body)

    def _answer(self, connection: AsyncioConnection, delivery: Delivery, question: Question, body: bytes) -> None:
        connection.accept(delivery)  # with the answer: one write instead of two
        # Confirmed: by the channel that its results need, too.
        connection.publish_nowait(Address("", question.replyto), body, ttl=question.who.wait, durable=False)

    # -- requests -----------------------------------------------------------------------------------------------------

    def _on_request(self, delivery: Delivery) -> None:
        connection = self._connection
        assert connection is not None  # noqa: S101 - it has delivered this
        if self.kind == "frozen" or self._down is not None:
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
        if self._interrupted is not None and sn in self._interrupted:
            why = "it was started before; how far it got is not known"
            self._send(request, delivery, encode(to_result(Interrupted(why))))
            return
        emulator.runs[sn] += 1
        emulator.ran(sn)
        script, self._runs = emulator.script, self._runs + 1
        chance = random.Random(f"{script.seed} {self.name} {self._runs}")  # noqa: S311 - as above
        pause = chance.uniform(*script.latency)
        if chance.random() < script.crash:
            timer = connection.loop.call_later(pause / 2, self.crash, chance.uniform(*script.down))
        else:
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
            answer = self._emulator.script.answer
            own = {"name": self.name, "args": request.request.args}
            result = encode({"retval": own if answer is None else answer})
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
