"""A plugin whose methods end their agent, or run for as long as they may; and looks into that agent's ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gofer.proxy import Agent

from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.probe import PROBE, descriptor
from support.waiting import eventually

__all__ = ["DANGER", "counted_in", "died", "ledger_of", "open_in", "restarted", "served", "there"]

DANGER = (
    PROBE
    + """
from gofer.decorators import once


def leave(path, text):
    with open(path, "a") as file:
        file.write(text + chr(10))
        file.flush()


class Danger:
    @remote
    def die(self, path):
        leave(path, "die")
        os._exit(9)

    @remote
    def kill(self, path):
        leave(path, "kill")
        os.kill(os.getpid(), 9)

    @remote
    @once
    def reboot(self, path):
        leave(path, "reboot")
        os._exit(9)

    @remote
    @once
    def single(self, path, seconds=0):
        leave(path, "single")
        time.sleep(seconds)
        return "once"

    @remote
    def sized(self, path, text):
        leave(path, str(len(text)))

    @remote
    def counted(self, path, count: int):
        leave(path, str(count))

    @remote
    def stay(self, path, text):
        leave(path, text)
        while not Context.current().cancelled():
            time.sleep(0.005)
"""
)


@contextmanager
def served(
    broker: LocalBroker, root: Path, queue: str, *, threads: int = 1, wrapper: tuple[str, ...] = ()
) -> Iterator[tuple[AgentProcess, Agent]]:
    """Yield an agent with the dangerous plugin, and a caller."""
    with AgentProcess(root, wrapper=wrapper) as process:
        process.configure("[messaging]\nreconnect_max = 1\n")
        process.plugin("danger", DANGER, descriptor(broker.url, queue, threads=threads))
        process.start()
        with Agent(broker.url, queue, wait=60) as agent:
            eventually(lambda: there(agent), what=process.tail())
            yield process, agent


def there(agent: Agent) -> bool:
    """Tell whether the agent answers yet."""
    try:
        return bool(agent(wait=2).Admin().hello())
    except (LookupError, TimeoutError):
        return False


def ledger_of(process: AgentProcess) -> Path:
    """Return the file of an agent's ledger."""
    return process.root / "var/lib/gofer/ledger/ledger.db"


def died(process: AgentProcess, timeout: float = 40.0) -> None:
    """Wait until an agent has ended by itself."""
    assert process.process is not None
    process.process.wait(timeout)


def restarted(process: AgentProcess) -> None:
    """Start an agent that has died; it may die of what it runs before it is ready."""
    try:
        process.start()
    except RuntimeError:
        assert process.process is not None
        assert process.process.poll() == 9, process.tail()  # which is what these methods end it with


def open_in(process: AgentProcess) -> int:
    """How many requests whose results were not taken stand in the ledger; none while it is being made."""
    return counted_in(process, "state IN ('queued', 'running', 'answering')")


def counted_in(process: AgentProcess, where: str) -> int:
    """How many requests of a kind stand in the ledger; none while it is being made."""
    if not ledger_of(process).exists():
        return 0
    file = sqlite3.connect(ledger_of(process))
    try:
        if not file.execute("PRAGMA user_version").fetchone()[0]:
            return 0
        count: int = file.execute(f"SELECT count(*) FROM requests WHERE {where}").fetchone()[0]
    finally:
        file.close()
    return count
