"""A process that gets only a small share of a processor, as a broker does that many need at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["held"]

# A process of its own: a thread of a busy test would come too late to stop it.
_HOLD = """
import os, signal, sys, time
pid, share = int(sys.argv[1]), float(sys.argv[2])
clock = (~pid << 3) | 2  # the processor time of that process
begun, used = time.monotonic(), time.clock_gettime(clock)
while os.getppid() == int(sys.argv[3]):
    spare = (time.monotonic() - begun) * share - (time.clock_gettime(clock) - used)
    os.kill(pid, signal.SIGCONT if spare > 0 else signal.SIGSTOP)
    time.sleep(0.005 if spare > 0 else 0.02)
"""


@contextmanager
def held(pid: int, share: float) -> Iterator[None]:
    """Let a process have so much of one processor inside the ``with`` block, 0 to 1."""
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(pid), str(share), str(os.getpid())])
    try:
        yield
        assert holder.poll() is None, "the process was not held back"
    finally:
        holder.kill()
        holder.wait()
        os.kill(pid, signal.SIGCONT)
