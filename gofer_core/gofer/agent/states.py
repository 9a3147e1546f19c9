"""The states of a plugin, and which may follow which."""

from __future__ import annotations

import enum
from types import MappingProxyType

__all__ = ["NEXT", "State"]


class State(enum.Enum):
    """What a plugin does at the moment."""

    DISABLED = "disabled"  # described, and not switched on
    LOADING = "loading"
    RUNNING = "running"
    RELOADING = "reloading"  # its requests wait for its new code
    QUARANTINED = "quarantined"  # its code failed; ``Plugin.error`` and ``trace`` tell how
    STOPPED = "stopped"


#: Which states may follow each.
NEXT = MappingProxyType(
    {
        State.DISABLED: (),
        State.LOADING: (State.RUNNING, State.QUARANTINED, State.STOPPED),
        State.RUNNING: (State.RELOADING, State.QUARANTINED, State.STOPPED),
        State.RELOADING: (State.RUNNING, State.QUARANTINED, State.STOPPED),
        State.QUARANTINED: (State.STOPPED,),
        State.STOPPED: (),
    }
)
