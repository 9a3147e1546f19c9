"""The callers that do not wait: what is posted, what is answered to a queue, and the one who reads that."""

from __future__ import annotations

import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from gofer.errors import MessagingError, NotTaken
from gofer.proxy import Agent
from gofer.rmi.reply import Notice, ReplyConsumer

from soak.places import PLAIN, REPLIES, Journal

__all__ = ["listen", "post"]

_FLUSH = 120.0
_SHIFT = 20.0  # seconds that a consumer runs before another takes its place


def post(role: str, url: str, seed: str, until: float, journal: Journal) -> None:
    """Send requests without waiting for results, in batches and singly, and write down which of them were taken."""
    poster = _Poster(url, role, seed, until, journal)
    with ThreadPoolExecutor(2) as threads:
        for job in [threads.submit(poster.in_batches), threads.submit(poster.singly)]:
            job.result()


@dataclass(frozen=True, slots=True)
class _Poster:
    url: str
    role: str
    seed: str
    until: float
    journal: Journal

    def in_batches(self) -> None:
        """Send some, flush, and so on."""
        chance = random.Random(f"{self.seed} {self.role}")
        number = 0
        with Agent(self.url, PLAIN, wait=0) as agent:
            while time.time() < self.until:
                taken: dict[str, str] = {}
                refused: dict[str, str] = {}
                for _ in range(chance.randint(1, 40 if self.role == "posts" else 10)):
                    number += 1
                    id = f"{self.role}-{number}"
                    self.journal.write("sent", id, kind=self.role)
                    try:
                        taken[self._request(agent(data=id), chance)] = id
                    except NotTaken as earlier:
                        refused |= earlier.reasons  # of what was sent before; this one was not
                        self.journal.write("end", id, outcome="not sent", detail="told of earlier ones")
                    except MessagingError as error:
                        self.journal.write("end", id, outcome="not sent", detail=str(error))
                try:
                    agent.flush(_FLUSH)
                except NotTaken as told:
                    refused |= told.reasons
                for sn, id in taken.items():
                    why = refused.pop(sn, None)
                    outcome = "taken" if why is None else "not taken"
                    self.journal.write("end", id, sn=sn, outcome=outcome, detail=why or "")
                for sn, why in refused.items():
                    self.journal.write("end", f"{self.role}-unknown-{sn}", outcome="wrong report", detail=why)
                time.sleep(chance.uniform(0, 3.0))

    def singly(self) -> None:
        """Send one, wait for the broker's word on it, and so on."""
        chance = random.Random(f"{self.seed} {self.role} singly")
        number = 0
        with Agent(self.url, PLAIN, wait=0, confirm=True) as agent:
            while time.time() < self.until:
                number += 1
                id = f"{self.role}-singly-{number}"
                self.journal.write("sent", id, kind=self.role)
                outcome, detail, sn = "taken", "", ""
                try:
                    sn = self._request(agent(data=id), chance)
                except NotTaken as told:
                    outcome, detail = "not taken", str(told)
                except MessagingError as error:
                    outcome, detail = "not sent", str(error)
                self.journal.write("end", id, sn=sn, outcome=outcome, detail=detail)
                time.sleep(chance.uniform(0, 1.0))

    def _request(self, agent: Agent, chance: random.Random) -> str:
        """Send one; return its serial number."""
        if chance.random() < 0.2:
            agent = agent(ttl=3600)
        if self.role == "posts":
            return str(agent.Soak().quick())
        agent = agent(reply=REPLIES)
        which = chance.random()
        if which < 0.7:
            return str(agent.Soak().quick())
        if which < 0.8:
            return str(agent.Soak().raising())
        return str(agent.Soak().some(chance.uniform(0.05, 2.0)))


def listen(url: str, journal: Journal) -> None:
    """Write down what comes to the queue of replies, until standard input ends; in shifts, with a moment between."""

    by = os.getpid()

    def heard(reply: Notice) -> None:
        outcome = {"succeeded": "value", "failed": "raised"}.get(reply.kind, reply.kind)
        detail = ""
        if reply.kind == "failed":
            try:
                reply.throw()
            except KeyError:
                pass
            except Exception as error:  # noqa: BLE001 - an outcome, whatever it is
                outcome, detail = _failed(error)
        journal.write("told", str(reply.data), outcome=outcome, detail=detail, done=reply.done, by=by)

    consumer = ReplyConsumer(REPLIES, url)
    _start(consumer, heard)
    print("ready", flush=True)
    ended: list[str] = []
    with ThreadPoolExecutor(1) as waiting:
        end = waiting.submit(lambda: ended.append(sys.stdin.read()))
        begun = time.monotonic()
        while not end.done():
            time.sleep(0.1)
            if time.monotonic() - begun > _SHIFT:
                consumer.stop()
                _start(consumer, heard)
                begun = time.monotonic()
    consumer.stop()


def _start(consumer: ReplyConsumer, heard: Any) -> None:
    """Start again, as soon as there is a broker."""
    while True:
        try:
            consumer.start(heard)
        except MessagingError as error:
            print(f"not started yet: {error}", file=sys.stderr, flush=True)
            time.sleep(0.5)
        else:
            return


def _failed(error: Exception) -> tuple[str, str]:
    name = type(error).__name__
    return ("interrupted" if name == "Interrupted" else f"error: {name}"), str(error)[:500]
