"""The three standard streams of a process that was started without some of them."""

from __future__ import annotations

import os
import sys

__all__ = ["open_missing"]


def open_missing() -> None:
    """Open ``/dev/null`` for each of standard input, output and error that is closed.

    Otherwise the next file or socket gets its number, and what anybody prints goes into that. To be called first.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the rest of the process, as Python's own
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - see above
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115 - see above
