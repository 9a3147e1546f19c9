"""Importing the code of plugins, each in a thread of its own: one that hangs holds up only those who need it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gofer.agent.plugin import Plugin

__all__ = ["Imports"]

log = logging.getLogger(__name__)

_PATIENCE = 5.0  # seconds that a plugin's import and @load may take before those behind it go on


@dataclass(slots=True, eq=False)
class _Import:
    """The import of one plugin. All but ``thread`` and ``begun`` is guarded by the condition of the imports."""

    plugin: Plugin
    thread: threading.Thread
    begun: float
    ended: bool = False  # its code has returned, or raised
    late: bool = False  # nobody waits for it any more: its own thread does what is left to do


class Imports:
    """The imports that go on. Whoever loads plugins waits for each a while (``settle``), and then goes on without it.

    What is imported while another plugin is (because that looks for it) is imported by the same thread.
    """

    def __init__(self, patience: float | None = None) -> None:
        """Take the seconds that one may take; None: the usual ones."""
        self.patience = _PATIENCE if patience is None else patience
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
            take: returns the plugin, or None when somebody else has taken it: called once, by one thread at a time.
            work: imports it. Whatever it raises is a fault of gofer's, and logged.
            then: called after that, by the same thread, with the plugin and whether it is late. If it is not, whoever
                loads waits for the return of this, and does what is left to do.
        """
        with self._changed:
            plugin = take()
            if plugin is None:
                return
            here = threading.current_thread()
            inside = any(one.thread is here for one in self._running.values())
            thread = here if inside else threading.Thread(name=f"gofer-{plugin.name}-load", daemon=True)
            one = self._running[plugin] = _Import(plugin, thread, monotonic())
        if inside:
            self._do(one, work, then)
        else:
            thread.run = lambda: self._do(one, work, then)  # type: ignore[method-assign]  # made before its work is known
            thread.start()

    def settle(self, plugin: Plugin) -> bool:
        """Wait until a plugin is imported, as long as it may take. False: it is late, and will finish by itself."""
        with self._changed:
            one = self._running.get(plugin)
            if one is None:
                return True
            left = one.begun + self.patience - monotonic()
            if not self._changed.wait_for(lambda: one.ended or self._stopping, max(0.0, left)) or not one.ended:
                one.late = True
                return False
            self._changed.wait_for(lambda: self._running.get(plugin) is not one)
            return True

    def wait(self, plugin: Plugin) -> None:
        """Wait for one that this thread needs: one that imports as long as it takes, any other no longer than usual.

        If the other waits for this thread, there is no waiting: it is as far as it is.
        """
        here = threading.current_thread()
        with self._changed:
            one = self._running.get(plugin)
            if one is None or self._leads_to(one, here):
                return
            inside = any(other.thread is here for other in self._running.values())
            self._awaited[here] = one
            try:
                left = None if inside else max(0.0, one.begun + self.patience - monotonic())
                self._changed.wait_for(lambda: self._running.get(plugin) is not one, left)
            finally:
                del self._awaited[here]

    def settled(self, plugin: Plugin) -> bool:
        """Tell whether a plugin's code is not running any more that is run to load it."""
        one = self._running.get(plugin)
        return one is None or one.ended

    def stop(self) -> None:
        """Wait for none any more."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def _do(self, one: _Import, work: Callable[[Plugin], None], then: Callable[[Plugin, bool], None]) -> None:
        try:
            work(one.plugin)
        except BaseException:
            log.exception("plugin %s: loading it has failed", one.plugin.name)
        try:
            with self._changed:
                one.ended = True
                late = one.late
                self._changed.notify_all()
            then(one.plugin, late)
        except BaseException:
            log.exception("plugin %s: loading it has failed", one.plugin.name)
        finally:
            with self._changed:
                del self._running[one.plugin]
                self._changed.notify_all()

    def _leads_to(self, one: _Import, thread: threading.Thread) -> bool:
        """Tell whether the end of an import has to wait for what a thread does."""
        seen: set[threading.Thread] = set()
        while one.thread not in seen:
            if one.thread is thread:
                return True
            seen.add(one.thread)
            if one.thread not in self._awaited:
                return False
            one = self._awaited[one.thread]
        return False
