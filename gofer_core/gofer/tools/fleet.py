"""``gofer fleet``: who is there, and one method called on many machines."""

from __future__ import annotations

import logging
from typing import Any

import click

from gofer.tools import fleet_call, fleet_machines, fleet_runs
from gofer.tools.connecting import broker_options, signing_option

__all__ = ["fleet"]


@click.group()
@broker_options
@signing_option
@click.option("-v", "--verbose", is_flag=True, help="Print the connection's events on standard error.")
@click.pass_context
def fleet(context: click.Context, /, *, verbose: bool, **how: Any) -> None:
    """Find machines, and call one method on many of them.

    Machines join by enabled = 1 in [fleet] of their agent.conf. TARGETS is an expression: all, name=web-*, group=web
    and facts.os.id=debian, plugin.dogs>=1.2, not class=Dog. For call and plan also @FILE and -: addresses, one a
    line, from a file or from standard input; and @run:ID with outcomes, like "@run:last exception unreachable".

    \b
    Exit status:
      0    all is well, or as well as --require asks
      1    some machines are missing, or have no value
      2    wrong arguments; or what is remembered cannot be read
      3    the run was stopped before its end
      6    no connection to the broker
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.CRITICAL, format="%(name)s: %(message)s")
    context.obj = how


for _command in (*fleet_machines.COMMANDS, *fleet_call.COMMANDS, *fleet_runs.COMMANDS):
    fleet.add_command(_command)
