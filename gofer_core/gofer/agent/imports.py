"""The imports of plugins' code, each in a thread of its own: one that hangs holds up only those who need it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic

from msgspec import Struct

from gofer.agent.plugin import Plugin

__all__ = ["PATIENCE", "Imports"]

log = logging.getLogger(__name__)

#: Seconds that a plugin's import and @load may take before those behind it go on.
PATIENCE = 5.0


class _Import(Struct, eq=False):
    """One import in progress. ``done``: it has ended, or failed. ``late``: the loader no longer waits for it."""

    thread: threading.Thread
    since: float
    done: bool = False
    late: bool = False


class Imports:
    """The imports of one container. Any thread.

    Args:
        plugins: those of the agent, by name. Each is in it from its import on.
    """

    def __init__(self, plugins: dict[str, Plugin]) -> None:
        self._plugins = plugins
        #: Plugins whose loading has not begun, by name.
        self.pending: dict[str, Plugin] = {}
        self.patience = PATIENCE
        self.stopping = False
        self._changed = threading.Condition()
        self._going: dict[Plugin, _Import] = {}
        self._awaited: dict[threading.Thread, Plugin] = {}

    def begin(self, name: str, work: Callable[[Plugin], object]) -> None:
        """Have one that is pending imported, unless another plugin has asked for it meanwhile.

        One that another plugin looks for while that is imported is imported by the same thread.

        Args:
            work: imports it, and calls ``done``.
        """
        here = threading.current_thread()
        with self._changed:
            plugin = self.pending.pop(name, None)
            if plugin is None:
                return
            self._plugins[name] = plugin
            if not plugin.enabled:
                return
            inside = self._imports(here)
            thread = here
            if not inside:
                thread = threading.Thread(target=self._run, args=(plugin, work), name=f"gofer-{name}-load", daemon=True)
            self._going[plugin] = _Import(thread, monotonic())
        if inside:
            self._run(plugin, work)
        else:
            thread.start()

    def _run(self, plugin: Plugin, work: Callable[[Plugin], object]) -> None:
        try:
            work(plugin)
        except BaseException:
            log.exception("plugin %s: loading it has failed", plugin.name)
        finally:
            with self._changed:
                del self._going[plugin]
                self._changed.notify_all()

    def done(self, plugin: Plugin) -> bool:
        """Note that a plugin's import has ended, or failed; tell whether the loader no longer waits for it."""
        with self._changed:
            one = self._going[plugin]
            one.done = True
            self._changed.notify_all()
            return one.late

    def is_settled(self, plugin: Plugin) -> bool:
        """Tell whether the import of a plugin has ended, or it has none."""
        one = self._going.get(plugin)
        return one is None or one.done

    def settle(self, plugin: Plugin, patience: float, *, anyway: bool) -> bool:
        """Wait until a plugin is imported. False: it takes too long, and will finish by itself.

        Args:
            patience: seconds from its beginning on.
            anyway: also when all is to stop.
        """
        with self._changed:
            one = self._going.get(plugin)
            if one is None:
                return True
            left = max(0.0, one.since + patience - monotonic())
            self._changed.wait_for(lambda: self.is_settled(plugin) or (self.stopping and not anyway), left)
            one.late = not self.is_settled(plugin)
            return not one.late and self._changed.wait_for(lambda: plugin not in self._going)

    def wait(self, plugin: Plugin) -> None:
        """Wait for a plugin that this thread needs, unless that plugin's import waits for this thread.

        An import waits without a limit, any other thread for ``patience`` seconds.
        """
        here = threading.current_thread()
        with self._changed:
            one = self._going.get(plugin)
            if one is None or self._waits_for(one.thread, here):
                return
            left = None if self._imports(here) else max(0.0, one.since + self.patience - monotonic())
            self._awaited[here] = plugin
            # A late one that is imported waits for its turn to be finished: it may be the turn of this thread.
            self._changed.wait_for(lambda: plugin not in self._going or (one.late and one.done), left)
            del self._awaited[here]

    def stop(self) -> None:
        """Wait for no import any more."""
        with self._changed:
            self.stopping = True
            self._changed.notify_all()

    def _imports(self, thread: threading.Thread) -> bool:
        return any(one.thread is thread for one in self._going.values())

    def _waits_for(self, thread: threading.Thread, other: threading.Thread) -> bool:
        """Tell whether a thread waits, directly or by way of others, for what another one does."""
        seen: set[threading.Thread] = set()
        while thread is not other and thread not in seen and thread in self._awaited:
            seen.add(thread)
            one = self._going.get(self._awaited[thread])
            thread = thread if one is None else one.thread
        return thread is other
