"""The machines that a caller knows: their cards, and when they were seen first and last."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gofer.card import Card
from gofer.errors import ConfigError
from gofer.fleet.state import Database, state_directory
from gofer.messaging.address import Address
from gofer.messaging.url import URL, broker_of
from gofer.sections import Unreadable, decode, parse_ini
from gofer.targets import Targets

__all__ = ["Member", "Members", "read_members"]

_SCHEMA = """
CREATE TABLE members (
    broker TEXT NOT NULL, address TEXT NOT NULL, name TEXT NOT NULL, card BLOB NOT NULL,
    answers INTEGER NOT NULL, signer TEXT, first REAL NOT NULL, last REAL NOT NULL,
    PRIMARY KEY (broker, address)
) WITHOUT ROWID
"""
_UPDATE = """
INSERT INTO members VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    name = excluded.name, card = excluded.card, answers = 1, signer = excluded.signer, last = excluded.last
"""
_card = msgspec.json.Decoder(Card)


class Member:
    """A machine. ``answers``: it has answered a question; else it was added by its address. Times: since 1970.

    Args:
        card: the card, or its JSON, which is what is kept: ten thousand cards take five times as much memory.
    """

    __slots__ = ("_card", "answers", "first", "last")

    def __init__(self, card: Card | bytes, answers: bool, first: float, last: float) -> None:
        self._card = card if isinstance(card, bytes) else msgspec.json.encode(card)
        self.answers, self.first, self.last = answers, first, last

    @property
    def card(self) -> Card:
        """What it says of itself."""
        return _card.decode(self._card)

    @property
    def name(self) -> str:
        """What it is called."""
        return self.card.name

    def fields(self) -> dict[str, Any]:
        """Return the card as plain data, for targets."""
        found: dict[str, Any] = msgspec.to_builtins(self.card)
        return found


class Members(Database):
    """Those of one broker. Any thread.

    Args:
        path: the database; None: that of the user.

    Raises:
        StateError: it cannot be used.
    """

    def __init__(self, url: URL, path: Path | None = None) -> None:
        self._broker = "/".join(map(str, broker_of(url)))
        super().__init__(path or state_directory() / "fleet.db", _SCHEMA, 1)

    def __len__(self) -> int:
        """How many there are."""
        return int(self.read("SELECT count(*) FROM members WHERE broker = ?", self._broker)[0][0])

    def select(self, targets: Targets | None = None) -> list[Member]:
        """Return those that are meant, by name. None: all."""
        rows = self.read(
            "SELECT card, answers, first, last FROM members WHERE broker = ? ORDER BY name, address", self._broker
        )
        found = (Member(card, bool(answers), first, last) for card, answers, first, last in rows)
        return [one for one in found if targets is None or targets.matches(one.fields())]

    def signers(self) -> dict[str, str]:
        """Return who has signed the cards, by the machines' addresses; none of those that nobody has signed."""
        statement = "SELECT address, signer FROM members WHERE broker = ? AND signer IS NOT NULL"
        return dict(self.read(statement, self._broker))

    def remember(
        self, cards: Iterable[Card], *, answers: bool = True, signers: Mapping[str, str | None] | None = None
    ) -> None:
        """Note the cards of machines that have answered; or of others, of which no known one is changed.

        Args:
            signers: who has signed the cards, by address.
        """
        now, signed, encode = time.time(), signers or {}, msgspec.json.encode
        statement = _UPDATE if answers else "INSERT OR IGNORE INTO members VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        rows = (
            (self._broker, one.address, one.name, encode(one), answers, signed.get(one.address), now, now)
            for one in cards
        )
        self.change(lambda file: file.executemany(statement, rows))

    def forget(self, members: Iterable[Member]) -> None:
        """Forget machines."""
        rows = ((self._broker, one.card.address) for one in members)
        self.change(lambda file: file.executemany("DELETE FROM members WHERE broker = ? AND address = ?", rows))


def read_members(path: Path) -> list[Card]:
    """Read machines that do not answer questions from a file: one section for each address, in ini or JSON.

    ``[web-42]``, and in it, if it is said, ``name`` and ``groups`` (names with commas between).

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong.
    """
    try:
        text = decode(path.read_bytes())
        if path.suffix == ".json":
            sections: Any = msgspec.json.decode(text, type=dict[str, dict[str, Any]])
        else:
            content = parse_ini(text)
            sections = content.sections
            for section, _, remark in content.remarks[:1]:  # a line that is passed over would be a missing machine
                where = f"{path}: [{section}]" if section else f"{path}:"
                what = remark.removesuffix("; it is ignored")
                raise ConfigError(f"{where} {what}; allowed: [address] for each machine, and below it name and groups")
    except Unreadable as wrong:
        raise ConfigError(f"{path}: {wrong}") from None
    except (OSError, msgspec.MsgspecError) as wrong:
        raise ConfigError(f"{path}: cannot be read: {wrong}") from None
    if not sections:
        raise ConfigError(f"{path}: names no machine; allowed: a section for each address, like [web-42]")
    cards = []
    for address, keys in sections.items():
        unknown = sorted(set(keys) - {"name", "groups"})
        if unknown:
            raise ConfigError(f"{path}: [{address}] {unknown[0]}: unknown; allowed: name, groups")
        groups = keys.get("groups", [])
        listed = [one.strip() for one in groups.split(",") if one.strip()] if isinstance(groups, str) else groups
        try:
            card = msgspec.convert(
                {"name": keys.get("name") or address, "address": str(Address.parse(address)), "groups": listed}, Card
            )
            card.check()
        except (msgspec.ValidationError, ConfigError, ValueError) as wrong:
            details = getattr(wrong, "details", None)
            raise ConfigError(f"{path}: [{address}]: {details or wrong}") from None
        cards.append(card)
    return cards
