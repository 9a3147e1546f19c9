"""Exchanges of the local broker: from a routing key to queues. Pure state, no input or output."""

from __future__ import annotations

from collections.abc import Collection

from gofer.messaging.adapter.base import ExchangeSpec
from gofer.messaging.broker.queues import Queue

__all__ = ["KINDS", "Exchange", "matches"]

KINDS = ("direct", "topic", "fanout")

#: How many routing keys a topic exchange remembers the way of.
_REMEMBERED = 1024


class Exchange:
    """An exchange and its bindings."""

    def __init__(self, spec: ExchangeSpec, *, own: bool = False) -> None:
        self.spec = spec
        self.name = spec.name
        self.own = own
        self._keys: dict[Queue, set[str]] = {}
        self._queues: dict[str, dict[Queue, None]] = {}
        self._ways: dict[str, tuple[Queue, ...]] = {}

    @property
    def bound(self) -> bool:
        """Whether anything is bound to it."""
        return bool(self._keys)

    def bind(self, queue: Queue, key: str) -> None:
        """Add a binding."""
        self._keys.setdefault(queue, set()).add(key)
        self._queues.setdefault(key, {})[queue] = None
        self._ways.clear()

    def unbind(self, queue: Queue, key: str) -> None:
        """Remove a binding, if there is one."""
        keys = self._keys.get(queue)
        if keys is None or key not in keys:
            return
        keys.discard(key)
        if not keys:
            del self._keys[queue]
        del self._queues[key][queue]
        if not self._queues[key]:
            del self._queues[key]
        self._ways.clear()

    def forget(self, queue: Queue) -> None:
        """Remove all bindings of a queue."""
        for key in tuple(self._keys.get(queue, ())):
            self.unbind(queue, key)

    def route(self, key: str) -> Collection[Queue]:
        """Return the queues that a message with this key goes to, each once."""
        if self.spec.kind == "fanout":
            return self._keys
        if self.spec.kind == "direct":
            return self._queues.get(key, ())
        way = self._ways.get(key)
        if way is None:
            words = _words(key)
            found: dict[Queue, None] = {}
            for pattern, queues in self._queues.items():
                if matches(_words(pattern), words):
                    found.update(queues)
            way = tuple(found)
            if len(self._ways) >= _REMEMBERED:
                self._ways.clear()
            self._ways[key] = way
        return way


def _words(key: str) -> list[str]:
    return key.split(".") if key else []


def matches(pattern: list[str], words: list[str]) -> bool:
    """Return whether a topic's words match a pattern: ``*`` is one word, ``#`` any number of them."""
    at = place = 0
    star, retry = -1, 0
    while place < len(words):
        if at < len(pattern) and pattern[at] == "#":
            star, retry = at, place
            at += 1
        elif at < len(pattern) and pattern[at] in ("*", words[place]):
            at += 1
            place += 1
        elif star >= 0:
            retry += 1
            at, place = star + 1, retry
        else:
            return False
    return all(word == "#" for word in pattern[at:])
