"""``gofer can``: whether a caller may call a method, and which rule says so."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gofer.root import Root
from gofer.suggest import did_you_mean
from gofer.tools.arguments import target
from gofer.tools.output import complain, harmless, print_json

if TYPE_CHECKING:
    from gofer.agent.config import Descriptor
    from gofer.rmi.server.access import Access, Rule, Verdict

__all__ = ["can"]

_ANONYMOUS = "anonymous"  # as gofer.rmi.server.access has it


@click.command()
@click.option("--root", metavar="DIR", help="Read the files under DIR/etc/gofer (default: GOFER_ROOT, else /).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("identity")
@click.argument("plugin")
@click.argument("called", type=target, metavar="Class.method")
def can(root: str | None, identity: str, plugin: str, called: tuple[str, str], as_json: bool) -> int:
    """Tell whether IDENTITY may call Class.method at the queue of PLUGIN, and which rule of [access] decides.

    Reads agent.conf and the descriptors, and imports the plugins to know whose the method is; no agent needs to run.
    IDENTITY is what the plugin's authenticator says of a caller; anonymous is a caller who does not sign.

    \b
    Exit status:
      0    the caller may
      1    the caller may not, or a file cannot be used
      2    wrong arguments
    """
    if not identity or identity == "*":
        raise click.UsageError(f"{identity!r} is no identity")
    if identity.startswith("@"):
        raise click.UsageError(f"{identity!r} is a group; ask for one of its members")
    allowed, why = _decide(Root.from_environ(os.environ, root), identity, plugin, called)
    if as_json:
        who = None if identity == _ANONYMOUS else identity
        print_json({"allowed": allowed, "identity": who, "plugin": plugin, "called": ".".join(called), "why": why})
    else:
        print("yes" if allowed else "no", *map(harmless, why), sep="\n  ")
    return 0 if allowed else 1


def _decide(place: Root, identity: str, plugin: str, called: tuple[str, str]) -> tuple[bool, list[str]]:
    """Decide as an agent does that starts now: whether the caller may, and why."""
    from gofer.agent.config import read_agent, read_descriptors
    from gofer.agent.rules import Rules

    config, problems = read_agent(place)
    descriptors, more = read_descriptors(place)
    for problem in (*problems, *more):
        if problem.severity == "error":
            complain("gofer can", problem)
    named = {one.name: one for one in descriptors}
    broken = {Path(problem.file).stem: problem.file for problem in more if problem.severity == "error"}
    if plugin not in named and plugin in broken:
        return False, [f"{plugin}: {broken[plugin]} cannot be used, so goferd does not load the plugin"]
    if plugin not in named:
        known = ", ".join(sorted(named)) or "none"
        raise click.UsageError(f"no descriptor of a plugin {plugin!r}{did_you_mean(plugin, named)}; there are: {known}")
    descriptor = named[plugin]
    if not descriptor.enabled:
        complain("gofer can", f"plugin {plugin!r} is not enabled: [main] enabled in {descriptor.file}")
    rules = Rules(place, config.groups)
    rules.take(descriptors)
    rules.close(broken.values(), named)
    allowed, why = True, []
    for name in _owners(place, descriptors, rules.access, plugin, called):
        if (file := rules.broken(name)) is not None:
            allowed = False
            why.append(f"{name}: {file} cannot be used, so nobody may call what is of this plugin")
        elif name == plugin or name in rules.access.rules:
            verdict = rules.access.explain(name, None if identity == _ANONYMOUS else identity, *called)
            allowed = allowed and verdict.allowed
            why += _lines(verdict, identity, called, str(named[name].file))
    if called[0] == "Admin" and descriptor.admin is not None:
        allowed = allowed and identity in descriptor.admin and identity != _ANONYMOUS
        why.append(f"{plugin}: {descriptor.file}: [main] admin = {', '.join(descriptor.admin)}")
    return allowed, why


def _owners(
    place: Root, descriptors: Sequence[Descriptor], access: Access, plugin: str, called: tuple[str, str]
) -> Iterable[str]:
    """Name the plugins whose rules decide: the one that is asked, and those that the method is of."""
    from gofer.agent.helper_process import methods
    from gofer.errors import ProcessDied

    try:
        every = methods(place, [one for one in descriptors if one.enabled], access.modules)
    except ProcessDied as died:
        text = f"only the rules of {plugin!r} are looked at, because the plugins cannot be imported: {died}"
        complain("gofer can", text)
        return [plugin]
    found = [one for one in every if one.plugin == plugin]
    asked = next((one for one in found if one[1:3] == called), None)
    if asked is None and found:
        hint = did_you_mean(".".join(called), [f"{one.classname}.{one.method}" for one in found])
        text = f"plugin {plugin!r} has no remote method {'.'.join(called)}{hint}, as far as importing it tells"
        complain("gofer can", text)
    return dict.fromkeys([plugin, *(() if asked is None else asked.homes)])


def _lines(one: Verdict, identity: str, called: tuple[str, str], file: str) -> Iterator[str]:
    if one.rule is not None:
        word = one.word or ""
        yield f"{one.plugin}: {one.rule}" + (f" ({identity} is in {word})" if word.startswith("@") else "")
    elif one.allowed:
        yield f"{one.plugin}: {file} has no [access], so everyone may"
    else:
        name = ".".join(called)
        yield f"{one.plugin}: no rule in [access] of {file} lets {identity} call {name}"
        yield f"{one.plugin}: rules about {name}: {_listed(one.about)}"
        yield f"{one.plugin}: rules for {identity}: {_listed(one.theirs)}"
        yield f"{one.plugin}: to allow it, add: {name} = {identity}"


def _listed(rules: list[Rule]) -> str:
    return "; ".join(f"line {one.line}: {one.text}" if one.line else one.text for one in rules) or "none"
