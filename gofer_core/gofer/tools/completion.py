"""``gofer completion``: completion for shells; and what completes the values of ``gofer rmi``'s options."""

from __future__ import annotations

import click

from gofer.errors import GoferError
from gofer.tools.connecting import connector_of

__all__ = ["COMPLETE", "authenticator_names", "completion", "profile_names", "targets"]

#: The variable that a shell sets for ``gofer`` to answer with what may stand there.
COMPLETE = "_GOFER_COMPLETE"

_PATIENCE = 2.0  # seconds that a person who has pressed Tab waits for an agent


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    It completes commands and options; for `gofer rmi -t` the classes and methods that the agent at -a has: it asks the
    agent; and for `gofer fleet` names, groups, methods and runs that are remembered.

    \b
    Put this into the file that your shell reads at its start:
      bash   ~/.bashrc                    eval "$(gofer completion bash)"
      zsh    ~/.zshrc                     eval "$(gofer completion zsh)"
      fish   ~/.config/fish/config.fish   gofer completion fish | source
    """
    from click.shell_completion import add_completion_class, get_completion_class

    from gofer.tools.bash_completion import Bash

    add_completion_class(Bash)
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click has these three
    click.echo(kind(context.find_root().command, {}, "gofer", COMPLETE).source())


def targets(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return what can be called at the agent that the options before name; nothing when it does not answer."""
    from gofer.messaging.caller_conf import profile
    from gofer.proxy import Agent

    how = context.params
    try:
        settings = profile(how.get("profile_name"))
        at = how.get("address") or settings.get("address")
        if at is None:
            return []
        authenticator = how.get("authenticator") or settings.get("authenticator")
        with Agent(connector_of(how, settings), at, wait=_PATIENCE, authenticator=authenticator) as agent:
            found = agent.Admin().describe()
    except (GoferError, OSError, TypeError, ValueError):
        return []  # whoever presses Tab wants no error in the line
    names = [f"Admin.{name}" for name in ("cancel", "describe", "echo", "hello", "help")]
    for plugin in found["plugins"]:
        names += [f"{one['name']}.{method['name']}" for one in plugin["classes"] for method in one["methods"]]
        names += [f"{plugin['plugin']}.{function['name']}" for function in plugin["functions"]]
    return sorted(name for name in names if name.startswith(incomplete))


def profile_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the profiles of callers."""
    from gofer.messaging.caller_conf import profiles

    try:
        return [name for name in profiles() if name.startswith(incomplete)]
    except GoferError:
        return []


def authenticator_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the authenticators that are installed."""
    from gofer.entry_points import listed

    return [one.name for one in listed("gofer.authenticators") if one.name.startswith(incomplete)]
