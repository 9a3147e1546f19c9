"""``gofer mgt``: look at an agent of this machine, and tell it what to do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from gofer.errors import ConfigError
from gofer.tools.arguments import duration, json_value
from gofer.tools.output import complain, harmless, print_json, print_table, text_of

__all__ = ["mgt"]

_FAILED, _USAGE, _NO_ANSWER, _NOT_FOUND, _REFUSED, _NO_AGENT = range(1, 7)
_STATUSES = {"refused": _REFUSED, "not-found": _NOT_FOUND, "malformed": _USAGE}
_STATES = ("waiting", "running", "overdue", "answering", "undeliverable", "interrupted")


def _criteria(text: str) -> dict[str, Any]:
    found = json_value(text)
    if not isinstance(found, dict):
        raise click.BadParameter(f"{text[:100]!r} is not a JSON object")
    return found


@click.command()
@click.option("-h", "--host", metavar="HOST", help="Connect by TCP to HOST (default: [management] host).")
@click.option(
    "-p",
    "--port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Connect by TCP to PORT (default: [management] port).",
)
@click.option("-s", "--show", is_flag=True, help="Show the agent and its plugins.")
@click.option("-l", "--load", metavar="PATH", help="Load the plugin of a descriptor.")
@click.option("-r", "--reload", metavar="PATH|NAME", help="Reload a plugin: its code and its descriptor.")
@click.option("-u", "--unload", metavar="PATH|NAME", help="Unload a plugin.")
@click.option("--requests", is_flag=True, help="List the requests that the agent has.")
@click.option("--state", "states", multiple=True, type=click.Choice(_STATES), help="With --requests: only this state.")
@click.option("--plugin", metavar="NAME", help="With --requests and --cancel-where: only requests of this plugin.")
@click.option(
    "--most", type=click.IntRange(1, 100_000), metavar="N", help="With --requests: at most N (default: 1000)."
)
@click.option("--cancel", metavar="SN", help="Cancel the request with this serial number, even before it arrives.")
@click.option("--cancel-where", type=_criteria, metavar="JSON", help="Cancel the requests whose data match criteria.")
@click.option("--retry", metavar="SN", help="Send an undeliverable result again, or run an interrupted request again.")
@click.option(
    "--drop", metavar="SN", help="Remove an undeliverable or interrupted request, or one of an unloaded plugin."
)
@click.option("-w", "--wait", type=duration, default=60.0, metavar="TIME", help="Wait for the answer (default: 60s).")
@click.option("--root", metavar="DIR", help="Use the agent of the root DIR (default: GOFER_ROOT, else /).")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def mgt(*, host: str | None, port: int | None, root: str | None, wait: float, as_json: bool, **asked: Any) -> int:
    """Show the agent of this machine, load and unload its plugins, cancel requests: one action per command.

    Only root and the agent's user may do this. The command uses the agent's Unix socket, or TCP if [management] in
    agent.conf enables it. A PATH that does not exist here is searched among the agent's descriptors.

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
    from gofer.agent.management.wire import Unusable
    from gofer.root import Root
    from gofer.tools.mgt_client import NoAgent, NoAnswer, ask

    request = _request(asked)
    try:
        place = Root.from_environ(os.environ, root)
        value = ask(place, request, host=host, port=port, wait=wait)
    except Unusable as refused:
        complain("gofer mgt", refused)
        return _STATUSES.get(refused.code, _FAILED)
    except NoAnswer as late:
        complain("gofer mgt", late)
        return _NO_ANSWER
    except NoAgent as gone:
        complain("gofer mgt", gone)
        return _NO_AGENT
    except ConfigError as wrong:
        complain("gofer mgt", wrong)
        return _USAGE
    if as_json:
        print_json(value)
    else:
        _print(request, value)
    return 0


def _request(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Make the request that the options mean."""
    wanted = [name for name in _KNOWN if asked[name] not in (None, False)]
    if len(wanted) != 1:
        known = ", ".join(f"--{name.replace('_', '-')}" for name in _KNOWN)
        raise click.UsageError(f"choose exactly one action: {known}")
    (name,) = wanted
    fits = {"requests": ("states", "plugin", "most"), "cancel_where": ("plugin",)}.get(name, ())
    for option in ("states", "plugin", "most"):
        if asked[option] and option not in fits:
            raise click.UsageError(f"--{option.removesuffix('s')} does not go with --{name.replace('_', '-')}")
    given = asked[name]
    if given == "":
        raise click.UsageError(f"--{name} is empty")
    more = {option: asked[option] for option in fits if asked[option]}
    operation, argument = _KNOWN[name]
    if argument in ("path", "which"):
        given = _place(given)
    fields = {} if argument is None else {argument: given}
    return {"do": operation, **fields, **{key: list(one) if key == "states" else one for key, one in more.items()}}


_KNOWN: Mapping[str, tuple[str, str | None]] = {
    "show": ("show", None),
    "load": ("load", "path"),
    "reload": ("reload", "which"),
    "unload": ("unload", "which"),
    "requests": ("requests", None),
    "cancel": ("cancel", "sn"),
    "cancel_where": ("cancel", "criteria"),
    "retry": ("retry", "sn"),
    "drop": ("drop", "sn"),
}


def _place(text: str) -> str:
    """Make a path whole: the agent has another working directory. A plugin's name stays as it is."""
    is_path = "/" in text or (text.endswith((".conf", ".json")) and os.path.lexists(text))
    return os.path.abspath(text) if is_path else text


def _print(request: Mapping[str, Any], value: Any) -> None:
    what = request["do"]
    if what == "show":
        from gofer.tools.mgt_tree import print_agent

        print_agent(value)
    elif what in ("load", "reload"):
        source = " ".join(filter(None, (value["distribution"], value["version"])))
        print(f"{value['name']}: {value['state']}{f' ({source})' if source else ''}")
    elif what == "requests":
        _print_requests(value)
    elif what == "cancel":
        for sn in value:
            print(harmless(sn))
        if not value and "sn" in request:
            complain("gofer mgt", "no such request is here; if it comes within a day, it is cancelled then")


def _print_requests(value: Mapping[str, Any]) -> None:
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
        complain("gofer mgt", f"what the ledger holds is not listed: {value['unavailable']}")
    if value["total"] > len(rows):
        complain("gofer mgt", f"{len(rows)} of {value['total']} are listed; --most lists more")


def _short(value: Any) -> str:
    if value is None:
        return ""
    text = text_of(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
