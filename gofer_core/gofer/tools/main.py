"""The ``gofer`` command: one module a subcommand, imported only when it is asked for."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from collections.abc import Sequence
from types import MappingProxyType

import click

from gofer.entry_points import listed, load
from gofer.errors import GoferError, PluginError
from gofer.streams import UNWRITABLE, give_up_output, open_missing
from gofer.suggest import did_you_mean
from gofer.tools.completion import COMPLETE
from gofer.tools.output import complain

__all__ = ["main"]

#: The commands, in the order of the help; the module of each has its name, but for these.
_COMMANDS = (
    "rmi", "describe", "stubs", "agent", "mgt", "can", "fleet", "emulate", "broker", "demo", "plugins", "adapters",
    "authenticators", "certs", "new", "service", "completion",
)  # fmt: skip
_MODULES = MappingProxyType({"mgt": "agent", "plugins": "listing", "adapters": "listing", "authenticators": "listing"})

#: Commands of other distributions: an entry point's name, and a click command.
_GROUP = "gofer.commands"

#: What click says of a command that a group does not have, in all its versions.
_NO_COMMAND = re.compile(r"No such command (['\"])(.*)\1\.", re.DOTALL)

_STATUSES = """\b
Exit status of every command:
  74   the output cannot be written, for example because the disk is full
  130  interrupted
  141  the reader of the output has gone away"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, ``sys.argv`` by default. Returns the exit status: see ``gofer rmi --help``."""
    open_missing()
    if os.environ.get(COMPLETE):
        return _complete(os.environ[COMPLETE])
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a value may hold what the terminal's encoding does not
            stream.reconfigure(errors="backslashreplace")
    context: click.Context | None = None
    try:
        # Not click's own main, which would make 1, "the method raised", of a reader that has gone away.
        with _gofer.make_context("gofer", list(sys.argv[1:] if argv is None else argv)) as context:
            status = _gofer.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as ended:
        status = ended.exit_code
    except click.ClickException as error:
        _complain_of(error, "gofer" if context is None else f"gofer {context.invoked_subcommand}")
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        status = give_up_output("gofer", error)
    except GoferError as error:
        complain("gofer" if context is None else f"gofer {context.invoked_subcommand}", error)
        return 1
    return status if isinstance(status, int) else 0


def _complete(instruction: str) -> int:
    from click.shell_completion import shell_complete

    logging.basicConfig(level=logging.CRITICAL + 1)  # whoever presses Tab wants no warnings in the line
    return shell_complete(_gofer, {}, "gofer", COMPLETE, instruction)


def _complain_of(error: click.ClickException, command: str) -> None:
    text = error.format_message()
    if isinstance(error, click.UsageError) and error.ctx is not None and text == error.ctx.get_help():
        click.echo(text, err=True)  # a group without a command, like gofer fleet
        return
    if isinstance(error, click.NoSuchOption):  # click lists all that are a little like it
        text = f"no option {error.option_name!r}{did_you_mean(error.option_name, error.possibilities or ())}"
    unknown = _NO_COMMAND.match(error.message)
    if unknown is not None and isinstance(error, click.UsageError) and error.ctx is not None:
        group, name = error.ctx.command, unknown[2]
        known = group.list_commands(error.ctx) if isinstance(group, click.Group) else []
        if name not in known:  # else it is broken, which was said
            hint = did_you_mean(name, known) or f"; commands: {', '.join(known)}"
            text = f"no command {name[:100]!r}{hint}"
    if isinstance(error, click.UsageError):
        command = command if error.ctx is None else error.ctx.command_path
        text = f"{text} (see {command} --help)"
    complain(command, text)


class _Lazy(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS, *(one.name for one in listed(_GROUP) if one.name not in _COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _COMMANDS:
            found = getattr(importlib.import_module(f"gofer.tools.{_MODULES.get(cmd_name, cmd_name)}"), cmd_name)
        elif cmd_name in self.list_commands(ctx):
            try:
                found = load(_GROUP, cmd_name)
            except PluginError as broken:  # the other commands are listed, and work
                complain("gofer", broken)
                return None
        else:
            return None
        assert isinstance(found, click.Command)  # noqa: S101 - what the table above, or an entry point, names
        found.epilog = _STATUSES
        return found


@click.group(cls=_Lazy, invoke_without_command=True, epilog=_STATUSES, context_settings={"max_content_width": 100})
@click.version_option(package_name="gofer-core", prog_name="gofer", message="%(prog)s %(version)s")
@click.pass_context
def _gofer(context: click.Context) -> None:
    """Call methods on agents, run the broker for one machine, and list what is installed.

    The agent is a separate command: goferd.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(2)


if __name__ == "__main__":
    sys.exit(main())
