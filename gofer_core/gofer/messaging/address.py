"""Addresses: ``queue`` or ``exchange/queue``."""

from __future__ import annotations

import re
from typing import NamedTuple

from gofer.errors import ConfigError

__all__ = ["Address"]

_URL = re.compile(r"([A-Za-z][\w.-]*\+)?(amqps?|tcp|ssl|local)://", re.IGNORECASE)


class Address(NamedTuple):
    """Where a message goes: an exchange (``""`` is the default one) and a routing key, often a queue's name."""

    exchange: str
    key: str

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``key`` or ``exchange/key``.

        Raises:
            ConfigError: not text, empty, longer than 255 bytes (brokers take no more), with control characters, or the
                URL of a broker.
        """
        if not isinstance(text, str):
            raise ConfigError(f"an address is text like 'queue' or 'exchange/queue', not {type(text).__name__}")
        url = _URL.match(text)
        if url is not None:  # the rest of it may hold a password
            raise ConfigError(
                f"'{url[0]}...' is a broker's URL, not an address like 'queue' or 'exchange/queue'; "
                "are the two swapped? It is Agent(url, address)"
            )
        exchange, slash, key = text.partition("/")
        if not slash:
            exchange, key = "", text
        if not key:
            raise ConfigError(f"address {text[:200]!r} names no queue; expected 'queue' or 'exchange/queue'")
        for name in (exchange, key):
            if len(name.encode("utf-8", "surrogatepass")) > 255:
                raise ConfigError(f"address {text[:60]!r}... is longer than 255 bytes")
            if any(c < " " or "\ud800" <= c <= "\udfff" for c in name):
                raise ConfigError(f"address {text[:200]!r} has control characters in it")
        return cls(exchange, key)

    def __str__(self) -> str:
        return f"{self.exchange}/{self.key}" if self.exchange or "/" in self.key else self.key
