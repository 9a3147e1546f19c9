"""``gofer completion``: completion for shells; and what completes the method of ``gofer rmi``."""

from __future__ import annotations

import os
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from gofer.errors import GoferError
from gofer.tools.connecting import connector_of

__all__ = ["COMPLETE", "completion", "targets"]

#: The variable that a shell sets for ``gofer`` to answer with what may stand there.
COMPLETE = "_GOFER_COMPLETE"

_PATIENCE = 2.0  # seconds that a person who has pressed Tab waits for an agent
_LINE = 'COMP_LINE="${COMP_LINE:0:${COMP_POINT:-0}}" COMP_WORD="${COMP_WORDS[COMP_CWORD]}"'
_NO_SPACE = "[[ $COMPREPLY == *[.=:] ]] && compopt -o nospace 2> /dev/null"  # somebody goes on typing
_BREAKS = frozenset("=:@<>")


@add_completion_class
class _Bash(BashComplete):
    """Completion for bash, which splits a line at ``=``, ``:`` and ``@``, too. Here it is split at spaces.

    Its script gives it the line as it is, and the word that bash is going to replace.
    """

    source_template = BashComplete.source_template.replace("$(env ", f"$(env {_LINE} ").replace(
        "    return 0", f"    {_NO_SPACE}\n    return 0"
    )
    _kept = ""  # what stands before that word, with no space between

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor, and the unfinished one."""
        line, word = os.environ.get("COMP_LINE"), os.environ.get("COMP_WORD", "")
        if not line:
            return super().get_completion_args()
        *words, last = split_arg_string(f"{line}x")  # or a last space would be lost
        incomplete = last[:-1]
        replaced = "" if _BREAKS.issuperset(word) else word
        if word[:1] not in ("'", '"') and incomplete.endswith(replaced):
            self._kept = incomplete.removesuffix(replaced)
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Return an item as the script reads it."""
        item.value = str(item.value).removeprefix(self._kept)
        return super().format_completion(item)


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
    return sorted({name for name in names if name.startswith(incomplete)})
