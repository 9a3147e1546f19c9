"""Asking a fleet who is there: one question for all, and an answer from each machine that is meant."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping
from time import monotonic
from typing import Any

import msgspec

from gofer.card import ALL, EXCHANGE, MAX_CARD, Card, Question, Who, key_of_group, read_answer
from gofer.errors import AdapterError, ConnectionLost, DocumentError
from gofer.limit import LimitedLog
from gofer.messaging.adapter import DeclareQueue, DeleteQueue, Delivery, Outcome
from gofer.messaging.address import Address
from gofer.messaging.asyncio_driver import AsyncioConnection, AsyncioWaiter
from gofer.messaging.auth import sign, verify
from gofer.messaging.connector import Connector
from gofer.messaging.document import VERSION, encode, shown, timestamp
from gofer.messaging.pool import pool
from gofer.messaging.subscription import Steps, Subscription, declare_temporary
from gofer.targets import Targets

__all__ = ["Found", "discover"]

log = logging.getLogger(__name__)

_card = msgspec.json.Decoder(Card)

_EXPIRES = 60.0  # seconds after which the broker deletes the queue of a caller that was killed
_QUIET = 0.5  # seconds without an answer that end the wait early, where it may end so
_MOST = 100_000  # answers


class _Cards(MutableMapping[str, Card]):
    """Cards by address. They are kept as JSON: ten thousand of them take five times as much memory otherwise."""

    def __init__(self) -> None:
        self._cards: dict[str, bytes] = {}

    def __getitem__(self, address: str) -> Card:
        return _card.decode(self._cards[address])

    def __setitem__(self, address: str, card: Card) -> None:
        self._cards[address] = msgspec.json.encode(card)

    def __delitem__(self, address: str) -> None:
        del self._cards[address]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cards)

    def __len__(self) -> int:
        return len(self._cards)


class Found:
    """What came of a question.

    Attributes:
        cards: one of each machine that has answered, by its address.
        signers: who has signed each of these; None: nobody, or there is no authenticator.
        asked: whether any machine has heard the question, as far as the broker knows.
        refused: how many answers were not believed, by the reason; and doubles.
        seconds: after how many the last answer came.
        still_coming: answers came, or were due, until the end of the wait: there may be more machines.
    """

    def __init__(self) -> None:
        self.cards: MutableMapping[str, Card] = _Cards()
        self.signers: dict[str, str | None] = {}
        self.asked = True
        self.refused: Counter[str] = Counter()
        self.seconds = 0.0
        self.still_coming = False


async def discover(
    connector: Connector,
    targets: Targets,
    *,
    wait: float = 5.0,
    jitter: float = 1.0,
    authenticator: Any = None,
    expected: Iterable[str] | None = None,
) -> Found:
    """Ask who is there.

    Args:
        wait: seconds to wait for answers.
        jitter: seconds over which the machines spread their answers: some 3 for ten thousand.
        authenticator: signs the question, and validates the answers.
        expected: addresses. When all of these have answered, and then no answer has come for half a second, the wait
            ends. None: nobody knows who is there, and all of the time is waited: a broker that is busy may well be
            silent for seconds before three quarters of the answers come.

    Raises:
        MessagingError: no connection, or the broker does not take the question. ConnectionLost also: it was lost
            in the wait, and answers that are expected are missing; or there is none at the end, and nobody is expected.
    """
    connection = pool.acquire_asyncio(connector, asyncio.get_running_loop())
    asking = _Asking(connection, authenticator, expected)
    try:
        return await asking.ask(targets, wait, jitter)
    finally:
        asking.stop()
        pool.release(connection, linger=True)


class _Asking:
    """One question."""

    def __init__(self, connection: AsyncioConnection, authenticator: Any, expected: Iterable[str] | None) -> None:
        self._connection = connection
        self._authenticator = authenticator
        self._expected = None if expected is None else set(expected)
        self._queue = f"fleet.{uuid.uuid4()}"
        self._sn = str(uuid.uuid4())
        self._found = Found()
        self._heard = 0.0  # when the last answer came
        self._last = 0.0  # the same; or when the last one should, if that is later
        self._settled: tuple[Outcome, str] | None = None
        self._complain = LimitedLog(log, rate=1.0, burst=3)
        self._waiter = AsyncioWaiter(connection.loop)
        self._subscription = Subscription(
            self._queue,
            1000,
            self._on_delivery,
            self._prepare,
            limit=MAX_CARD,
            dispose=self._dispose,
            keep_open=False,
        )

    async def ask(self, targets: Targets, wait: float, jitter: float) -> Found:
        connection, begun, found = self._connection, monotonic(), self._found
        deadline = begun + wait
        await connection.subscribe(self._subscription, wait)
        group = targets.group
        key = ALL if group is None else key_of_group(group)
        question = Question(
            sn=self._sn,
            version=VERSION,
            routing=[None, f"{EXCHANGE}/{key}"],
            replyto=self._queue,
            who=Who(targets=str(targets), jitter=jitter, wait=wait),
            timestamp=timestamp(),
            ttl=wait,
            expires=round(time.time() + wait, 3),
        )
        body = encode(msgspec.to_builtins(question))
        if self._authenticator is not None:
            body = sign(body, self._authenticator)
        await connection.wait_sendable(deadline)
        connection.publish_nowait(
            Address(EXCHANGE, key), body, ttl=wait, durable=False, isolated=True, settled=self._on_settled
        )
        await connection.wait(lambda: self._settled is not None, deadline, self._waiter)
        # A broker takes seconds to copy it into ten thousand queues.
        self._last = monotonic() + min(jitter, wait / 2)
        await connection.wait(lambda: not found.asked or self._expected == set(), deadline, self._waiter)
        while found.asked and monotonic() < (end := min(deadline, self._last + _QUIET)):
            await connection.wait(lambda: not found.asked, end, self._waiter)
        outcome, reason = self._settled or (Outcome.UNKNOWN, connection.state)
        if outcome is Outcome.REFUSED:
            raise AdapterError(f"the broker refused a question to the fleet: {reason}")
        if outcome is Outcome.UNKNOWN and not (found.cards or found.refused):
            raise AdapterError(f"the broker has not confirmed that it has the question to the fleet: {reason}")
        subscription = self._subscription
        if found.asked and self._expected != set() and not subscription.active:
            raise ConnectionLost(f"the connection was lost while machines answered: {connection.state}")
        # A subscription that was made again may have missed answers, and a restarted broker has lost the question.
        missed = found.asked and subscription.made > 1
        if missed and self._expected:
            raise ConnectionLost("the connection was lost for a while, and perhaps answers, or the question, with it")
        found.seconds = max(0.0, self._heard - begun)
        found.still_coming = found.asked and (self._last > deadline - _QUIET or (missed and self._expected is None))
        return found

    def stop(self) -> None:
        self._connection.unsubscribe_nowait(self._subscription, dispose=True)

    # -- in the loop's thread, called by the connection ---------------------------------------------------------------

    def _prepare(self) -> Steps:
        return declare_temporary(DeclareQueue(self._queue, durable=False, expires=_EXPIRES))

    def _dispose(self) -> Steps:
        yield DeleteQueue(self._queue)

    def _on_settled(self, outcome: Outcome, reason: str) -> None:
        self._settled = outcome, reason
        self._found.asked = outcome is not Outcome.RETURNED
        self._waiter.wake()

    def _on_delivery(self, delivery: Delivery) -> None:
        self._connection.accept(delivery)
        found = self._found
        if len(found.cards) + sum(found.refused.values()) >= _MOST:
            found.refused["too many answers"] += 1
            return
        try:
            card, signer = self._read(delivery)
        except DocumentError as bad:
            why = str(bad.details or bad)
            found.refused[why if why in found.refused or len(found.refused) < 10 else "other reasons"] += 1
            self._complain(logging.WARNING, "an answer of the fleet is not believed: %s", shown(why))
            return
        if card.address in found.signers:
            if found.signers[card.address] == signer:
                found.refused["a second answer of the same machine"] += 1
            else:  # nobody knows whose it is
                found.refused[f"several have signed for the address {card.address!r}"] += 1
                found.cards.pop(card.address, None)
            return
        found.cards[card.address], found.signers[card.address] = card, signer
        self._heard = monotonic()
        self._last = max(self._last, self._heard)
        if self._expected and card.address in self._expected:
            self._expected.remove(card.address)
            if not self._expected:
                self._waiter.wake()

    def _read(self, delivery: Delivery) -> tuple[Card, str | None]:
        if delivery.cut:
            raise DocumentError("model.size", "MODEL: document too large", "an answer is too long")
        inner, signer = verify(delivery.body, self._authenticator)
        answer = read_answer(inner)
        if answer.sn != self._sn:
            raise DocumentError("model.invalid", "MODEL: document not valid", "an answer to another question")
        return answer.card, signer
