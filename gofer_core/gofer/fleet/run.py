"""A run: one method called on many machines, of which each has one outcome.

Everything stands in the record before it is done, so the process may die at any moment: a run that is opened again asks
only those machines whose outcome is not known, with the same serial numbers, so that no agent runs a request twice.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Sequence
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

from gofer.aio import AsyncioSession
from gofer.errors import (
    AdapterError,
    Cancelled,
    ConnectionLost,
    DispatchError,
    Interrupted,
    NotFound,
    Rejected,
    RequestTimeout,
)
from gofer.fleet.record import OPEN, Record, RunRow, TargetRow, WordRow
from gofer.fleet.waves import Waves, Window
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.document import shown
from gofer.messaging.pool import pool
from gofer.rmi.client.notices import Notice, Progress
from gofer.rmi.client.options import Options
from gofer.rmi.client.stub import new_request

__all__ = ["Confirm", "Outcome", "RecordedRun", "Run", "Summary", "outcome_of"]

#: Seconds for which agents remember a quick call that has ended: an older request is not sent a second time.
_REMEMBERED = 540.0
_CANCEL_WAIT = 5.0
#: Seconds between two looks whether the broker takes messages again.
_LOOK = 0.1
#: Seconds between two looks whether another process has cancelled the run, in the pause between two waves.
_LOOK_FOR_CANCEL = 0.5

#: The outcomes that exceptions of a call are; the first that fits counts.
_MEANINGS = (
    ((NotFound, ConnectionLost, AdapterError), "unreachable"),
    ((Interrupted,), "interrupted"),
    ((Cancelled,), "cancelled"),
    ((Rejected, DispatchError), "refused"),
)
#: Those of exceptions that came as a reply: the others are the method's own, which may make calls itself.
_ANSWERED = (((Interrupted,), "interrupted"), ((Cancelled,), "cancelled"), ((DispatchError,), "refused"))

#: Asked between two waves, with how many machines come next and the counts so far; true: go on. What is no coroutine
#: function is called in a thread of its own.
Confirm = Callable[[int, "Counter[str]"], bool | Awaitable[bool]]


class Outcome(NamedTuple):
    """How the request of one machine has ended, or stands.

    ``kind``: ``value``; ``exception`` (the method raised); ``refused`` (by the agent); ``interrupted`` (started, and
    how far it got is not known); ``cancelled``; ``unreachable`` (nobody listens there, the broker refused the request,
    or no word in time); ``queued`` (the broker holds it until its ttl is over); ``running`` (the agent has it);
    ``untouched`` (the run was stopped before). ``value``: the value, else a sentence.
    """

    name: str
    address: str
    kind: str
    value: Any
    sn: str
    wave: int

    @property
    def ok(self) -> bool:
        """Whether there is a value."""
        return self.kind == "value"


class Summary(NamedTuple):
    """A whole run: how many machines it has, how many have which outcome, and why it was stopped (None: it was not)."""

    id: str
    total: int
    counts: Counter[str]
    stopped: str | None
    outcomes: list[Outcome]


class RecordedRun:
    """A run as its record has it: what those who run it, and those who watch it, have in common."""

    def __init__(self, record: Record, row: RunRow) -> None:
        self.id = row.id
        self._record = record
        self._row = row
        self._targets = record.targets(row.number)
        self._stopped: str | None = None

    def __len__(self) -> int:
        """How many machines it has."""
        return len(self._targets)

    @property
    def outcomes(self) -> list[Outcome]:
        """How all machines stand now, in the order of the plan."""
        return [outcome_of(one) for one in self._targets]

    @property
    def stopped(self) -> str | None:
        """Why it was stopped; None: it was not."""
        return self._stopped


class Run(RecordedRun):
    """``async for outcome in run``, or ``summary = await run``: it begins with either. Once; one event loop.

    Args:
        options: of each call; ``wait`` is how long each may take.
        confirm: asked between waves, if these want that.
    """

    def __init__(
        self,
        connector: Connector,
        record: Record,
        row: RunRow,
        *,
        options: Options,
        waves: Waves,
        confirm: Confirm | None = None,
    ) -> None:
        super().__init__(record, row)
        self._connector = connector
        self._options = options
        self._waves = waves
        self._confirm = confirm
        self._window = Window(waves.window(len(self._targets)))
        self._counts = record.counts(row.number)
        self._outcomes: asyncio.Queue[Outcome | None] = asyncio.Queue()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._ended: list[TargetRow] = []
        self._words: list[tuple[int, WordRow]] = []
        self._engine: asyncio.Task[None] | None = None
        self._session: AsyncioSession | None = None

    @property
    def waves(self) -> Waves:
        """How it goes."""
        return self._waves

    @property
    def window(self) -> int:
        """How many requests may be in flight now: fewer while the broker is late or takes nothing."""
        return self._window.size

    @property
    def counts(self) -> Counter[str]:
        """How many machines have which outcome now."""
        return +self._counts

    def __await__(self) -> Generator[Any, None, Summary]:
        return self._summary().__await__()

    async def _summary(self) -> Summary:
        async for _ in self:
            pass
        return Summary(self.id, len(self._targets), self.counts, self._stopped, self.outcomes)

    async def __aiter__(self) -> AsyncGenerator[Outcome]:
        """Iterate over outcomes as they come.

        Raises:
            StateError: the record cannot be written: nothing more is sent.
            MessagingError: there is no connection.
        """
        if self._engine is not None:
            raise RuntimeError(f"run {self.id} was begun already; open it again by resume")
        self._engine = asyncio.create_task(self._work())
        try:
            while (outcome := await self._outcomes.get()) is not None:
                yield outcome
            await self._engine
        finally:
            self._engine.cancel()
            await asyncio.gather(self._engine, return_exceptions=True)

    def stop(self, why: str = "stopped") -> None:
        """Send nothing more. What was sent goes on, and has its outcome."""
        self._stopped = self._stopped or why

    async def cancel(self) -> int:
        """Send nothing more, and have the agents cancel what they have; return how many were asked."""
        self.stop("cancelled")
        asked = [one for one in self._targets if one.n in self._running]
        await asyncio.gather(*map(self._cancel, asked))
        return len(asked)

    async def _cancel(self, target: TargetRow) -> None:
        options = Options(wait=_CANCEL_WAIT, authenticator=self._options.authenticator)
        document = new_request(("Admin", "cancel", None), (), {"sn": target.sn}, target.address, options)
        try:
            if self._session is not None:
                await self._session.call(document, Address.parse(target.address), options)
        except Exception as failed:  # noqa: BLE001 - its request has an outcome of its own
            self._words.append((target.n, WordRow(time.time(), "not cancelled", shown(str(failed)))))

    # -- the engine ---------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            with self._record.held(self._row):
                await self._work_alone()
        finally:
            self._outcomes.put_nowait(None)

    async def _work_alone(self) -> None:
        connection = pool.acquire_asyncio(self._connector, asyncio.get_running_loop())
        self._session = session = AsyncioSession(connection, queue=self._row.replyto)
        try:
            await connection.wait_sendable(None if self._options.wait is None else monotonic() + self._options.wait)
            await asyncio.to_thread(self._record.close_run, self._row.number, "running")
            await self._waves_of(self._targets)
            await self._write()
            if not self._counts["untouched"] + self._counts["waiting"]:
                self._stopped = None  # what would have stopped it came with the last one
            state = "ended" if self._stopped is None else "stopped"
            await asyncio.to_thread(self._record.close_run, self._row.number, state, self._stopped)
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)
            session.replies.leave()
            if pool.leave(connection):
                await connection.aclose()

    async def _waves_of(self, targets: Sequence[TargetRow]) -> None:
        # What an earlier process has sent is not called back by a stop: its outcomes are had first, and count.
        await self._call_all([one for one in targets if one.sent is not None and one.outcome in OPEN], always=True)
        why = self._waves.stops(self._counts, len(targets))
        if why is not None:
            self.stop(why)
        waves = [[one.n for one in group] for _, group in itertools.groupby(targets, lambda one: one.wave)]
        for wave, numbers in enumerate(waves):
            mine = [targets[n] for n in numbers]
            todo = [one for one in mine if one.outcome in OPEN and one.sent is None]
            if wave and len(todo) == len(mine) and self._stopped is None:
                await self._pause([targets[n] for n in waves[wave - 1]], mine)
            if self._stopped is None:
                await self._call_all(todo)
            else:
                self._leave(todo)

    async def _pause(self, wave: Sequence[TargetRow], following: Sequence[TargetRow]) -> None:
        """Do what stands between two waves; it may stop the run."""
        await self._write()
        end = monotonic() + self._waves.soak
        while self._stopped is None and (left := end - monotonic()) > 0:
            await asyncio.sleep(min(left, _LOOK_FOR_CANCEL))
            if not await asyncio.to_thread(self._record.goes_on, self._row.number):
                self.stop("cancelled")
        if self._stopped is not None:
            return
        if self._waves.health is not None:
            why = await self._unhealthy(wave)
            if why is not None:
                self.stop(why)
                return
        if self._waves.confirm and self._confirm is not None:
            if inspect.iscoroutinefunction(self._confirm):
                answer = await self._confirm(len(following), self.counts)
            else:  # it may ask a person, for minutes
                answer = await asyncio.to_thread(self._confirm, len(following), self.counts)
            if not answer:
                self.stop("not confirmed")

    async def _unhealthy(self, wave: Sequence[TargetRow]) -> str | None:
        """Ask the machines of a wave whether they are well; say which is not."""
        classname, _, method = (self._waves.health or "").partition(".")
        limit = asyncio.Semaphore(self._window.most)
        options = Options(wait=self._options.wait, authenticator=self._options.authenticator)

        async def ask(target: TargetRow) -> str | None:
            document = new_request((classname, method, None), (), {}, target.address, options)
            try:
                async with limit:
                    assert self._session is not None  # noqa: S101 - the engine runs
                    value = await self._session.call(document, Address.parse(target.address), options)
            except Exception as failed:  # noqa: BLE001 - whatever it is, the machine is not well
                return f"{target.name} is not well: {self._waves.health}: {shown(str(failed))}"
            return None if value else f"{target.name} is not well: {self._waves.health} is {shown(str(value), 60)}"

        answers = await asyncio.gather(*(ask(one) for one in wave if one.outcome != "unreachable"))
        return next(filter(None, answers), None)

    async def _call_all(self, targets: Sequence[TargetRow], *, always: bool = False) -> None:
        """Call machines, no more at once than the window. ``always``: even when the run is stopped."""
        waiting = list(reversed(targets))
        while waiting or self._running:
            if waiting:
                await self._broker_ready()
            window = self._window.size
            free = window - len(self._running)
            # Many at a time: each group is one write to the disk.
            if waiting and (self._stopped is None or always) and (free >= window / 8 or not self._running):
                group = [waiting.pop() for _ in range(min(free, len(waiting)))]
                if not await self._write(sent=[one.n for one in group]) and not always:
                    waiting += reversed(group)
                    self.stop("cancelled")
                    continue
                for one in group:
                    self._running[one.n] = asyncio.create_task(self._call(one, confirm=one is group[0]))
            elif self._running:
                await asyncio.wait(self._running.values(), return_when=asyncio.FIRST_COMPLETED)
                if self._ended and (not waiting or len(self._ended) >= window / 8):
                    await self._write()
            else:
                break  # stopped
        self._leave(waiting)

    def _leave(self, targets: Iterable[TargetRow]) -> None:
        for one in targets:
            self._end(one, "untouched", f"not called: the run was stopped: {self._stopped}")

    async def _broker_ready(self) -> None:
        """Wait until the broker takes messages, no longer than a call may take: then the run stops."""
        assert self._session is not None  # noqa: S101 - the engine runs
        connection, begun = self._session.connection, monotonic()
        if not connection.sendable:
            self._window.blocked()
            connection.connect_nowait()  # it may have been closed in a long pause between two waves
            await self._write()
        while not connection.sendable and self._stopped is None:
            if self._options.wait is not None and monotonic() - begun > self._options.wait:
                self.stop(f"the broker takes no messages: {connection.state}")
            await asyncio.sleep(_LOOK)

    async def _call(self, target: TargetRow, *, confirm: bool) -> None:
        try:
            kind, value = await self._ask(target, monotonic() if confirm else None)
        except asyncio.CancelledError:
            del self._running[target.n]
            raise
        del self._running[target.n]
        self._end(target, kind, value)
        why = self._waves.stops(self._counts, len(self._targets))
        if why is not None:
            self.stop(why)

    async def _ask(self, target: TargetRow, asked: float | None) -> tuple[str, Any]:
        """Send one request; return its outcome and value.

        Args:
            asked: when, of one that the broker is to confirm: how long that takes decides about the window.
        """
        assert self._session is not None  # noqa: S101 - the engine runs
        classname, method, cntr, args, kws = self._row.request
        document = new_request((classname, method, cntr), tuple(args), kws, target.address, self._options)
        document["sn"] = target.sn
        if target.sent is not None:  # it may have been sent by a process that died since
            document["again"] = True
            if time.time() - target.sent > _REMEMBERED and target.outcome == "waiting":
                text = "it may have run: the run was taken up too late for the agent to know; retry calls it anew"
                return "interrupted", text

        def taken() -> None:
            nonlocal asked
            if asked is not None:
                self._window.taken(monotonic() - asked)
                asked = None

        heard, on_taken = partial(self._heard, target), None if asked is None else taken
        try:
            value = await self._session.call(document, Address.parse(target.address), self._options, heard, on_taken)
        except (Exception, SystemExit, GeneratorExit) as raised:  # noqa: BLE001 - a method may raise any of them
            return self._kind(raised), f"{type(raised).__name__}: {raised}"
        finally:
            taken()  # an answer may come before the confirm
        return "value", value

    def _kind(self, raised: BaseException) -> str:
        """Name the outcome that an exception of a call is."""
        answered = bool(getattr(raised, "trace", ""))
        if isinstance(raised, RequestTimeout) and not answered:
            if raised.state in ("accepted", "started", "progress"):
                return "running"
            ttl, wait = self._options.ttl, self._options.wait
            stays = raised.state == "sent" and (ttl is not None and ttl > (wait or 0.0))
            return "queued" if stays else "unreachable"
        meanings = _ANSWERED if answered else _MEANINGS
        return next((outcome for kinds, outcome in meanings if isinstance(raised, kinds)), "exception")

    def _heard(self, target: TargetRow, notice: Notice) -> None:
        details = None
        if isinstance(notice, Progress):
            details = {"total": notice.total, "completed": notice.completed, "details": notice.details}
        self._words.append((target.n, WordRow(time.time(), notice.kind, details)))

    def _end(self, target: TargetRow, kind: str, value: Any) -> None:
        ended = target._replace(outcome=kind, ended=time.time(), details=value)
        self._counts[target.outcome] -= 1
        self._counts[kind] += 1
        self._ended.append(ended)
        self._targets[target.n] = ended
        self._outcomes.put_nowait(outcome_of(ended))

    async def _write(self, sent: Sequence[int] = ()) -> bool:
        """Write what has happened since; return whether anything may be sent."""
        ended, self._ended = self._ended, []
        words, self._words = self._words, []
        if not (sent or ended or words):
            return True
        return await asyncio.to_thread(self._record.write, self._row.number, sent=sent, ended=ended, words=words)


def outcome_of(row: TargetRow) -> Outcome:
    """Return how a machine stands, of its row in the record."""
    return Outcome(row.name, row.address, row.outcome, row.details, row.sn, row.wave)
