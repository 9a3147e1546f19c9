"""A value that comes later."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Later", "joined"]


class Later:
    """What a method returns whose value comes from another thread. Any thread.

    For the agent's own methods: these are answered by one thread, one after another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._value: Any = None
        self._error: Exception | None = None
        self._hear: Callable[[Any, Exception | None], object] | None = None

    def end(self, value: Any, error: Exception | None = None) -> None:
        """Set the value, or the error; what comes after the first is passed over."""
        with self._lock:
            if self._ended.is_set():
                return
            self._value, self._error = value, error
            self._ended.set()
            hear = self._hear
        if hear is not None:
            hear(value, error)

    def then(self, hear: Callable[[Any, Exception | None], object]) -> None:
        """Have a function called with the value and the error, once: now, or by the thread that sets them."""
        with self._lock:
            self._hear = hear
            ended = self._ended.is_set()
        if ended:
            hear(self._value, self._error)

    def wait(self, timeout: float) -> Any:
        """Wait for the value and return it.

        Raises:
            TimeoutError: it did not come in time. Or whatever it ended by.
        """
        if not self._ended.wait(timeout):
            raise TimeoutError(f"no answer within {timeout:g} s")
        if self._error is not None:
            raise self._error
        return self._value


def joined(parts: Sequence[Later]) -> Later:
    """Return what has one list after the other of several, as soon as all are there; or the first error."""
    whole = Later()
    found: list[Any] = []

    def go_on(left: Sequence[Later]) -> None:
        def hear(value: Any, error: Exception | None) -> None:
            if error is not None:
                whole.end(None, error)
                return
            found.extend(value)
            go_on(left[1:])

        if left:
            left[0].then(hear)
        else:
            whole.end(found)

    go_on(parts)
    return whole
