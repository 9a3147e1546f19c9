"""What the commands of ``gofer fleet`` share: the fleet that their options name, and exit statuses."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from gofer.errors import CallError, ConfigError, MessagingError
from gofer.messaging.caller_conf import profile
from gofer.tools.connecting import connector_of
from gofer.tools.output import complain, harmless

if TYPE_CHECKING:
    from gofer.fleet import Fleet

__all__ = ["FAILED", "STOPPED", "fleet_command", "fleet_words", "with_fleet"]

#: Exit statuses: some machines are missing or have no value; a run was stopped.
FAILED, STOPPED = 1, 3


def fleet_command(name: str) -> Callable[[Callable[..., Awaitable[int]]], click.Command]:
    """Make a command of a coroutine function, which is given the fleet, and returns the exit status."""

    def made(function: Callable[..., Awaitable[int]]) -> click.Command:
        @click.pass_obj
        @functools.wraps(function)
        def run(how: dict[str, Any], /, **given: Any) -> int:
            return with_fleet(how, lambda fleet: function(fleet, **given))

        return click.command(name)(run)

    return made


def fleet_words() -> list[str]:
    """Return how a command begins that is printed: ``gofer fleet``, and the options that were typed for this one."""
    from gofer.messaging.url import URL

    words, context = ["gofer", "fleet"], click.get_current_context().parent
    for option, name in (("-u", "url"), ("--profile", "profile_name"), ("-A", "authenticator")):
        if context is not None and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            value = context.params[name]
            words += [option, str(URL.parse(value)) if name == "url" else value]  # without its password
    return words


def with_fleet(how: dict[str, Any], work: Callable[[Fleet], Awaitable[int]], **options: Any) -> int:
    """Do something with the fleet that the options before the command name; return the exit status.

    Args:
        options: of all calls.
    """
    from gofer.fleet import Fleet

    async def doing() -> int:
        settings = profile(how["profile_name"])
        authenticator = how["authenticator"] or settings.get("authenticator")
        if authenticator is not None:
            options["authenticator"] = authenticator
        async with Fleet(connector_of(how, settings), **options) as fleet:
            return await work(fleet)

    try:
        return asyncio.run(doing())
    except ConfigError as wrong:
        if "\n" in str(wrong):  # it points to a place in an expression
            print(f"gofer fleet: {harmless(str(wrong))}", file=sys.stderr)
        else:
            complain("gofer fleet", wrong)
        return 2
    except MessagingError as failed:
        complain("gofer fleet", failed)
        return 6
    except (CallError, TypeError, ValueError) as wrong:
        complain("gofer fleet", wrong)
        return 2
