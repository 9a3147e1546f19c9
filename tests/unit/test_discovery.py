"""When the wait for a fleet's answers ends, by a clock that a script turns."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import click
import msgspec
import pytest
from gofer.card import Answer, Card
from gofer.errors import MessagingError
from gofer.fleet import discovery
from gofer.messaging.adapter import Delivery, Outcome
from gofer.messaging.document import VERSION, encode
from gofer.targets import Targets
from gofer.tools.fleet import fleet
from gofer.tools.fleet_output import tell_unfinished


class ScriptedConnection:
    """Stands for a connection whose broker confirms, and delivers answers, at given seconds after the question.

    ``then``: after so many seconds the subscription gets another ``number`` (None: it is lost), or was ``made`` again.
    """

    state = "no connection"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        confirmed: float,
        answers: list[float],
        then: tuple[float, str, int | None] = (0.0, "made", 1),
    ) -> None:
        self.loop = loop
        self.now = 1000.0
        self._confirmed, self._answers, self._then = confirmed, answers, then
        self._events: list[tuple[float, Callable[[], None]]] = []

    async def subscribe(self, subscription: Any, seconds: float) -> None:
        self._deliver, self._subscription = subscription.on_delivery, subscription
        subscription.number = 1

    async def wait_sendable(self, deadline: float) -> None:
        pass

    def accept(self, delivery: Delivery) -> None:
        pass

    def publish_nowait(
        self, address: object, body: bytes, *, settled: Callable[[Outcome, str], None], **_: object
    ) -> None:
        sn = msgspec.json.decode(body)["sn"]
        self._events.append((self.now + self._confirmed, lambda: settled(Outcome.CONFIRMED, "")))
        for n, at in enumerate(self._answers):
            card = Card(name=f"m{n}", address=f"m{n}")
            answer = Answer(sn=sn, version=VERSION, routing=[None, "x"], origin=card.address, card=card)
            delivery = Delivery(0, encode(msgspec.to_builtins(answer)), False, None, None)
            self._events.append((self.now + at, partial(self._deliver, delivery)))
        at, attribute, value = self._then
        self._events.append((self.now + at, partial(setattr, self._subscription, attribute, value)))
        self._events.sort(key=lambda event: event[0])

    async def wait(self, ready: Callable[[], object], deadline: float, waiter: object = None) -> bool:
        while not ready():
            if not self._events or self._events[0][0] > deadline:
                self.now = max(self.now, deadline)
                return False
            self.now, happen = self._events.pop(0)
            happen()
        return True


@pytest.mark.parametrize(
    ("confirmed", "answers", "expected", "ends"),
    [
        (0.0, [0.1, 9.0, 29.4], None, (3, 30.0)),  # nobody knows how many there are
        (0.0, [0.1, 9.0, 29.6], None, (3, 30.0, True)),
        (0.0, [0.1, 30.1], None, (1, 30.0)),
        (0.0, [0.1, 1.9], (), (2, 3.5)),  # jitter, and half a second
        (0.0, [0.1, 3.4, 3.8], (), (3, 4.3)),  # each answer has it wait for the next
        (0.0, [0.1, 3.6], (), (1, 3.5)),
        (8.0, [8.1, 11.4], (), (2, 11.9)),  # the time begins when the broker has the question
        (8.0, [7.0, 11.6], (), (1, 11.5)),  # one came before the confirm
        (0.0, [0.1, 0.2], ("m0", "m1"), (2, 3.5)),  # all that are known are there: others have the jitter
        (0.0, [0.1, 3.4, 3.8], ("m0",), (3, 4.3)),
        (8.0, [8.1, 11.4], ("m0",), (2, 11.9)),
        (0.0, [0.1, 25.0], ("m1",), (2, 25.5)),  # one that is known has all of the time
        (0.0, [0.1], ("m1",), (1, 30.0)),
        (26.0, [], ("m0",), (0, 30.0)),
        (27.0, [], ("m0",), (0, 30.0, True)),  # the jitter is not over, or has just been
        (40.0, [0.1], (), (1, 30.0, True)),  # a broker that never confirms
    ],
)
def test_the_wait_ends_after_a_silence(
    monkeypatch: pytest.MonkeyPatch,
    confirmed: float,
    answers: list[float],
    expected: tuple[str, ...] | None,
    ends: tuple[int, float] | tuple[int, float, bool],
) -> None:
    """``ends``: how many machines are found, after how many seconds, and whether more may be coming."""

    async def go() -> tuple[int, float, bool]:
        connection = ScriptedConnection(asyncio.get_running_loop(), confirmed, answers)
        monkeypatch.setattr(discovery, "monotonic", lambda: connection.now)
        begun = connection.now
        asking = discovery._Asking(connection, None, expected)  # type: ignore[arg-type] # it has what is used here
        found = await asking.ask(Targets(), 30.0, 3.0)
        assert found.seconds == pytest.approx(max((at for at in answers if at <= ends[1]), default=0.0))
        return len(found.cards), connection.now - begun, found.still_coming

    assert asyncio.run(go()) == (ends[0], pytest.approx(ends[1]), ends[2:] == (True,))


LOST, MADE_AGAIN = (20.0, "number", None), (20.0, "made", 2)


@pytest.mark.parametrize(
    ("broker", "expected", "told"),
    [
        ((40.0, []), ("m0",), "the broker has not confirmed that it has the question .*: no connection"),
        ((0.0, [0.1], LOST), None, "the connection was lost while machines answered: no connection"),
        ((0.0, [0.1], LOST), ("m0", "m1"), "the connection was lost while machines answered: no connection"),
        ((0.0, [0.1], (2.0, "number", None)), ("m0",), False),  # all that are known have answered
        ((0.0, [0.1], MADE_AGAIN), ("m0", "m1"), "the connection was lost for a while"),
        ((0.0, [0.1, 25.0], MADE_AGAIN), ("m0", "m1"), False),
        ((0.0, [0.1], MADE_AGAIN), None, True),
    ],
)
def test_nobody_is_missing_when_it_is_the_broker_that_is(
    monkeypatch: pytest.MonkeyPatch,
    broker: tuple[Any, ...],
    expected: tuple[str, ...] | None,
    told: str | bool,
) -> None:
    """``told``: an error; or whether more may be coming."""

    async def go() -> None:
        connection = ScriptedConnection(asyncio.get_running_loop(), *broker)
        monkeypatch.setattr(discovery, "monotonic", lambda: connection.now)
        asking = discovery._Asking(connection, None, expected)  # type: ignore[arg-type] # it has what is used here
        with pytest.raises(MessagingError, match=told) if isinstance(told, str) else nullcontext():
            assert (await asking.ask(Targets(), 30.0, 3.0)).still_coming is told

    asyncio.run(go())


def test_whoever_asked_hears_that_there_may_be_more(capsys: pytest.CaptureFixture[str]) -> None:
    typed = fleet.make_context("fleet", ["-u", "amqp://jane:secret@h", "--profile", "my own", "ping"])
    found = discovery.Found()
    with click.Context(fleet.commands["ping"], parent=typed):
        tell_unfinished(found, "all", 5.0)
        assert capsys.readouterr().err == ""
        found.still_coming = True
        tell_unfinished(found, "group=web and name=a*", 5.0)
    assert capsys.readouterr().err == (
        "gofer fleet: 0 machines answered until the time was over, and there may be more; to give them longer, type:"
        " gofer fleet -u 'amqp://jane:***@h:5672' --profile 'my own' ping 'group=web and name=a*' --wait 10s\n"
    )
