"""``gofer agent``, and ``gofer mgt``: look at an agent of this machine, and tell it what to do."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from inspect import cleandoc
from typing import Any

import click

from gofer.errors import ConfigError
from gofer.tools.arguments import duration, json_value
from gofer.tools.output import complain, harmless, print_json, print_table, text_of

__all__ = ["agent", "mgt"]

_STATES = ("waiting", "running", "overdue", "answering", "undeliverable", "interrupted")
_FAILED, _USAGE, _NO_ANSWER, _NOT_FOUND, _REFUSED, _NO_AGENT = range(1, 7)
_STATUSES = {"refused": _REFUSED, "not-found": _NOT_FOUND, "malformed": _USAGE}


def _criteria(text: str) -> dict[str, Any]:
    found = json_value(text)
    if not isinstance(found, dict):
        raise click.BadParameter(f"{text[:100]!r} is not a JSON object")
    return found


def _place(text: str) -> str:
    """Make a path whole: the agent has another working directory. A plugin's name stays as it is."""
    if not text:  # an unset variable of a shell
        raise click.BadParameter("it is empty; allowed: a plugin's name, or the path of its descriptor")
    is_path = "/" in text or (text.endswith((".conf", ".json")) and os.path.lexists(text))
    return os.path.abspath(text) if is_path else text


_PORT = click.IntRange(1, 65535)
_CONNECTION: Sequence[click.Parameter] = (
    click.Option(["-h", "--host"], metavar="HOST", help="Connect on TCP to HOST (default: [management] host)."),
    click.Option(
        ["-p", "--port"], type=_PORT, metavar="PORT", help="Connect on TCP to PORT (default: [management] port)."
    ),
    click.Option(["-w", "--wait"], type=duration, default=60.0, metavar="TIME", help="Wait for the answer (60s)."),
    click.Option(["--root"], metavar="DIR", help="Use the agent under the root DIR (default: GOFER_ROOT, else /)."),
    click.Option(["--json", "as_json"], is_flag=True, help="Print the answer as JSON."),
)
_HOW = ("host", "port", "wait", "root", "as_json")
_STATE = click.Option(["--state", "states"], multiple=True, type=click.Choice(_STATES), help="List only this state.")
_MOST = click.Option(["--most"], type=click.IntRange(1, 100_000), metavar="N", help="List at most N (default: 1000).")
_PLUGIN = click.Option(["--plugin"], metavar="NAME", help="List or cancel only requests of this plugin.")
_WHERE = click.Option(["--where", "criteria"], type=_criteria, metavar="JSON", help="Cancel those whose data match.")

#: By command: what it does, and the fields of its request.
_COMMANDS: Mapping[str, tuple[str, Sequence[click.Parameter]]] = {
    "show": ("Show the agent and its plugins.", ()),
    "load": ("Load the plugin of a descriptor.", [click.Argument(["path"], type=_place)]),
    "reload": (
        "Reload a plugin: its code and its descriptor.",
        [click.Argument(["which"], type=_place, metavar="PATH|NAME")],
    ),
    "unload": ("Unload a plugin.", [click.Argument(["which"], type=_place, metavar="PATH|NAME")]),
    "requests": ("List the requests that the agent has.", [_STATE, _PLUGIN, _MOST]),
    "cancel": (
        "Cancel the request with this serial number, even before it arrives; or those whose data match criteria.",
        [click.Argument(["sn"], required=False), _WHERE, _PLUGIN],
    ),
    "retry": ("Send an undeliverable result again, or run an interrupted request again.", [click.Argument(["sn"])]),
    "drop": (
        "Remove an undeliverable or interrupted request, or one of an unloaded plugin.",
        [click.Argument(["sn"])],
    ),
}


def _made(do: str) -> click.Command:
    def run(**given: Any) -> int:
        how = {name: given.pop(name) for name in _HOW}
        return _answer({"do": do, **{name: value for name, value in given.items() if value not in (None, ())}}, **how)

    text, parameters = _COMMANDS[do]
    return click.Command(do, callback=run, params=[*parameters, *_CONNECTION], help=text)


@click.group()
def agent() -> None:
    """Show the agent of this machine, load and unload its plugins, list and cancel its requests.

    Only root and the agent's user may do this. The command uses the agent's Unix socket, or TCP if [management] in
    agent.conf enables it. A PATH that does not exist here is searched among the agent's descriptors. A change lasts
    until goferd restarts; then the descriptors count again.

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


for _do in _COMMANDS:
    agent.add_command(_made(_do))


_SHORT = {"show": "-s", "load": "-l", "reload": "-r", "unload": "-u"}
_NONE, _WHICH, _SN = {"is_flag": True}, {"metavar": "PATH|NAME", "type": _place}, {"metavar": "SN"}
#: By flag of gofer mgt: the request, the field of the flag's value, the options that may go with it, and how it reads.
_FLAGS: Mapping[str, tuple[str, str | None, Sequence[str], Mapping[str, Any]]] = {
    "show": ("show", None, (), _NONE),
    "load": ("load", "path", (), {"metavar": "PATH", "type": _place}),
    "reload": ("reload", "which", (), _WHICH),
    "unload": ("unload", "which", (), _WHICH),
    "requests": ("requests", None, ("states", "plugin", "most"), _NONE),
    "cancel": ("cancel", "sn", (), _SN),
    "cancel-where": ("cancel", "criteria", ("plugin",), {"metavar": "JSON", "type": _criteria}),
    "retry": ("retry", "sn", (), _SN),
    "drop": ("drop", "sn", (), _SN),
}


def _run_mgt(**asked: Any) -> int:
    """Make the request that the flags mean, and have it answered."""
    how = {name: asked.pop(name) for name in _HOW}
    given = {name: asked.pop(name.replace("-", "_")) for name in _FLAGS}
    wanted = [name for name in _FLAGS if given[name] not in (None, False)]
    if len(wanted) != 1:
        raise click.UsageError(f"choose exactly one action: {', '.join(f'--{name}' for name in _FLAGS)}")
    (name,) = wanted
    do, field, fits, _ = _FLAGS[name]
    more = {option: value for option, value in asked.items() if value}
    for option in more:
        if option not in fits:
            raise click.UsageError(f"--{option.removesuffix('s')} does not go with --{name}")
    if given[name] == "":
        raise click.UsageError(f"--{name} is empty")
    return _answer({"do": do, **({} if field is None else {field: given[name]}), **more}, **how)


def _flag(name: str) -> click.Option:
    text = "Cancel the requests whose data match criteria." if name == "cancel-where" else _COMMANDS[name][0]
    text = text.replace("; or those whose data match criteria", "")
    return click.Option([*filter(None, [_SHORT.get(name)]), f"--{name}"], help=text, **_FLAGS[name][3])


mgt = click.Command(
    "mgt",
    callback=_run_mgt,
    params=[*map(_flag, _FLAGS), _STATE, _PLUGIN, _MOST, *_CONNECTION],
    help=cleandoc(f'Do what "gofer agent" does, by the flags of gofer 2: one action per command.\n\n    {agent.help}'),
)


def _answer(
    request: Mapping[str, Any], *, host: str | None, port: int | None, wait: float, root: str | None, as_json: bool
) -> int:
    """Ask the agent, and print what it answers. Returns the exit status."""
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


def _print(command: str, request: Mapping[str, Any], value: Any) -> None:
    what = request["do"]
    if what == "show":
        from gofer.tools.agent_tree import print_agent

        print_agent(value)
    elif what in ("load", "reload"):
        source = " ".join(filter(None, (value["distribution"], value["version"])))
        print(f"{value['name']}: {value['state']}{f' ({source})' if source else ''}")
    elif what == "requests":
        _print_requests(command, value)
    elif what == "cancel":
        for sn in value:
            print(harmless(sn))
        if not value and "sn" in request:
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
        complain(command, f"the requests in the ledger are not listed: {value['unavailable']}")
    if value["total"] > len(rows):
        complain(command, f"{len(rows)} of {value['total']} are listed; --most lists more")


def _short(value: Any) -> str:
    if value is None:
        return ""
    text = text_of(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
