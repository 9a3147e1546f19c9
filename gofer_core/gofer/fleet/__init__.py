"""Many machines at once: who is there, and one method called on all that are meant.

The documented names stand here. Each is imported when it is asked for: to complete a line needs few of them.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gofer.fleet.blocking import BlockingFleet, BlockingRun
    from gofer.fleet.discovery import Found
    from gofer.fleet.fleet import Fleet, Plan, Selection
    from gofer.fleet.members import Member, read_members
    from gofer.fleet.run import Outcome, Run, Summary
    from gofer.fleet.watch import Watch
    from gofer.fleet.waves import Waves

__all__ = [
    "BlockingFleet", "BlockingRun", "Fleet", "Found", "Member", "Outcome", "Plan", "Run", "Selection", "Summary",
    "Watch", "Waves", "read_members",
]  # fmt: skip

_HOMES = MappingProxyType(
    {
        "BlockingFleet": "blocking",
        "BlockingRun": "blocking",
        "Fleet": "fleet",
        "Found": "discovery",
        "Member": "members",
        "Outcome": "run",
        "Plan": "fleet",
        "Run": "run",
        "Selection": "fleet",
        "Summary": "run",
        "Watch": "watch",
        "Waves": "waves",
        "read_members": "members",
    }
)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"gofer.fleet.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
