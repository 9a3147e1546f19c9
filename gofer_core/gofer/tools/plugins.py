"""``gofer plugins``: the plugins that are installed, and which of them are switched on."""

from __future__ import annotations

import os

import click

from gofer.tools.listing import describe, listing_options, show
from gofer.tools.output import complain
from gofer.tools.trial import Trial, run_trials

__all__ = ["plugins"]


@click.command()
@click.option("--root", metavar="DIR", help="Read the descriptors under DIR/etc/gofer (default: GOFER_ROOT, else /).")
@listing_options
def plugins(root: str | None, as_json: bool, timeout: float) -> None:
    """List the installed plugins, and whether a descriptor switches them on.

    Each is imported in a separate process, to show whether it is broken. Errors in descriptors go to standard error.
    """
    from gofer.agent.config import Problem, read_descriptors
    from gofer.agent.sources import GROUP, locate
    from gofer.entry_points import listed
    from gofer.root import Root

    place = Root.from_environ(os.environ, root)
    descriptors, problems = read_descriptors(place)
    missing = [found for one in descriptors if one.enabled and isinstance(found := locate(place, one), Problem)]
    for problem in [*problems, *missing]:
        complain("gofer plugins", problem)
    installed = listed(GROUP)
    described = [[each for each in descriptors if (each.plugin or each.entry) == one.name] for one in installed]
    enabled = [[each for each in theirs if each.enabled] for theirs in described]
    trials = [
        Trial(GROUP, one.name, next((each.file for each in [*on, *theirs]), None))
        for one, on, theirs in zip(installed, enabled, described, strict=True)
    ]
    broken = run_trials(place, trials, timeout)
    rows = [
        {**describe(one, why), "enabled": bool(on), "descriptors": [str(each.file) for each in theirs]}
        for one, why, on, theirs in zip(installed, broken, enabled, described, strict=True)
    ]
    show(rows, {"enabled": "ENABLED", "descriptors": "DESCRIPTORS"}, as_json, "No plugin is installed.")
