"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["eventually"]

_T = TypeVar("_T")


def eventually(look: Callable[[], _T], timeout: float = 40.0, what: str | Callable[[], str] = "") -> _T:
    """Look again and again until it returns something true, and return that; fail after ``timeout`` seconds.

    ``what``: what the failure says; a function is asked then, not now.
    """
    deadline = time.monotonic() + timeout
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {(what() if callable(what) else what) or look}")
        time.sleep(0.01)
    return found
