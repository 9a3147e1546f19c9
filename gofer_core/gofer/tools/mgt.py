"""``gofer mgt``: the commands of ``gofer agent`` as flags, by which gofer 2 had them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from gofer.tools.agent import STATES, answer, connection_options, criteria, place

if TYPE_CHECKING:
    from gofer.agent.management.wire import Request

__all__ = ["mgt"]

#: The options that may go with an action.
_MORE: Mapping[str, tuple[str, ...]] = {"requests": ("states", "plugin", "most"), "cancel_where": ("plugin",)}


@click.command()
@click.option("-s", "--show", is_flag=True, help="Show the agent and its plugins.")
@click.option("-l", "--load", metavar="PATH", help="Load the plugin of a descriptor.")
@click.option("-r", "--reload", metavar="PATH|NAME", help="Reload a plugin: its code and its descriptor.")
@click.option("-u", "--unload", metavar="PATH|NAME", help="Unload a plugin.")
@click.option("--requests", is_flag=True, help="List the requests that the agent has.")
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="With --requests: only this state.")
@click.option("--plugin", metavar="NAME", help="With --requests and --cancel-where: only requests of this plugin.")
@click.option(
    "--most", type=click.IntRange(1, 100_000), metavar="N", help="With --requests: at most N (default: 1000)."
)
@click.option("--cancel", metavar="SN", help="Cancel the request with this serial number, even before it arrives.")
@click.option("--cancel-where", type=criteria, metavar="JSON", help="Cancel the requests whose data match criteria.")
@click.option("--retry", metavar="SN", help="Send an undeliverable result again, or run an interrupted request again.")
@click.option(
    "--drop", metavar="SN", help="Remove an undeliverable or interrupted request, or one of an unloaded plugin."
)
@connection_options
def mgt(*, host: str | None, port: int | None, wait: float, root: str | None, as_json: bool, **asked: Any) -> int:
    """Do what "gofer agent" does, with the flags of gofer 2: one action per command.

    "gofer agent --help" tells who may do this, and how the agent is found.

    \b
    Exit status:
      0    done
      1    the agent could not do it; the message says why
      2    wrong arguments
      3    no answer in time; the agent may still be working on it
      4    no such request
      5    refused: not root, not the agent's user
      6    no agent is running
    """
    return answer(_request(asked), host=host, port=port, wait=wait, root=root, as_json=as_json)


def _request(asked: Mapping[str, Any]) -> Request:
    """Make the request that the options mean."""
    from gofer.agent.management import wire

    actions: Mapping[str, Callable[[Any], Request]] = {
        "show": lambda _: wire.Show(),
        "load": lambda path: wire.Load(place(path)),
        "reload": lambda which: wire.Reload(place(which)),
        "unload": lambda which: wire.Unload(place(which)),
        "requests": lambda _: wire.Requests(asked["plugin"], asked["states"] or None, asked["most"] or 1000),
        "cancel": wire.Cancel,
        "cancel_where": lambda where: wire.Cancel(None, where, asked["plugin"]),
        "retry": wire.Retry,
        "drop": wire.Drop,
    }
    wanted = [name for name in actions if asked[name] not in (None, False)]
    if len(wanted) != 1:
        known = ", ".join(f"--{name.replace('_', '-')}" for name in actions)
        raise click.UsageError(f"choose exactly one action: {known}")
    (name,) = wanted
    for option in ("states", "plugin", "most"):
        if asked[option] and option not in _MORE.get(name, ()):
            raise click.UsageError(f"--{option.removesuffix('s')} does not go with --{name.replace('_', '-')}")
    if asked[name] == "":
        raise click.UsageError(f"--{name} is empty")
    return actions[name](asked[name])
