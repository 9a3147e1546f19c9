"""What the descriptors of one agent say about each other, and about what none of them says alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gofer.agent.config.descriptor import Descriptor
from gofer.agent.config.problem import Problem
from gofer.messaging.url import broker_of
from gofer.suggest import nearest

__all__ = ["check_together", "not_trusted"]


def check_together(descriptors: Iterable[Descriptor]) -> list[Problem]:
    """Tell what is wrong, or odd, with the enabled ones among all descriptors of an agent.

    An error is what the agent refuses when it loads them; a warning what it does, though nobody can have meant it.
    """
    every = list(descriptors)
    enabled = [one for one in every if one.enabled]
    return [problem for one in enabled for problem in _problems(one, every, enabled)]


def not_trusted(asked: Descriptor, owner: Descriptor, how: str) -> str:
    """Say why the callers of one plugin must not reach another one's methods, and what to do.

    Args:
        how: what brings them there, in words that stand between the two plugins' names.
    """
    theirs = f"has the authenticator {asked.authenticator!r}" if asked.authenticator else "has no authenticator"
    own = f"the authenticator {owner.authenticator!r}" if owner.authenticator else "an authenticator"
    return (
        f"plugin {asked.name!r} {how} plugin {owner.name!r} and {theirs}, so its callers would get past {own} of "
        f"{owner.name!r}; give both the same authenticator with the same settings, "
        f"or allow it by trust = {asked.name} in [main] of {owner.file}"
    )


def _trust(one: Descriptor, enabled: list[Descriptor]) -> Iterator[Problem]:
    """Tell which other plugins' callers would reach the methods of one that has an authenticator."""
    extended = [two for two in enabled if two is not one and two.name in _extended_by(one, enabled)]
    for other in enabled:
        if other is one or one.authenticator is None or other.name in one.trust or one.same_authenticator(other):
            continue
        for key, how, leads in (
            ("accept", "forwards to", other.forwards_to(one)),
            ("extends", "has the methods of", other in extended),
            ("extends", "forwards to what has the methods of", any(other.forwards_to(two) for two in extended)),
        ):
            if leads:
                yield Problem("error", str(one.file), "main", key, not_trusted(other, one, how))
                break


def _extended_by(one: Descriptor, enabled: list[Descriptor]) -> set[str]:
    """Name the plugins that get the methods of one by ``extends``, directly or by way of others."""
    extends = {two.name: two.extends for two in enabled}
    names: set[str] = set()
    name = one.extends
    while name is not None and name not in names:
        names.add(name)
        name = extends.get(name)
    return names


def _problems(one: Descriptor, every: list[Descriptor], enabled: list[Descriptor]) -> Iterator[Problem]:
    yield from _queue(one, enabled[: enabled.index(one)])
    yield from _forwarding(one, every)
    yield from _trust(one, enabled)
    if one.extends is not None:
        other, why = _enabled(one.extends, every)
        if other is one:
            why = "a plugin cannot extend itself; allowed: another plugin's name"
        if why:
            yield Problem("error", str(one.file), "main", "extends", why)


def _queue(one: Descriptor, earlier: list[Descriptor]) -> Iterator[Problem]:
    if one.queue is None:
        return
    if one.url is None:
        text = "has no effect, because [messaging] url is not set; set it, or have the plugin set plugin.url in @load"
        yield Problem("warning", str(one.file), "model", "queue", text)
        return
    for first in earlier:
        if first.queue is None or first.url is None or first.queue.key != one.queue.key:
            continue
        if broker_of(first.url) == broker_of(one.url):
            text = f"{one.queue.key!r} at {one.url} is the queue of plugin {first.name!r} ({first.file})"
            text += "; allowed: one plugin of an agent for each queue"
            yield Problem("error", str(one.file), "model", "queue", text)
            return


def _forwarding(one: Descriptor, every: list[Descriptor]) -> Iterator[Problem]:
    for name in one.forward:
        if name == "*":
            continue
        other, why = _enabled(name, every)
        if other is not None and "*" not in other.accept and one.name not in other.accept:
            why = (
                f"plugin {name!r} does not accept from {one.name!r}; add accept = {one.name} to [main] of {other.file}"
            )
        if why:
            yield Problem("warning", str(one.file), "main", "forward", f"nothing is forwarded to {name!r}: {why}")
    for name in one.accept:
        if name == "*":
            continue
        other, why = _enabled(name, every)
        if why:
            yield Problem("warning", str(one.file), "main", "accept", f"nothing comes from {name!r}: {why}")


def _enabled(name: str, every: list[Descriptor]) -> tuple[Descriptor | None, str]:
    """Return the enabled plugin of a name; None: there is none, and why."""
    found = next((one for one in every if one.name == name), None)
    if found is not None and found.enabled:
        return found, ""
    names = [one.name for one in every if one.enabled]
    if found is not None:
        return None, f"that plugin is not enabled; set [main] enabled = 1 in {found.file}"
    near = nearest(name, names)
    hint = f"; did you mean {near!r}?" if near else ";"
    return None, f"there is no plugin {name!r}{hint} enabled: {', '.join(sorted(names))}"
