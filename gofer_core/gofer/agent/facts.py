"""What a machine says of itself: its system, its hardware, and what plugins add."""

from __future__ import annotations

import logging
import os
import platform
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gofer.messaging.value import plain
from gofer.rmi.server.hooks import call_each

if TYPE_CHECKING:
    from gofer.rmi.clock import Clock, Timer

__all__ = ["Facts", "own_facts"]

log = logging.getLogger(__name__)


def own_facts() -> dict[str, Any]:
    """Return what gofer itself says of this machine."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:  # none of the files is there
        release = {}
    system = os.uname()
    return {
        "os": {
            "id": release.get("ID"),
            "version": release.get("VERSION_ID"),
            "name": release.get("PRETTY_NAME"),
            "kernel": system.release,
        },
        "host": socket.gethostname(),
        "machine": system.machine,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "uptime": int(time.clock_gettime(time.CLOCK_BOOTTIME)),
    }


class Facts:
    """The machine's facts, looked at again and again by a thread of their own: a plugin's code may take long.

    Args:
        hook: the caller of gofer_facts.
        interval: seconds between two looks.
    """

    def __init__(self, hook: Any, clock: Clock, interval: float) -> None:
        self._hook = hook
        self._clock = clock
        self._interval = interval
        self._own = own_facts()
        self._added: dict[str, Any] = {}
        self._looking: threading.Thread | None = None
        self._timer: Timer | None = None
        self._first: Callable[[], object] = lambda: None

    def start(self, first: Callable[[], object]) -> None:
        """Look, and look again from time to time. ``first`` is called after the first look."""
        self._first = first
        self._tick()

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def current(self) -> dict[str, Any]:
        """Return what is known now."""
        return {**self._added, **self._own}

    def _tick(self) -> None:
        self._timer = self._clock.call_after(self._interval, self._tick)
        if self._looking is not None and self._looking.is_alive():
            log.warning("the facts of the machine are not new: a plugin's gofer_facts has not returned")
            return
        self._looking = threading.Thread(target=self._look, name="gofer-facts", daemon=True)
        self._looking.start()

    def _look(self) -> None:
        self._own = own_facts()
        found, raised = call_each(self._hook.get_hookimpls(), {})
        for one in raised:
            log.error("hook %s failed", one.implementation, exc_info=one.error)
        added: dict[str, Any] = {} if not raised else dict(self._added)
        for facts in found:
            try:
                said = plain(facts, "facts")
                if not isinstance(said, dict):
                    raise TypeError(f"facts are a dict, not {type(said).__name__}")
            except TypeError as wrong:
                log.error("what a hook gofer_facts has returned is not used: %s", wrong)
                continue
            if taken := sorted({*added, *self._own}.intersection(said)):
                log.warning("facts named %s are said twice; the first counts", ", ".join(taken))
            added = {**said, **added}
        self._added = added
        first, self._first = self._first, lambda: None
        first()
