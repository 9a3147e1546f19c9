"""What the helpers of tests start does not outlive the test's process, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from gofer.testing.agents import Guard
from support.waiting import eventually


def run(code: str, *arguments: str) -> list[int]:
    """Run code that kills itself; return the process ids that it has printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    return [int(pid) for pid in done.stdout.split()]


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("group", [False, True])
def test_what_is_guarded_is_killed_and_its_guard_ends(group: bool) -> None:
    code = f"""
import os, subprocess
from gofer.testing.agents import Guard
guard = Guard()
child = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], start_new_session=True, stdout=subprocess.PIPE)
guard.watch(child.pid, group={group})
print(child.pid, guard._process.pid, int(child.stdout.readline()), flush=True)
os.kill(os.getpid(), 9)
"""
    child, guard, grandchild = run(code)
    eventually(lambda: not runs(child) and not runs(guard))
    if group:
        eventually(lambda: not runs(grandchild))
    else:
        assert runs(grandchild)
        os.kill(grandchild, signal.SIGKILL)


def test_released_it_kills_nothing() -> None:
    guard = Guard()
    with subprocess.Popen(["sleep", "60"]) as child:
        guard.watch(child.pid)
        guard.release()
        assert child.poll() is None
        child.kill()


def test_an_agent_is_killed(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from gofer.testing.agents import AgentProcess
with AgentProcess(Path(sys.argv[1])) as agent:
    agent.start()
    print(agent.pid, flush=True)
    os.kill(os.getpid(), 9)
"""
    (pid,) = run(code, str(tmp_path))
    eventually(lambda: not runs(pid))
