"""A fleet of machines at one broker: finding them, and calling many of them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from gofer.aio import Agent
from gofer.card import Card
from gofer.errors import CallError, ConfigError, MessagingError
from gofer.fleet.discovery import Found, discover
from gofer.fleet.members import Member, Members
from gofer.fleet.record import OPEN, OUTCOMES, Record, RunRow, TargetRow
from gofer.fleet.run import Confirm, Run
from gofer.fleet.watch import Watch
from gofer.fleet.waves import Waves, sizes
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.rmi.client.options import Options
from gofer.rmi.client.stub import Stub
from gofer.suggest import did_you_mean
from gofer.targets import Targets

__all__ = ["FAILURES", "Begin", "Fleet", "Plan", "Selection"]

#: The outcomes after which ``retry`` calls a machine again.
FAILURES = ("exception", "interrupted", "unreachable")

#: Options of calls that a run has; the others belong to a single call.
_OPTIONS = ("wait", "ttl", "data", "timeout", "secret", "user", "password", "pam", "authenticator")
#: What ``resume`` may change of waves.
_CHANGED = ("batch", "soak", "health", "stop_after", "max_unreachable", "confirm")
_STORED = ("wait", "ttl", "data", "timeout")


class Fleet:
    """Machines that joined (``[fleet]`` in their agent.conf), and others that were added by their addresses.

    For one event loop; ``async with``, or ``close``.

    ::

        async with Fleet("amqp://broker.example.com") as fleet:
            async for outcome in fleet.where("group=web").Dog().bark("hello"):
                print(outcome.name, outcome.kind, outcome.value)

    Args:
        url: the broker.
        directory: where the machines and runs are remembered; None: ``$XDG_STATE_HOME/gofer``.
        options: of all calls: ``wait`` (seconds for each), ``ttl``, ``timeout``, ``authenticator`` ...

    Raises:
        TypeError, ConfigError: an option, or the URL, is wrong.
        StateError: what is remembered cannot be read.
    """

    def __init__(self, url: str | URL | Connector, *, directory: Path | None = None, **options: Any) -> None:
        wrong = sorted(set(options) - set(_OPTIONS))
        if wrong:
            raise TypeError(f"no option {wrong[0]!r} for a fleet; allowed: {', '.join(_OPTIONS)}")
        self._connector = Connector.of(url)
        self._options = Options(wait=60.0).having(options)
        self.members = Members(self._connector.url, None if directory is None else directory / "fleet.db")
        try:
            self.record = Record(None if directory is None else directory / "runs.db")
        except BaseException:
            self.members.close()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is remembered."""
        self.members.close()
        self.record.close()

    def add(self, cards: Iterable[Card]) -> None:
        """Add machines by their addresses: old agents, and those without ``[fleet]``."""
        self.members.remember(cards, answers=False)

    async def ask(
        self,
        targets: Targets | str = "all",
        *,
        wait: float = 5.0,
        jitter: float | None = None,
        expected: Iterable[str] | None = None,
    ) -> Found:
        """Ask who is there, and remember the answers.

        Args:
            wait: seconds to wait for answers.
            jitter: seconds over which the machines spread them; None: the more there are, the longer.
            expected: addresses. When all of these have answered, and then no answer has come for half a second, the
                wait ends. None: those of the remembered machines that ``targets`` selects; if it selects none, the wait
                takes the whole time.

        Raises:
            ConfigError: the expression cannot be read.
            MessagingError: no connection, or the broker refuses.
        """
        meant = Targets(targets) if isinstance(targets, str) else targets
        if jitter is None:
            jitter = min(wait / 2, 0.2 + len(self.members) / 4000)
        authenticator = self._options.authenticator
        if expected is None:
            expected = [one.card.address for one in self.members.select(meant) if one.answers] or None
        found = await discover(
            self._connector, meant, wait=wait, jitter=jitter, authenticator=authenticator, expected=expected
        )
        for address, known in self.members.signers().items():
            if address in found.cards and found.signers[address] != known:
                why = f"{address!r} was signed for by {known!r} before; forget it to let another one in"
                found.refused[why] += 1
                del found.cards[address]
        self.members.remember(found.cards.values(), signers=found.signers)
        return found

    def where(self, targets: Targets | str = "all") -> Selection:
        """Select machines among those that are remembered: call ``ask`` before, to know who is there now.

        Raises:
            ConfigError: the expression cannot be read.
        """
        meant = Targets(targets) if isinstance(targets, str) else targets
        return Selection(self.begin, self.members.select(meant), str(meant))

    def at(self, cards: Iterable[Card], name: str = "addresses") -> Selection:
        """Select machines by their cards. ``name``: what the record calls that."""
        now = time.time()
        return Selection(self.begin, [Member(card, False, now, now) for card in cards], name)

    def resume(self, which: str, *, confirm: Confirm | None = None, **waves: Any) -> Run:
        """Take up a run whose process has ended, or which was stopped: machines without an outcome are asked.

        Args:
            which: its id, the beginning of it, or ``last``.
            waves: what is to change of the run's waves.

        Raises:
            ConfigError: there is no such run, or it is one at another broker; or a value cannot be changed.
        """
        for name in waves:
            if name in ("limit", "ramp"):
                raise ConfigError(f"{name}: the machines and waves of a run stay; allowed: {', '.join(_CHANGED)}")
        row = self.record.run(which)
        if row.broker != str(self._connector.url):
            raise ConfigError(f"run {row.id} is one at {row.broker}; this is {self._connector.url}")
        plan = Waves.of({**row.waves, **waves})
        options = self._options.having(row.options)
        return Run(self._connector, self.record, row, options=options, waves=plan, confirm=confirm)

    def watch(self, which: str) -> Watch:
        """Follow a run that another process runs, or see one that has ended; the broker is not asked.

        Raises:
            ConfigError: there is no such run.
        """
        return Watch(self.record, self.record.run(which))

    async def describe(self, member: Member, classname: str) -> Any:
        """Ask a machine what can be called where it has a class: what ``Admin.describe`` tells.

        Raises:
            CallError, MessagingError: it does not tell, or is not there.
        """
        options = {"wait": 5.0, "authenticator": self._options.authenticator}
        async with Agent(self._connector, member.card.address_of(classname), **options) as agent:
            return await agent.Admin().describe()

    async def cancel(self, which: str) -> int:
        """Have nothing more of a run sent, and the agents cancel what they have; return how many were asked.

        The process that runs it, if there is one, hears of each cancelled request; else ``resume`` does.
        """
        row = self.record.run(which)
        self.record.stop_run(row, "cancelled")
        sent = [one for one in self.record.targets(row.number) if one.sent is not None and one.outcome in OPEN]
        options = {"wait": 5.0, "authenticator": self._options.authenticator}
        async with Agent(self._connector, "gofer.fleet", **options) as agent:  # it only holds the connection
            limit = asyncio.Semaphore(256)

            async def cancel(one: TargetRow) -> bool:
                async with limit:
                    try:
                        await Agent(self._connector, one.address, **options).Admin().cancel(sn=one.sn)
                    except (CallError, MessagingError):
                        return False
                    except RuntimeError:  # it was asked, and has no disk to remember it
                        return True
                    return True

            asked = await asyncio.gather(*map(cancel, sent))
            await agent.flush()
        return sum(asked)

    def retry(self, which: str, kinds: Iterable[str] = FAILURES) -> Selection:
        """Select the machines of a run that have certain outcomes, for another run.

        Raises:
            ConfigError: there is no such run, or no such outcome.
        """
        wanted = set(kinds)
        for kind in sorted(wanted.difference(OUTCOMES)):
            raise ConfigError(f"no outcome {kind[:80]!r}{did_you_mean(kind, OUTCOMES)}; allowed: {', '.join(OUTCOMES)}")
        row = self.record.run(which)
        known = {one.card.address_of(row.request[0]): one.card for one in self.members.select()}
        cards = [
            known.get(one.address) or Card(name=one.name, address=one.address)
            for one in self.record.targets(row.number)
            if one.outcome in wanted
        ]
        return self.at(cards, f"run {row.id}: {', '.join(sorted(wanted))}")

    def begin(
        self,
        selection: Selection,
        of: tuple[str, str, list[Any] | None],
        args: tuple[Any, ...],
        kws: dict[str, Any],
    ) -> Run:
        """Write a new run into the record: what ``selection.Class().method(...)`` does. Nothing is sent yet.

        Raises:
            ConfigError: two machines have the same address, or the waves do not fit.
        """
        plan = selection.plan(of[0], of[1])
        called: dict[str, str] = {}
        for one in plan.members:
            address = one.card.address_of(of[0])
            if address in called:
                names = f"{called[address]!r} and {one.name!r}"
                raise ConfigError(f"{names} have the same address {address!r}: forget one of them")
            called[address] = one.name
        waves = [n for n, size in enumerate(sizes(plan.ends)) for _ in range(size)]
        now = time.time()
        row = RunRow(
            0,
            f"{time.strftime('%m%d-%H%M%S', time.localtime(now))}-{uuid.uuid4().hex[:4]}",
            now,
            str(self._connector.url),
            selection.name,
            [*of, list(args), kws],
            {name: value for name in _STORED if (value := getattr(self._options, name)) is not None},
            plan.waves.text(),
            f"fleet.{uuid.uuid4()}",
            "waiting",
            None,
        )
        targets = (
            TargetRow(n, one.name, one.card.address_of(of[0]), str(uuid.uuid4()), wave, "waiting", None, None, None)
            for n, (one, wave) in enumerate(zip(plan.members, waves, strict=True))
        )
        row = self.record.begin(row, targets)
        return Run(
            self._connector,
            self.record,
            row,
            options=self._options,
            waves=plan.waves,
            confirm=selection.confirm,
        )


#: Makes a run of a selection: class, method and constructor's arguments; arguments; keyword arguments.
Begin = Callable[["Selection", tuple[str, str, list[Any] | None], tuple[Any, ...], dict[str, Any]], Any]


class Plan(NamedTuple):
    """What a run would do.

    Attributes:
        members: its machines, in their order.
        waves: the selection's; for a method that some of these have marked destructive, careful ones if it has none.
        ends: how many are called at the end of each wave.
        destructive: those of the machines that have marked the method so.
    """

    members: list[Member]
    waves: Waves
    ends: list[int]
    destructive: list[Member]


class Selection:
    """Machines to be called. Attributes are remote classes, as those of an Agent: ``selection.Dog().bark('x')``.

    Calling returns a :class:`gofer.fleet.run.Run`. ``selection(ramp="1,10%,100%", stop_after="2%")`` is the same
    selection with waves: see :class:`gofer.fleet.waves.Waves`. Without waves, a method that a machine has marked
    destructive is called as :data:`gofer.fleet.waves.CAREFUL` says; ``run.waves`` tells.

    Args:
        begin: makes the run: ``Fleet.begin``.
    """

    def __init__(
        self,
        begin: Begin,
        members: list[Member],
        name: str,
        waves: Waves | None = None,
        confirm: Confirm | None = None,
    ) -> None:
        self.begin, self.members, self.name = begin, members, name
        self.waves = waves or Waves()
        self.confirm = confirm

    def __call__(self, *, confirm: Confirm | None = None, **waves: Any) -> Selection:
        """Return the selection with other waves.

        Raises:
            ConfigError: a value is none.
        """
        allowed = Waves.__dataclass_fields__
        wrong = sorted(set(waves) - set(allowed))
        if wrong:
            raise ConfigError(f"no {wrong[0]!r} for waves; allowed: {', '.join(allowed)}")
        given: Mapping[str, Any] = {**self.waves.text(), **waves, "confirm": confirm is not None}
        return Selection(self.begin, self.members, self.name, Waves.of(given), confirm)

    def __len__(self) -> int:
        return len(self.members)

    def __getattr__(self, name: str) -> Stub:
        if name.startswith("_"):
            raise AttributeError(f"remote names do not start with '_': {name!r}")
        return self[name]

    def __getitem__(self, name: str) -> Stub:
        return Stub(name, self._invoke)

    def plan(self, classname: str, method: str) -> Plan:
        """Return what a run of a method would do.

        Raises:
            ConfigError: the waves do not fit.
        """
        taken = self.members[: self.waves.taken(len(self.members))]
        marked = [one for one in taken if one.card.is_destructive(classname, method)]
        waves = self.waves.careful() if marked else self.waves
        return Plan(taken, waves, waves.ends(len(taken)), marked)

    def _invoke(
        self, classname: str, method: str, cntr: list[Any] | None, args: tuple[Any, ...], kws: dict[str, Any], /
    ) -> Any:
        return self.begin(self, (classname, method, cntr), args, kws)
