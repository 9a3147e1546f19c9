"""What a machine of a fleet says of itself, and the documents in which it is asked and answers."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from gofer.errors import DocumentError

__all__ = [
    "EXCHANGE", "Answer", "Card", "PluginCard", "Question", "Who", "key_of_group", "read_answer", "read_question",
]  # fmt: skip

T = TypeVar("T")

#: The topic exchange that the fleet's queues are bound to, and the key that all are bound by.
EXCHANGE = "gofer.fleet"
ALL = "all"

#: The longest card, in bytes, and what else is bounded.
MAX_CARD = 64 * 1024
_MOST_GROUPS = 64
_MOST_PLUGINS = 256
_MOST_CLASSES = 1024
_MOST_MARKED = 1024
_MOST_METHODS = 4096
#: How many characters of methods' names an agent puts into its card; of more methods it names the first.
NAMED_METHODS = 8 * 1024
_NAME = re.compile(r"[^\x00-\x20\x7f]{1,255}")
_GROUP = re.compile(r"[A-Za-z0-9_-]{1,64}")


class PluginCard(msgspec.Struct, frozen=True, omit_defaults=True):
    """A running plugin: its version, the address of its queue, and its remote classes and modules.

    An agent tells of a class only if the caller may call something in it. ``destructive``: the methods that are marked
    so, as ``Class.method``. ``methods``: those that the caller may call, for completion. If they are many, some are
    left out; an agent of an earlier version names none.
    """

    version: str | None = None
    address: str | None = None
    classes: list[str] = []
    destructive: list[str] = []
    methods: list[str] = []


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of a fleet.

    Attributes:
        name: for people; the host name unless configured.
        address: where it is called if no plugin's address says otherwise. No two machines have the same.
        groups: what it belongs to: letters, digits, ``_`` and ``-``.
        plugins: those that run, by name.
        facts: plain data: what gofer and the plugins say of the machine.
        version: that of gofer.
    """

    name: str
    address: str
    groups: list[str] = []
    plugins: dict[str, PluginCard] = {}
    facts: dict[str, Any] = {}
    version: str = ""

    def address_of(self, classname: str) -> str:
        """Return the address of the plugin that has a remote class or module."""
        plain = classname.partition("@")[0]
        for plugin in self.plugins.values():
            if plain in plugin.classes and plugin.address is not None:
                return plugin.address
        return self.address

    def is_destructive(self, classname: str, method: str) -> bool:
        """Tell whether one of the plugins has marked a method as destructive."""
        return any(f"{classname}.{method}" in one.destructive for one in self.plugins.values())

    def check(self) -> None:
        """Refuse a card that is out of bounds.

        Raises:
            DocumentError: it is.
        """
        classes = sum(len(one.classes) for one in self.plugins.values())
        marked = sum(len(one.destructive) for one in self.plugins.values())
        methods = sum(len(one.methods) for one in self.plugins.values())
        for wrong, what in (
            (not _NAME.fullmatch(self.name), "name is not 1 to 255 characters without spaces"),
            (not _NAME.fullmatch(self.address), "address is not 1 to 255 characters without spaces"),
            (len(self.groups) > _MOST_GROUPS, f"more than {_MOST_GROUPS} groups"),
            (not all(map(_GROUP.fullmatch, self.groups)), "a group is not 1 to 64 letters, digits, _ and -"),
            (len(self.plugins) > _MOST_PLUGINS, f"more than {_MOST_PLUGINS} plugins"),
            (classes > _MOST_CLASSES, f"more than {_MOST_CLASSES} classes"),
            (marked > _MOST_MARKED, f"more than {_MOST_MARKED} methods marked destructive"),
            (methods > _MOST_METHODS, f"more than {_MOST_METHODS} methods"),
        ):
            if wrong:
                raise _invalid(f"card: {what}")


class Who(msgspec.Struct, frozen=True, kw_only=True):
    """The question: those whom ``targets`` means answer, each after a random time of up to ``jitter`` seconds."""

    targets: str = "all"
    jitter: float = 0.0
    wait: float = 10.0


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """The document of a question. ``routing[1]``: the exchange and key that it was sent to.

    ``ttl`` and ``expires`` are those of a request.
    """

    sn: str
    version: str
    routing: list[str | None]
    replyto: str
    who: Who
    timestamp: str | None = None
    ttl: float | None = None
    expires: float | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The document of an answer. ``origin``: the address of the machine, which its card repeats."""

    sn: str
    version: str
    routing: list[str | None]
    origin: str
    card: Card
    timestamp: str | None = None


_question = msgspec.json.Decoder(Question)
_answer = msgspec.json.Decoder(Answer)


def key_of_group(group: str) -> str:
    """Return the key by which the queues of a group's machines are bound.

    Raises:
        ValueError: that is no group's name.
    """
    if _GROUP.fullmatch(group) is None:
        raise ValueError(f"{group[:80]!r} is no name of a group; allowed: 1 to 64 letters, digits, _ and -")
    return f"group.{group}"


def read_question(body: bytes) -> Question:
    """Read a question's document.

    Raises:
        DocumentError: it is none.
    """
    question = _decoded(_question, body)
    if len(question.routing) != 2 or not 0 <= question.who.jitter <= 3600 or not 0 < question.who.wait <= 3600:
        raise _invalid("routing has two parts, jitter and wait are seconds up to 3600")
    return question


def read_answer(body: bytes) -> Answer:
    """Read an answer's document.

    Raises:
        DocumentError: it is none, or its card is out of bounds.
    """
    if len(body) > MAX_CARD:
        raise _invalid(f"an answer of {len(body)} bytes; allowed: {MAX_CARD}")
    answer = _decoded(_answer, body)
    if answer.origin != answer.card.address:
        raise _invalid("the card has another address than the answer's origin")
    answer.card.check()
    return answer


def _decoded(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as bad:
        raise _invalid(str(bad)) from None


def _invalid(details: str) -> DocumentError:
    return DocumentError("model.invalid", "MODEL: document not valid", details)
