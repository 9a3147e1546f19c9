"""What is odd in the rules of ``[access]``: they would let nobody in, or nobody whom they mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gofer.agent.config import AgentConfig, Descriptor, Problem
from gofer.agent.import_check import Method, methods
from gofer.errors import ProcessDied
from gofer.rmi.server.access import ANONYMOUS, Access, Rule
from gofer.root import Root
from gofer.suggest import did_you_mean

__all__ = ["access_problems"]


def access_problems(root: Root, config: AgentConfig, enabled: Sequence[Descriptor]) -> Iterator[Problem]:
    """Find groups that there are none of, rules that match no method, and identities that nobody can have.

    The plugins are imported if one of them has rules. All of this is a warning: nobody is let in by it.
    """
    access = Access({one.name: one.access for one in enabled if one.access is not None}, config.groups)
    if not any(access.rules.values()):
        return
    try:
        found = methods(root, enabled, {})
    except ProcessDied as died:
        yield Problem("warning", str(root.descriptors), None, None, f"the rules of [access] are not checked: {died}")
        found = []
    for one in enabled:
        for rule, group in access.unknown_groups(one.name):
            if not group:
                continue  # it was told when the descriptor was read
            known = ", ".join(sorted(access.groups)) or "none"
            hint = did_you_mean(group, access.groups)
            yield _odd(one, rule, f"there is no group {group!r}{hint}; [groups] of agent.conf has: {known}")
        yield from _unmatched(one, [each for each in found if one.name in (each.plugin, *each.homes)])
        means = [rule for rule in one.access or () if rule.who != (ANONYMOUS,)]
        if means and one.authenticator is None and one.url is not None:
            text = (
                f"plugin {one.name!r} has no authenticator, so its callers have no identity; add authenticator to "
                f"[messaging], or name {ANONYMOUS}"
            )
            yield _odd(one, means[0], text)


def _unmatched(one: Descriptor, asked: Sequence[Method]) -> Iterator[Problem]:
    if not asked:  # its code cannot be imported, which is told
        return
    for rule in one.access or ():
        if not any(rule.covers(each.classname, each.method) for each in asked):
            hint = did_you_mean(rule.called, [f"{each.classname}.{each.method}" for each in asked])
            yield _odd(one, rule, f"matches no method{hint}among the plugins that could be imported")


def _odd(one: Descriptor, rule: Rule, text: str) -> Problem:
    line = "" if rule.line is None else f"line {rule.line}: "
    return Problem("warning", str(one.file), "access", rule.called, f"{line}{text}")
