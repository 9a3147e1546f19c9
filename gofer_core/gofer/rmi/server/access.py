"""Who may call what: the rules of ``[access]`` sections, how they decide, and which one it was."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

__all__ = ["ANONYMOUS", "ANYBODY", "Access", "Denied", "Rule", "Verdict", "why_denied"]

#: In a rule: every caller with an identity; and a caller without one, whose request is not signed.
ANYBODY, ANONYMOUS = "*", "anonymous"

_MOST = 1000  # decisions that are remembered


@dataclass(frozen=True)
class Rule:
    """One line of ``[access]``: ``Dog.* = ops-1, @operators``. ``line`` is its number in ``file``, None: not known.

    ``called`` is ``Class.method``, each part with ``*`` and ``?``, or ``*`` for all. ``who`` are identities, groups
    (``@name``), ANYBODY and ANONYMOUS.
    """

    called: str
    who: tuple[str, ...]
    file: str = field(default="", compare=False)
    line: int | None = field(default=None, compare=False)

    @staticmethod
    def is_valid(called: str) -> bool:
        """Tell whether this can stand in front of a rule's ``=``."""
        return called == "*" or all(re.fullmatch(r"[\w@.*?-]+", part) for part in called.rpartition(".")[::2])

    def covers(self, classname: str, method: str) -> bool:
        """Tell whether the rule is about a method, whoever calls it."""
        patterns = self._patterns
        return patterns is None or bool(patterns[0].fullmatch(classname) and patterns[1].fullmatch(method))

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]] | None:
        if self.called == "*":
            return None
        classname, _, method = self.called.rpartition(".")
        return _pattern(classname), _pattern(method)

    def names(self, identity: str | None, groups: Mapping[str, Iterable[str]]) -> str | None:
        """Return the word among ``who`` by which a caller is meant; None: the rule is not for that caller."""
        if identity is None:
            return ANONYMOUS if ANONYMOUS in self.who else None
        for one in self.who:
            # An authenticator may believe in an identity that looks like a group.
            if one == ANYBODY or (identity in groups.get(one[1:], ()) if one[0] == "@" else identity == one):
                return one
        return None

    @property
    def text(self) -> str:
        """The rule as it is written."""
        return f"{self.called} = {', '.join(self.who)}"

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}, line {self.line}"
        return f"{where}: {self.text}"


class Verdict(NamedTuple):
    """What the rules of one plugin say about a call.

    ``rule``: the one that allows it, which means the caller by ``word``; None: there is none, or the plugin has no
    rules. ``about`` are those that cover the method, ``theirs`` those that mean the caller.
    """

    plugin: str
    allowed: bool
    rule: Rule | None
    word: str | None
    about: list[Rule]
    theirs: list[Rule]


@dataclass(frozen=True)
class Access:
    """The rules of an agent, by its plugins' names, and its groups. A change makes another one.

    A plugin without rules can be called by everybody; one with rules, only as these allow.
    """

    rules: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict)
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: The modules of the plugins with rules, whether these run or not.
    modules: Mapping[str, str] = field(default_factory=dict)
    _decided: dict[tuple[str, str | None, str, str], bool] = field(default_factory=dict, init=False, compare=False)

    def rule_for(self, plugin: str, identity: str | None, classname: str, method: str) -> Rule | None:
        """Return the first rule of a plugin that allows a call; None: none does."""
        for rule in self.rules.get(plugin, ()):
            if rule.covers(classname, method) and rule.names(identity, self.groups) is not None:
                return rule
        return None

    def refusing(self, plugins: Iterable[str], identity: str | None, classname: str, method: str) -> str | None:
        """Return the first of several plugins whose rules do not allow a call; None: all allow it."""
        for plugin in plugins:
            if plugin in self.rules and not self._allows((plugin, identity, classname, method)):
                return plugin
        return None

    def _allows(self, call: tuple[str, str | None, str, str]) -> bool:
        """Tell whether one plugin's rules allow a call. What was asked before is not decided again."""
        allowed = self._decided.get(call)
        if allowed is None:
            if len(self._decided) >= _MOST:  # callers may send any names
                self._decided.clear()
            allowed = self._decided[call] = self.rule_for(*call) is not None
        return allowed

    def explain(self, plugin: str, identity: str | None, classname: str, method: str) -> Verdict:
        """Tell how a plugin's rules decide about a call, and by which of them."""
        rules = self.rules.get(plugin)
        rule = self.rule_for(plugin, identity, classname, method)
        return Verdict(
            plugin,
            rules is None or rule is not None,
            rule,
            None if rule is None else rule.names(identity, self.groups),
            [one for one in rules or () if one.covers(classname, method)],
            [one for one in rules or () if one.names(identity, self.groups)],
        )

    def unknown_groups(self, plugin: str) -> list[tuple[Rule, str]]:
        """Return the groups in a plugin's rules that there are none of."""
        return [
            (rule, one[1:])
            for rule in self.rules.get(plugin, ())
            for one in rule.who
            if one[0] == "@" and one[1:] not in self.groups
        ]


class Denied(Exception):
    """The rules of an agent do not allow a call. Its text says whose rules, and what would."""


def why_denied(identity: str | None, plugin: str, called: str, file: object, *, signs: bool = True) -> str:
    """Say why a call is not allowed, and who can change that.

    Args:
        plugin: the one whose rules do not allow it, described in ``file``.
        signs: whether callers of the queue can have an identity.
    """
    if identity is not None:
        caller = f"{identity!r:.100}"
    else:
        why = "the request is not signed" if signs else "the plugin has no authenticator"
        caller = f"{ANONYMOUS} (a caller without identity: {why})"
    add = f"{called} = {identity or ANONYMOUS:.100}"
    return (
        f"no rule lets {caller} call {called} of plugin {plugin!r}. "
        f"To allow it, the agent's operator adds `{add}` to [access] in {file}, and reloads"
    )


def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(re.escape(glob).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)
