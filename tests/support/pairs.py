"""Pairs: an adapter that calls, an adapter that answers, and a broker between them."""

from __future__ import annotations

import os
from itertools import product
from typing import NamedTuple

import pytest
from gofer.messaging.adapters import installed

from support.brokers import Broker
from support.brokers.chosen import chosen_brokers

__all__ = ["Pair", "chosen_pairs", "spoken"]

#: The adapters that each broker is spoken to by.
_SPOKEN = {
    "rabbitmq": ("amqp", "proton"),
    "rabbitmq4": ("amqp", "proton"),
    "brokerj": ("amqp", "proton", "qpid"),
    "artemis": ("proton",),
}


class Pair(NamedTuple):
    """Who calls, who answers, and where they meet: the names of adapters and of a broker."""

    caller: str
    agent: str
    broker: str

    def __str__(self) -> str:
        return f"{self.caller}-{self.agent}-{self.broker}"

    def urls(self, broker: Broker) -> tuple[str, str]:
        """Return the caller's and the agent's URL."""
        return broker.url(adapter=self.caller), broker.url(adapter=self.agent)


#: Three that cross protocols, on three brokers: they run wherever their brokers do.
_FEW = {Pair("amqp", "proton", "rabbitmq4"), Pair("proton", "amqp", "brokerj"), Pair("proton", "proton", "artemis")}


def chosen_pairs() -> list[Pair]:
    """Return the pairs on the brokers that are chosen: all, or the few, as ``GOFER_PAIRS`` says: ``all``, ``few``."""
    how = os.environ.get("GOFER_PAIRS", "few")
    if how not in ("all", "few"):
        raise pytest.UsageError(f"GOFER_PAIRS is {how!r}; allowed: all, few")
    here = {one.name for one in installed()}
    pairs = [
        Pair(caller, agent, broker)
        for broker in chosen_brokers()
        for caller, agent in product(_SPOKEN[broker], repeat=2)
        if {caller, agent} <= here
    ]
    return [pair for pair in pairs if how == "all" or pair in _FEW]


def spoken(broker: str) -> tuple[str, ...]:
    """Return the adapters that a broker is spoken to by."""
    return _SPOKEN[broker]
