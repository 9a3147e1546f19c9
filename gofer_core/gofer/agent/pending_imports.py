"""Imports of plugins in progress, each in a thread of its own: one that hangs holds up only those who need it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gofer.agent.plugin import Plugin

__all__ = ["PendingImports"]

log = logging.getLogger(__name__)

_PATIENCE = 5.0  # seconds that a plugin's import and @load may take before those behind it go on


@dataclass(slots=True, eq=False)
class _Import:
    """The import of one plugin. All but ``thread`` and ``begun`` is guarded by the condition of the imports."""

    thread: threading.Thread
    begun: float
    ended: bool = False  # its code has returned, or raised
    late: bool = False  # nothing waits for it any more: its own thread does what is left to do


class PendingImports:
    """Imports in progress; the loader waits up to 5 s for each (``settle``), and then goes on without it.

    A plugin that another one looks for while it is imported is imported by the same thread.
    """

    def __init__(self, patience: float = _PATIENCE) -> None:
        """Take the seconds that one may take."""
        self.patience = patience
        self._changed = threading.Condition()
        self._running: dict[Plugin, _Import] = {}
        self._awaited: dict[threading.Thread, _Import] = {}
        self._stopping = False

    def begin(
        self,
        take: Callable[[], Plugin | None],
        work: Callable[[Plugin], None],
        then: Callable[[Plugin, bool], None],
    ) -> None:
        """Begin to import a plugin; in this thread, and to its end, if this one imports another at the moment.

        Args:
            take: returns the plugin, or None when another thread has taken it: called by one thread at a time.
            work: imports it. It must not raise.
            then: called after that, by the same thread, with the plugin and whether it is late. If it is not, the
                loader waits for the return of this, and does what is left to do.
        """
        with self._changed:
            plugin = take()
            if plugin is None:
                return
            here = threading.current_thread()
            inside = any(one.thread is here for one in self._running.values())
            thread = here
            if not inside:
                name = f"gofer-{plugin.name}-load"
                thread = threading.Thread(target=self._do, args=(plugin, work, then), name=name, daemon=True)
            self._running[plugin] = _Import(thread, monotonic())
        if inside:
            self._do(plugin, work, then)
        else:
            thread.start()

    def settle(self, plugin: Plugin, patience: float | None = None) -> bool:
        """Wait until a plugin is imported, as long as it may take. False: it is late, and will finish by itself."""
        with self._changed:
            one = self._running.get(plugin)
            if one is None:
                return True
            left = one.begun + (self.patience if patience is None else patience) - monotonic()
            self._changed.wait_for(lambda: one.ended or self._stopping, max(0.0, left))
            if not one.ended:
                one.late = True
                return False
            self._changed.wait_for(lambda: plugin not in self._running)
            return True

    def wait(self, plugin: Plugin) -> None:
        """Wait for one that this thread needs: one that imports as long as it takes, any other no longer than usual.

        If the other waits for this thread, there is no waiting: it is as far as it is.
        """
        here = threading.current_thread()
        with self._changed:
            one = self._running.get(plugin)
            if one is None or self._waits_for(one, here):
                return
            inside = any(other.thread is here for other in self._running.values())
            self._awaited[here] = one
            try:
                left = None if inside else max(0.0, one.begun + self.patience - monotonic())
                self._changed.wait_for(lambda: plugin not in self._running, left)
            finally:
                del self._awaited[here]

    def settled(self, plugin: Plugin) -> bool:
        """Tell whether no code of a plugin runs any more that is run to load it."""
        one = self._running.get(plugin)
        return one is None or one.ended

    def stop(self) -> None:
        """Wait for none any more."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _do(self, plugin: Plugin, work: Callable[[Plugin], None], then: Callable[[Plugin, bool], None]) -> None:
        try:
            work(plugin)
            with self._changed:
                one = self._running[plugin]
                one.ended = True
                self._changed.notify_all()
            then(plugin, one.late)
        except BaseException:
            log.exception("plugin %s: loading it has failed", plugin.name)
        finally:
            with self._changed:
                self._running.pop(plugin).ended = True
                self._changed.notify_all()

    def _waits_for(self, one: _Import, thread: threading.Thread) -> bool:
        """Tell whether the end of an import has to wait for what a thread does."""
        seen: set[threading.Thread] = set()
        while one.thread is not thread:
            if one.thread in seen or one.thread not in self._awaited:
                return False
            seen.add(one.thread)
            one = self._awaited[one.thread]
        return True
