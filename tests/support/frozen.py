"""A process that stands still."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from support.waiting import eventually

__all__ = ["freeze"]


def freeze(pid: int) -> None:
    """Stop a process (SIGSTOP), and wait until all its threads stand: until then one may go on answering."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: {_state(task) for task in Path(f"/proc/{pid}/task").iterdir()} <= {"T", "t"})


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:  # it has ended
        return "T"
