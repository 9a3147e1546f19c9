"""The fork model: each call in a process of its own, forked by a helper process of its plugin.

The helper is one single-threaded process for each plugin that has such methods; it has imported the plugin's code, and
does nothing but fork. It is started with the first call, and again when it has died. Two pairs of sockets go to it with
each call: over one the agent and the child exchange the call, its progress and its result; over the other the helper
tells the child's number and how it ended, and is told to end it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from gofer.errors import DispatchError, Interrupted, ProcessDied
from gofer.rmi.api import Target
from gofer.rmi.model.forked import ForkedCall
from gofer.rmi.model.process import HelperProcess, end_of
from gofer.rmi.request import Received

__all__ = ["Forks"]

log = logging.getLogger(__name__)


class Forks:
    """Runs methods of one plugin in child processes. Any thread; each call holds the thread that makes it.

    Args:
        name: the plugin's.
        module: what the helper runs, with ``python -m``, and the number of its connection as the only argument.
        greeting: returns the first message to a helper, which says what it is to import.
    """

    def __init__(self, name: str, module: str, greeting: Callable[[], bytes]) -> None:
        self._name = name
        self._module = module
        self._greeting = greeting
        self._starting = threading.Lock()  # held while a helper starts
        self._helper: HelperProcess | None = None
        self._stopped = False

    @property
    def pid(self) -> int | None:
        """The process id of the helper; None when there is none."""
        helper = self._helper
        return None if helper is None else helper.pid

    def call(self, target: Target, request: Received, limit: int) -> Any:
        """Run a method in a child process, and return its value.

        Args:
            limit: the most bytes of its result.

        Raises:
            ProcessDied: the child ended without a result, by a signal or by itself; or its helper did.
            Cancelled: somebody has cancelled the request; the child and its process group were killed.
            DispatchError: there is no helper, or it cannot fork.
            Interrupted: the plugin was stopped meanwhile.
            Exception: what the method raised.
        """
        for attempt in range(2):
            helper = self._started()
            call = ForkedCall(target, request, limit)
            with call:
                if call.run(helper):
                    return call.result()
            # It has died before it forked: nothing was run.
            self._lost(helper)
            if call.begun and self._stopped:
                raise Interrupted(f"{target.name}(): its plugin was stopped while it ran, and its process killed")
            if call.begun or attempt:
                break
        raise ProcessDied(
            f"{target.name}(): the helper process of plugin {self._name!r} has died, and the call with it"
        )

    def stop(self) -> None:
        """Kill what runs, and end the helper; nothing can be called any more. May be repeated."""
        self._stopped = True
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.end()

    def _started(self) -> HelperProcess:
        with self._starting:
            helper = self._helper
            if helper is not None and helper.alive:
                return helper
            if self._stopped:
                raise DispatchError(f"plugin {self._name!r} has been stopped")
            helper = self._helper = HelperProcess(self._name, self._module)
            if self._stopped:  # by another thread, just now
                helper.end()
            try:
                helper.greet(self._greeting())
            except BaseException:
                self._helper = None
                helper.end()
                raise
            return helper

    def _lost(self, helper: HelperProcess) -> None:
        with self._starting:
            if self._helper is helper:
                self._helper = None
        status = helper.end()
        if not self._stopped:
            log.warning("plugin %s: the process that forks its calls has died: %s", self._name, end_of(status))
