"""A barrier before the hooks that decide about calls: it is closed, and nobody is behind it, when these hooks go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import Any

from gofer.errors import NotAuthorized

__all__ = ["Barrier"]


class Barrier:
    """Counts the calls that hooks decide about at the moment. Any thread.

    While it is closed such a call waits for its hooks, and is refused when that takes too long.
    """

    def __init__(self) -> None:
        """Be open."""
        self._changed = threading.Condition()
        self._closed = False
        self._passing: frozenset[str] = frozenset()
        self._inside = 0

    def close(self, passing: Collection[str], timeout: float) -> bool:
        """Close it, and wait until nobody is inside; tell whether so.

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

    def call(
        self, hook: Callable[..., Any], name: str, invoke: Callable[[], Any], wait: float, **arguments: Any
    ) -> Any:
        """Call the hook gofer_call for a plugin's method.

        Args:
            name: the plugin's.
            wait: seconds that it may wait for the barrier to open.

        Raises:
            NotAuthorized: that was not enough.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: not self._closed or name in self._passing, wait):
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
            return hook(invoke=decided, **arguments)
        finally:
            leave()
