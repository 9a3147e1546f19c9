"""What the commands of ``gofer fleet`` share: the fleet that their options name, and exit statuses."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from gofer.errors import CallError, ConfigError, MessagingError
from gofer.messaging.caller_conf import profile
from gofer.tools.connecting import connector_of
from gofer.tools.output import complain, harmless

__all__ = ["FAILED", "STOPPED", "machines", "with_fleet"]

#: Exit statuses: some machines are missing or have no value; a run was stopped.
FAILED, STOPPED = 1, 3


def with_fleet(how: dict[str, Any], work: Callable[..., Any], *args: Any, **options: Any) -> int:
    """Do something with the fleet that the options before the command name; return the exit status."""
    from gofer.fleet import Fleet

    async def doing() -> int:
        settings = profile(how["profile_name"])
        authenticator = how["authenticator"] or settings.get("authenticator")
        if authenticator is not None:
            options["authenticator"] = authenticator
        async with Fleet(connector_of(how, settings), **options) as fleet:
            status: int = await work(fleet, *args)
            return status

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


def machines(count: int) -> str:
    """Return ``1 machine``, ``2 machines``."""
    return f"{count} machine{'' if count == 1 else 's'}"
