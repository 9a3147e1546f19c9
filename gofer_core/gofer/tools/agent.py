"""``gofer agent``: look at an agent of this machine, and tell it what to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import reduce
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gofer.errors import ConfigError
from gofer.tools.arguments import duration, json_value
from gofer.tools.output import complain, harmless, print_json, print_table, text_of

if TYPE_CHECKING:
    from gofer.agent.management.wire import Request

__all__ = ["STATES", "agent", "answer", "connection_options", "criteria", "place"]

F = TypeVar("F", bound=Callable[..., Any])

STATES = ("waiting", "running", "overdue", "answering", "undeliverable", "interrupted")

_FAILED, _USAGE, _NO_ANSWER, _NOT_FOUND, _REFUSED, _NO_AGENT = range(1, 7)
_STATUSES = {"refused": _REFUSED, "not-found": _NOT_FOUND, "malformed": _USAGE}
_CONNECTION = (
    click.option("-h", "--host", metavar="HOST", help="Connect by TCP to HOST (default: [management] host)."),
    click.option(
        "-p",
        "--port",
        type=click.IntRange(1, 65535),
        metavar="PORT",
        help="Connect by TCP to PORT (default: [management] port).",
    ),
    click.option(
        "-w", "--wait", type=duration, default=60.0, metavar="TIME", help="Wait for the answer (default: 60s)."
    ),
    click.option("--root", metavar="DIR", help="Use the agent of the root DIR (default: GOFER_ROOT, else /)."),
    click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON."),
)


def connection_options(command: F) -> F:
    """Add the options that say which agent is asked, and how the answer is printed: the last arguments of answer."""
    return reduce(lambda made, option: option(made), reversed(_CONNECTION), command)


def criteria(text: str) -> dict[str, Any]:
    """Read criteria for the data of requests: a JSON object."""
    found = json_value(text)
    if not isinstance(found, dict):
        raise click.BadParameter(f"{text[:100]!r} is not a JSON object")
    return found


def place(text: str) -> str:
    """Make a path whole: the agent has another working directory. A plugin's name stays as it is."""
    if not text:
        raise click.BadParameter("is empty; allowed: a plugin's name, or the path of a descriptor")
    is_path = "/" in text or (text.endswith((".conf", ".json")) and os.path.lexists(text))
    return os.path.abspath(text) if is_path else text


def answer(
    request: Request, *, host: str | None, port: int | None, wait: float, root: str | None, as_json: bool
) -> int:
    """Ask the agent, and print what it answers. Returns the exit status; see ``gofer agent --help`` for them."""
    from gofer.agent.management.wire import Unusable
    from gofer.root import Root
    from gofer.tools.agent_client import NoAgent, NoAnswer, ask

    command = click.get_current_context().command_path
    try:
        value = ask(Root.from_environ(os.environ, root), request, host=host, port=port, wait=wait)
    except (Unusable, NoAnswer, NoAgent, ConfigError) as error:
        complain(command, error)
        if isinstance(error, Unusable):
            return _STATUSES.get(error.code, _FAILED)
        return {NoAnswer: _NO_ANSWER, NoAgent: _NO_AGENT}.get(type(error), _USAGE)
    if as_json:
        print_json(value)
    else:
        _print(command, request, value)
    return 0


@click.group()
def agent() -> None:
    """Show the agent of this machine, load and unload its plugins, list and cancel its requests.

    Only root and the agent's user may do this. The commands use the agent's Unix socket, or TCP if [management] in
    agent.conf enables it. A PATH that does not exist here is searched among the agent's descriptors. What "gofer
    agent" changes lasts until goferd restarts.

    \b
    Exit status of each command:
      0    done
      1    the agent could not do it; the message says why
      2    wrong arguments
      3    no answer in time; the agent may still be working on it
      4    no such request
      5    refused: not root, not the agent's user
      6    no agent is running
    """


@agent.command()
@connection_options
def show(**how: Any) -> int:
    """Show the agent and its plugins."""
    from gofer.agent.management.wire import Show

    return answer(Show(), **how)


@agent.command()
@click.argument("path", type=place)
@connection_options
def load(path: str, **how: Any) -> int:
    """Load the plugin of the descriptor PATH."""
    from gofer.agent.management.wire import Load

    return answer(Load(path), **how)


@agent.command()
@click.argument("plugin", type=place)
@connection_options
def reload(plugin: str, **how: Any) -> int:
    """Reload PLUGIN, a name or a descriptor's path: its code and its descriptor."""
    from gofer.agent.management.wire import Reload

    return answer(Reload(plugin), **how)


@agent.command()
@click.argument("plugin", type=place)
@connection_options
def unload(plugin: str, **how: Any) -> int:
    """Unload PLUGIN, a name or a descriptor's path."""
    from gofer.agent.management.wire import Unload

    return answer(Unload(plugin), **how)


@agent.command()
@click.option("--state", "states", multiple=True, type=click.Choice(STATES), help="Only requests in this state.")
@click.option("--plugin", metavar="NAME", help="Only requests of this plugin.")
@click.option("--most", type=click.IntRange(1, 100_000), default=1000, metavar="N", help="At most N (default: 1000).")
@connection_options
def requests(states: tuple[str, ...], plugin: str | None, most: int, **how: Any) -> int:
    """List the requests that the agent has accepted and not finished."""
    from gofer.agent.management.wire import Requests

    return answer(Requests(plugin, states or None, most), **how)


@agent.command()
@click.argument("sn", required=False)
@click.option("--where", type=criteria, metavar="JSON", help="Cancel the requests whose data match criteria.")
@click.option("--plugin", metavar="NAME", help="With --where: only requests of this plugin.")
@connection_options
def cancel(sn: str | None, where: dict[str, Any] | None, plugin: str | None, **how: Any) -> int:
    """Cancel the request with the serial number SN, even before it arrives; or several by their data."""
    from gofer.agent.management.wire import Cancel

    if (sn is None) == (where is None) or (plugin and where is None):
        raise click.UsageError("give SN, or --where JSON with or without --plugin NAME")
    return answer(Cancel(sn, where, plugin), **how)


@agent.command()
@click.argument("sn")
@connection_options
def retry(sn: str, **how: Any) -> int:
    """Send an undeliverable result again, or run an interrupted request again: that with the serial number SN."""
    from gofer.agent.management.wire import Retry

    return answer(Retry(sn), **how)


@agent.command()
@click.argument("sn")
@connection_options
def drop(sn: str, **how: Any) -> int:
    """Remove the request SN: an undeliverable or interrupted one, or one of an unloaded plugin."""
    from gofer.agent.management.wire import Drop

    return answer(Drop(sn), **how)


def _print(command: str, request: Request, value: Any) -> None:
    from gofer.agent.management.wire import Cancel, Load, Reload, Requests, Show

    if isinstance(request, Show):
        from gofer.tools.agent_tree import print_agent

        print_agent(value)
    elif isinstance(request, Load | Reload):
        source = " ".join(filter(None, (value["distribution"], value["version"])))
        print(f"{value['name']}: {value['state']}{f' ({source})' if source else ''}")
    elif isinstance(request, Requests):
        _print_requests(command, value)
    elif isinstance(request, Cancel):
        for sn in value:
            print(harmless(sn))
        if not value and request.sn is not None:
            complain(command, "no such request is here; if it comes within a day, it is cancelled then")


def _print_requests(command: str, value: Mapping[str, Any]) -> None:
    rows = [
        [
            one["sn"] or "-",
            one["plugin"],
            one["state"],
            one["target"],
            datetime.fromtimestamp(one["since"], UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            f"{one['seconds']:.1f}",
            one["identity"] or one["replyto"] or "-",
            "(large)" if one["data_left_out"] else _short(one["data"]),
            one["reason"] or "",
        ]
        for one in value["entries"]
    ]
    if rows:
        # Much of it came over the wire: a terminal would obey what it says, and lines would break.
        cells = [[harmless(" ".join(cell.split())) for cell in row] for row in rows]
        print_table(["SN", "PLUGIN", "STATE", "METHOD", "SINCE", "SECONDS", "CALLER", "DATA", "REASON"], cells)
    if value["unavailable"]:
        complain(command, f"what the ledger holds is not listed: {value['unavailable']}")
    if value["total"] > len(rows):
        complain(command, f"{len(rows)} of {value['total']} are listed; --most lists more")


def _short(value: Any) -> str:
    if value is None:
        return ""
    text = text_of(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
