"""The direct model: a method runs within the agent's process."""

from __future__ import annotations

from typing import Any

from gofer.messaging.document import Invocation
from gofer.rmi.api import Target

__all__ = ["call"]


def call(target: Target, asked: Invocation) -> Any:
    """Run a method on a new instance of its class, or a function, and return its value (``async def``: a coroutine).

    What it raises goes through; wrong arguments are Python's own TypeError.
    """
    args = asked.args or ()
    keywords = asked.keywords
    if target.cls is None:
        return target.function(*args, **keywords)
    if asked.cntr is None:
        instance = target.cls()
    else:
        positional, named = asked.cntr
        instance = target.cls(*(positional or ()), **(named or {}))
    # What was found when the plugin was loaded, bound: nothing from the wire is looked up in the instance.
    return target.member.__get__(instance, target.cls)(*args, **keywords)
