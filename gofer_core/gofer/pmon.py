"""Watching files for changes, for a plugin's own code::

monitor = PathMonitor()
monitor.add("/etc/pki/consumer/cert.pem", certificate_changed)
monitor.start()
"""

from __future__ import annotations

import contextvars
import logging
import os
import threading
from collections.abc import Callable

from gofer.agent.plugin import current
from gofer.agent.states import State

__all__ = ["PathMonitor"]

log = logging.getLogger(__name__)

Changed = Callable[[str], object]
_Seen = tuple[int, ...] | None


class PathMonitor:
    """Calls a function with the path of a file, or directory, that has changed, has come or has gone. Any thread.

    It looks again and again, in a thread of its own. ``Plugin.find`` works in the functions if the plugin's code has
    started it; it ends with that plugin, when that is unloaded or loaded again. A function that raises is logged, and
    called again at the next change.

    Args:
        interval: seconds between two looks.
    """

    def __init__(self, interval: float = 1.0) -> None:
        self._interval = interval
        self._lock = threading.Lock()
        self._watched: dict[tuple[str, Changed], _Seen] = {}
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def add(self, path: str | os.PathLike[str], changed: Changed) -> None:
        """Call ``changed(path)`` from the next change on."""
        name = os.fspath(path)
        with self._lock:
            self._watched[name, changed] = _look(name)

    def delete(self, path: str | os.PathLike[str]) -> None:
        """Watch a path no longer."""
        name = os.fspath(path)
        with self._lock:
            self._watched = {key: seen for key, seen in self._watched.items() if key[0] != name}

    def start(self) -> None:
        """Begin to look. Idempotent; not after ``abort``."""
        with self._lock:
            if self._thread is None and not self._ended.is_set():
                context = contextvars.copy_context()
                self._thread = threading.Thread(target=context.run, args=(self._run,), name="gofer-pmon", daemon=True)
                self._thread.start()

    def check(self) -> None:
        """Look once, and call what is to be called, in this thread."""
        for path, changed in self._changes():
            try:
                changed(path)
            except Exception:
                log.exception("%s has changed, and %r has failed", path, changed)

    def abort(self) -> None:
        """Look no more. A function that runs is not waited for. Idempotent."""
        self._ended.set()

    stop = abort

    def join(self, timeout: float | None = None) -> bool:
        """Wait until it has ended after ``abort``, at most ``timeout`` seconds; tell whether it has."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return thread is None
        thread.join(timeout)
        return not thread.is_alive()

    def _changes(self) -> list[tuple[str, Changed]]:
        with self._lock:
            now = {key: _look(key[0]) for key in self._watched}
            found = [key for key, seen in self._watched.items() if now[key] != seen]
            self._watched.update(now)
        return found

    def _run(self) -> None:
        plugin = current()
        while not self._ended.wait(self._interval):
            if plugin is not None and plugin.state in (State.STOPPED, State.QUARANTINED):
                log.debug("plugin %s: its file watches end with it", plugin.name)
                return
            self.check()


def _look(path: str) -> _Seen:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev, found.st_mode
