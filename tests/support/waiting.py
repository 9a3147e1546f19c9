"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eventually"]

_T = TypeVar("_T")


def eventually(look: Callable[[], _T], timeout: float = 40.0, what: str | Callable[[], str] = "") -> _T:
    """Look again and again until it returns something true, and return that; fail after ``timeout`` seconds.

    ``what``: what the failure says; a function is asked then, not now. A look that takes long is taken less often: what
    it waits for needs the processor, too.
    """
    deadline = time.monotonic() + timeout
    pause = 0.001
    while True:
        begun = time.monotonic()
        if found := look():
            return found
        now = time.monotonic()
        if now > deadline:
            raise AssertionError(f"not within {timeout:g} s: {(what() if callable(what) else what) or look}")
        time.sleep(max(pause, 2 * (now - begun)))
        pause = min(0.01, 1.5 * pause)
