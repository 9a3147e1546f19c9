"""Measure a fleet: a RabbitMQ of its own, emulated agents with a connection each, and a caller. Three processes.

``PYTHONPATH=tests python bench/fleet.py [-n 10000]``. Prints a table in markdown, as
bench/README.md and docs/fleet.md keep it, and ends with status 1 if anything was lost or a limit was passed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any

from support.brokers.rabbitmq import RabbitMQ

#: What docs/fleet.md says to set, of that which a trial on one machine needs.
CONFIG = """
classic_queue.default_version = 2
heartbeat = 60
tcp_listen_options.backlog = 4096
handshake_timeout = 120000
"""
JITTER = 3.0
#: What 10,000 may take, on two cores: seconds, shares and MB.
LIMITS = {
    "up": 60.0,
    "discovered": 6.0,
    "persistent": 12.0,
    "transient": 8.0,
    "99 % back": 40.0,
    "all back": 60.0,
    "worst second": 20.0,
    "emulator MB": 250.0,
    "caller MB": 60.0,
}
#: What each measure is called in the table, and its unit.
ROWS = {
    "up": ("all agents are up", "s"),
    "discovered": (f"all are discovered (jitter {JITTER:g} s)", "s"),
    "persistent": ("each was called once, durable queues", "s"),
    "transient": ("each was called once, queues that are not durable", "s"),
    "99 % back": ("99 % are back after the broker's restart", "s"),
    "all back": ("all are back", "s"),
    "worst second": ("of them in the worst second", "%"),
    "emulator MB": ("the emulator's memory", "MB"),
    "caller MB": ("the caller's memory", "MB"),
    "broker KiB": ("the broker's memory for each agent", "KiB"),
    "emulator CPU": ("processor time of the emulator", "s"),
    "caller CPU": ("processor time of the caller", "s"),
    "broker CPU": ("processor time of the broker, until its restart", "s"),
}


class Broker(RabbitMQ):
    """One with ten thousand connections takes its time."""

    start_timeout = stop_timeout = 600.0


class Child:
    """A process of fleet_roles.py: it takes commands, a line each, and answers each with a line of JSON."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fleet_roles.py")), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, command: str) -> dict[str, Any]:
        """Return what it answers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # it has said on stderr why
            self.process.stdin.write(f"{command}\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        print(f"{command}: {line[:100].strip()}", file=sys.stderr, flush=True)  # it takes minutes
        if not line:
            raise SystemExit(f"bench/fleet.py: the process for {self.process.args!r} ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Have it end in order."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()


@contextmanager
def child(*arguments: str) -> Iterator[Child]:
    """Run one inside the ``with`` block."""
    found = Child(*arguments)
    try:
        yield found
        found.end()
    finally:
        found.process.kill()


def worst_second(seen: Sequence[tuple[float, int]]) -> int:
    """Return how many came back in the worst second."""
    most, first = 0, 0
    for when, up in seen:
        while when - seen[first][0] > 1.0:
            first += 1
        most = max(most, up - seen[first][1])
    return most


def usage(pid: int) -> tuple[float, float]:
    """Return a process's memory in KiB, and its processor time in seconds."""
    status = Path(f"/proc/{pid}/status").read_text()
    memory = next(float(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return memory, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(count: int, home: Path) -> tuple[dict[str, float], list[str]]:
    """Return all measures, and what was lost."""
    found: dict[str, float] = {}
    lost: list[str] = []

    def call(who: Child, machines: Child, name: str) -> None:
        before = machines.ask("runs")["runs"]
        called = who.ask("call")
        found[name] = called["seconds"]
        after = machines.ask("runs")
        if called["counts"] != {"value": count} or after["runs"] - before != count or after["twice"]:
            lost.append(f"{name}: {called['counts']} {called['examples']}, of {count}; runs: {after}")

    with Broker(home / "rabbitmq", config=CONFIG) as broker:
        idle, url = usage(broker.pid)[0], broker.url()
        machines_of, caller_of = ("agents", url, f"--count={count}"), ("caller", url, f"--jitter={JITTER}")
        with child(*machines_of) as machines, child(*caller_of, f"--directory={home}/a") as who:
            found["up"] = machines.ask("start")["seconds"]
            found["broker KiB"] = (usage(broker.pid)[0] - idle) / count
            asked = who.ask("ask")
            found["discovered"] = asked["seconds"]
            if asked["found"] != count:
                lost.append(f"discovered: {asked}")
            call(who, machines, "persistent")
            found["broker CPU"] = usage(broker.pid)[1]
            broker.restart()
            serves = monotonic()
            seen = machines.ask("back")["seen"]
            if seen[-1][1] < count:
                lost.append(f"back: {seen[-1][1]} of {count}")
            found["99 % back"] = next((at for at, up in seen if up >= 0.99 * count), seen[-1][0]) - serves
            found["all back"] = seen[-1][0] - serves
            found["worst second"] = 100 * worst_second(seen) / count
            call(who, machines, "after the restart")
            last, mine = machines.ask("runs"), who.ask("usage")
            found |= {"emulator MB": last["MB"], "emulator CPU": last["CPU"]}
            found |= {"caller MB": mine["MB"], "caller CPU": mine["CPU"]}
    with Broker(home / "another", config=CONFIG) as broker:
        machines_of, caller_of = ("agents", broker.url(), f"--count={count}"), ("caller", broker.url(), caller_of[2])
        with child(*machines_of, "--transient") as machines, child(*caller_of, f"--directory={home}/b") as who:
            machines.ask("start")
            who.ask("ask")
            call(who, machines, "transient")
    return found, lost


def main() -> int:
    """Run all measures and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", dest="count", type=int, default=10_000, help="agents (default: 10000)")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the broker's, too
    if hard < (wanted := 2 * options.count + 1000):
        print(f"{wanted} open files are wanted, {hard} allowed: ulimit -n", file=sys.stderr)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="gofer-bench-") as home:
        found, lost = measure(options.count, Path(home))
    print(f"\n{options.count} agents, {os.cpu_count()} cores\n\n| measure | | allowed for 10,000 |\n|---|---|---|")
    passed = []
    for name, (text, unit) in ROWS.items():
        limit = LIMITS.get(name)
        print(f"| {text} | {found[name]:.1f} {unit} | {'' if limit is None else f'{limit:g} {unit}'} |")
        if limit is not None and found[name] > limit:
            passed.append(name)
    print(*(f"lost: {one}" for one in lost), *(f"over its limit: {one}" for one in passed), sep="\n")
    return 1 if lost or passed else 0


if __name__ == "__main__":
    sys.exit(main())
