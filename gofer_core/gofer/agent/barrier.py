"""The hooks that requests go through, and a barrier before those that decide about calls.

It is closed, and no call is behind it, when the hooks of a required plugin go: nobody gets past an authorizer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from gofer.errors import NotAuthorized

if TYPE_CHECKING:
    from gofer.agent.plugin import Plugin
    from gofer.rmi.request import Received

__all__ = ["RequestHooks"]


class RequestHooks:
    """The hooks of an agent's requests. Any thread.

    Once ``guard`` was called, the calls that hooks decide about are counted; while the barrier is closed such a call
    waits for its hooks, and is refused when that takes too long.

    Args:
        hook: the hook caller of the agent's pluggy.PluginManager.
        timeout: seconds that a call waits.
    """

    def __init__(self, hook: Any, timeout: Callable[[], float]) -> None:
        self.gofer_accept = hook.gofer_accept
        self.gofer_call = self._decide = hook.gofer_call
        self.gofer_finished = hook.gofer_finished
        self.gofer_route = hook.gofer_route
        self._timeout = timeout
        self._changed = threading.Condition()
        self._closed = False
        self._passing: frozenset[str] = frozenset()
        self._inside = 0

    def guard(self) -> None:
        """Have calls pass the barrier from now on."""
        self.gofer_call = self._call

    def close(self, passing: Collection[str], timeout: float) -> bool:
        """Close the barrier, and wait until no call is inside; tell whether so.

        Args:
            passing: the names of plugins whose calls go on: their hooks stay until these have ended.
            timeout: seconds to wait.
        """
        with self._changed:
            self._closed, self._passing = True, frozenset(passing)
            return self._changed.wait_for(lambda: not self._inside, timeout)

    def open(self) -> None:
        """Open it again."""
        with self._changed:
            self._closed, self._passing = False, frozenset()
            self._changed.notify_all()

    def _call(self, plugin: Plugin, request: Received, invoke: Callable[[], Any]) -> Any:
        # What answers Admin must not wait.
        wait = 0.0 if request.for_admin else self._timeout()
        with self._changed:
            if not self._changed.wait_for(lambda: not self._closed or plugin.name in self._passing, wait):
                raise NotAuthorized("not run: a plugin that is required for all calls does not run")
            self._inside += 1
        inside = True

        def leave() -> None:
            nonlocal inside
            with self._changed:
                if inside:
                    inside = False
                    self._inside -= 1
                    self._changed.notify_all()

        def decided() -> Any:
            leave()
            return invoke()

        try:
            return self._decide(plugin=plugin, request=request, invoke=decided)
        finally:
            leave()
