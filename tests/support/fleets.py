"""A small fleet: two machines with a plugin, the command that calls them, and what it has written down."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
from gofer.fleet import Outcome
from gofer.fleet.discovery import discover
from gofer.messaging.connector import Connector
from gofer.targets import Targets

from support import forkserver
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.waiting import eventually

__all__ = ["DESCRIPTOR", "DOGS", "gofer", "kinds", "machines", "names", "sent", "started", "watches"]

# `gofer`, which does not wait half a second for machines that it does not know once all that it knows have answered.
_GOFER = """
import sys
from gofer.fleet import discovery
from gofer.tools.main import main
discovery._QUIET = 0.05
sys.exit(main())
"""
DOGS = """
import os
import time

from gofer import errors
from gofer.decorators import destructive, remote
from gofer.hooks import hookimpl


class Dog:
    @remote
    def bark(self, n):
        return "w" * n

    @remote
    def fail(self, error="ValueError", given=("no",)):
        raise getattr(errors, error, ValueError)(*given)

    @remote
    def sleep(self, until):
        while not os.path.exists(until):
            time.sleep(0.005)
        return "awake"

    @remote
    @destructive
    def forget(self, *, fail: bool = False) -> str:
        \"\"\"Forget all tricks.

        They have to be learnt again.
        \"\"\"
        if fail:
            raise ValueError("no")
        return "forgotten"


@hookimpl
def gofer_facts():
    return {"kennel": {"dogs": 3}, "os": "is gofer's own"}
"""
DESCRIPTOR = "[main]\nenabled=1\n[messaging]\nurl={url}\n[model]\nqueue={queue}\n"


@contextmanager
def machines(broker: LocalBroker, top: Path) -> Iterator[list[AgentProcess]]:
    """Run two machines, ``web-0`` and ``web-1``, in the groups ``web`` and ``g0`` or ``g1``, at ``kennel-0`` and -1."""
    agents = [AgentProcess(top / f"m{n}") for n in range(2)]
    try:
        for n, agent in enumerate(agents):
            conf = f"[fleet]\nenabled=1\nname=web-{n}\ngroups=web,g{n}\n"
            (agent.root / "etc/gofer/agent.conf").write_text(conf)
            agent.plugin("dogs", DOGS, DESCRIPTOR.format(url=broker.url, queue=f"kennel-{n}"))
            agent.start()
        eventually(lambda: len(names(broker)) == 2)
        yield agents
    finally:
        for agent in agents:
            agent.__exit__(None, None, None)


def names(broker: LocalBroker, targets: str = "all", **how: Any) -> list[str]:
    """Return the names of the machines that answer, until none has for half a second."""
    how = {"wait": 10, "jitter": 0.0, "expected": (), **how}
    found = asyncio.run(discover(Connector.of(broker.url), Targets(targets), **how))
    return sorted(card.name for card in found.cards.values())


def gofer(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``gofer fleet`` to its end."""
    return forkserver.run(_command(*arguments), input=stdin, text=True, timeout=120)


def started(*arguments: str) -> subprocess.Popen[str]:
    """Start ``gofer fleet``."""
    return forkserver.Popen(_command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", _GOFER, "fleet", *arguments]


def watches(command: subprocess.Popen[str], state: Path) -> bool:
    """Tell whether a command has opened the record of runs."""
    return any(file.path == str(state / "runs.db") for file in psutil.Process(command.pid).open_files())


def kinds(outcomes: Iterable[Outcome]) -> dict[str, str]:
    """Return the outcomes' kinds by the machines' names."""
    return {one.name: one.kind for one in outcomes}


def sent(state: Path) -> int:
    """Count the machines of the latest run to which a request was sent."""
    try:
        with closing(sqlite3.connect(f"file:{state}/runs.db?mode=ro", uri=True)) as file:
            latest = "SELECT count(*) FROM targets WHERE sent IS NOT NULL AND run = (SELECT max(number) FROM runs)"
            return int(file.execute(latest).fetchone()[0])
    except sqlite3.Error:
        return 0  # not made yet
