"""The three standard streams: of a process that was started without some of them, and one that takes no more."""

from __future__ import annotations

import errno
import os
import sys

__all__ = ["UNWRITABLE", "give_up_output", "open_missing"]

#: What standard output fails with: its reader has gone away, or its file cannot take more.
UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


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


def give_up_output(program: str, error: OSError) -> int:
    """Write no more to standard output, which has failed with one of ``UNWRITABLE``. Returns the exit status.

    It is 141 without a word if the reader has gone away, like that of a program which SIGPIPE has ended. Otherwise it
    is 74, and standard error says why.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
    if error.errno == errno.EPIPE:
        return 141
    print(f"{program}: cannot write the output: {error.strerror}", file=sys.stderr)
    return 74
