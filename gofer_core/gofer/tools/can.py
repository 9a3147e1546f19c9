"""``gofer can``: whether a caller may call a method, and which rule says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from gofer.root import Root
from gofer.suggest import did_you_mean
from gofer.tools.arguments import target
from gofer.tools.output import complain, harmless, print_json

if TYPE_CHECKING:
    from gofer.rmi.server.access import Rule, Verdict

__all__ = ["can"]


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
    from gofer.agent.access_check import access_of
    from gofer.agent.config import read_agent, read_descriptors
    from gofer.agent.import_check import methods
    from gofer.errors import ProcessDied
    from gofer.rmi.server.access import ANONYMOUS

    place = Root.from_environ(os.environ, root)
    config, problems = read_agent(place)
    descriptors, more = read_descriptors(place)
    for problem in (*problems, *more):
        if problem.severity == "error":
            complain("gofer can", problem)
    named = {one.name: one for one in descriptors}
    descriptor = named.get(plugin)
    if descriptor is None:
        known = ", ".join(sorted(named)) or "none"
        raise click.UsageError(f"no descriptor of a plugin {plugin!r}{did_you_mean(plugin, named)}; there are: {known}")
    if not identity or identity == "*":
        raise click.UsageError(f"{identity!r} is no identity")
    if identity.startswith("@"):
        raise click.UsageError(f"{identity!r} is a group; ask for one of its members")
    if not descriptor.enabled:
        complain("gofer can", f"plugin {plugin!r} is not enabled: [main] enabled in {descriptor.file}")
    classname, method = called
    try:
        enabled, off = ([one for one in descriptors if one.enabled is on] for on in (True, False))
        found = [one for one in methods(place, enabled, off) if one.plugin == plugin]
    except ProcessDied as died:
        complain(
            "gofer can", f"only the rules of {plugin!r} are looked at, because the plugins cannot be imported: {died}"
        )
        found = []
    asked = next((one for one in found if one[1:3] == called), None)
    if asked is None and found:
        hint = did_you_mean(".".join(called), [f"{one.classname}.{one.method}" for one in found])
        text = f"plugin {plugin!r} has no remote method {'.'.join(called)}{hint}, as far as importing it tells"
        complain("gofer can", text)
    who = None if identity == ANONYMOUS else identity
    access = access_of(config, descriptors)
    plugins = dict.fromkeys([plugin, *(() if asked is None else asked.homes)])
    verdicts = [access.explain(one, who, classname, method) for one in plugins if one in access.rules or one == plugin]
    lines = [line for one in verdicts for line in _lines(one, identity, called, str(named[one.plugin].file))]
    allowed = all(one.allowed for one in verdicts)
    if classname == "Admin" and descriptor.admin is not None:
        allowed = allowed and identity in descriptor.admin and who is not None
        lines.append(f"{plugin}: {descriptor.file}: [main] admin = {', '.join(descriptor.admin)}")
    if as_json:
        print_json({"allowed": allowed, "identity": who, "plugin": plugin, "called": ".".join(called), "why": lines})
    else:
        print("yes" if allowed else "no", *map(harmless, lines), sep="\n  ")
    return 0 if allowed else 1


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
