"""``goferd --check``: all that is wrong with the configuration and with the plugins' code, one line each.

Plugins are imported, and their authenticators made, in processes of their own; none is started.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

from gofer.agent.certificates import files_of, read_in_use
from gofer.agent.config import AgentConfig, Descriptor, Problem, check_together, read_descriptors
from gofer.agent.helper_process import Method, import_problems, methods
from gofer.agent.sources import locate, unused_files
from gofer.errors import AdapterError, ProcessDied
from gofer.messaging.adapters import find
from gofer.rmi.server.access import ANONYMOUS, Access, Rule
from gofer.rmi.server.logins import Logins
from gofer.root import Root
from gofer.streams import give_up_output
from gofer.suggest import did_you_mean

__all__ = ["check"]


def check(root: Root, config: AgentConfig, problems: Iterable[Problem]) -> int:
    """Print what is wrong with the agent's settings (``problems``, read before), the descriptors, and what they name.

    Returns:
        The exit status: 0 when there is no error, else 1. Warnings alone are no error. Or, if standard output fails,
        that of ``give_up_output``.
    """
    descriptors, more = read_descriptors(root)
    enabled = [descriptor for descriptor in descriptors if descriptor.enabled]
    found = [*problems, *more, *(problem for one in enabled for problem in _named(root, config, one))]
    found += check_together(descriptors)
    found += import_problems(root, enabled, unavailable=Logins(config.pam.service).unavailable())
    found += _access_problems(root, config, enabled)
    errors = sum(problem.severity == "error" for problem in found)
    names = ", ".join(descriptor.name for descriptor in enabled) or "none"
    try:
        for problem in found:
            print(f"{problem.severity}: {problem}")
        print(f"{len(descriptors)} descriptors read from {root.descriptors}; enabled: {names}; errors: {errors}")
        sys.stdout.flush()
    except OSError as error:
        return give_up_output("goferd", error)
    return 1 if errors else 0


def _named(root: Root, config: AgentConfig, descriptor: Descriptor) -> Iterable[Problem]:
    """Find what is wrong with what a descriptor names, and is not its plugin's code."""
    source = locate(root, descriptor)
    if isinstance(source, Problem):
        pass  # importing it tells
    elif (unused := unused_files(root, descriptor, source)) is not None:
        yield unused
    elif source.file is None and source.module.partition(".")[0] in sys.stdlib_module_names:
        text = f"{source.module!r} is a module of Python's own library; allowed: a plugin"
        yield Problem("warning", str(descriptor.file), "main", "plugin", text)
    if descriptor.url is not None:
        try:
            find(descriptor.url, config.messaging.adapter)
        except AdapterError as error:
            yield Problem("error", str(descriptor.file), "messaging", "url", str(error))
        yield from _tls(config, descriptor)


def _tls(config: AgentConfig, descriptor: Descriptor) -> Iterable[Problem]:
    """Read the TLS files as a connection would. One that is missing was told before: it may come later."""
    named = list(files_of(descriptor, descriptor.url))
    if descriptor.url is None or not descriptor.url.tls:
        return
    files = [path for _, path in named] + ([] if descriptor.clientkey is None else [descriptor.clientkey])
    if not all(os.path.exists(path) for path in files):
        return
    from gofer.messaging.tls import make_context

    try:
        make_context(descriptor.connector(config.messaging))
    except AdapterError as error:
        yield Problem("error", str(descriptor.file), "messaging", None, str(error))
        return
    for option, path in named:
        for one in read_in_use(path, (f"{option} of plugin {descriptor.name}",)):
            if warning := one.warning(time.time()):
                yield Problem("warning", str(descriptor.file), "messaging", option, warning)


def _access_problems(root: Root, config: AgentConfig, enabled: Sequence[Descriptor]) -> Iterator[Problem]:
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
    if not asked:  # its code cannot be imported: that is an error already
        return
    for rule in one.access or ():
        if not any(rule.covers(each.classname, each.method) for each in asked):
            hint = did_you_mean(rule.called, [f"{each.classname}.{each.method}" for each in asked])
            yield _odd(one, rule, f"matches no method{hint}among the plugins that could be imported")


def _odd(one: Descriptor, rule: Rule, text: str) -> Problem:
    line = "" if rule.line is None else f"line {rule.line}: "
    return Problem("warning", str(one.file), "access", rule.called, f"{line}{text}")
