"""Callers whose process ends while requests of theirs are on their way, run by any Python that has gofer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.company import connected, declare, linked
from support.echo import EchoAgent
from support.localbroker import LocalBroker
from support.waiting import eventually

__all__ = ["Leaving", "brokers", "daemon_threads_end_silently", "nothing_is_lost_at_the_end"]
__all__ += ["what_was_lost_is_told_at_the_end"]

#: Takes orders by lines: ``["send", url, number, bytes]``, ``["end"]``. Says ``ready`` when it has connections to all,
#: ``sent``, and ``ending`` when the interpreter has begun to end.
_PROGRAM = """
import atexit, json, sys
from gofer.proxy import Agent
agents = {url: Agent(url, "sink", wait=0) for url in sys.argv[1:]}
for agent in agents.values():
    agent(confirm=True).Dog().bark("first")
atexit.register(print, "ending", flush=True)
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    if order == ["end"]:
        break
    for n in range(order[2]):
        agents[order[1]].Dog().bark("x" * order[3])
    print("sent", flush=True)
"""

#: The same for coroutines. Says ``ended`` when the event loop has, and goes on until its input ends.
_ASYNC_PROGRAM = """
import asyncio, atexit, json, sys
from gofer.aio import Agent
async def main():
    agents = {url: Agent(url, "sink", wait=0) for url in sys.argv[1:]}
    for agent in agents.values():
        await agent(confirm=True).Dog().bark("first")
    atexit.register(print, "ending", flush=True)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if order == ["end"]:
            break
        for n in range(order[2]):
            await agents[order[1]].Dog().bark("x" * order[3])
        print("sent", flush=True)
asyncio.run(main())
print("ended", flush=True)
sys.stdin.read()
"""

#: Daemon threads that wait for results, and (``proxy``) others that call again and again, for a moment longer than
#: there is input.
_WAITING_PROGRAM = """
import asyncio, atexit, sys, threading, time
atexit.register(time.sleep, 0.3)  # called last
from gofer import aio, proxy
url, door = sys.argv[1:]
def call():
    with proxy.Agent(url, "sink", wait=300) as agent:
        agent.Dog().bark("x")
async def acall():
    async with aio.Agent(url, "sink", wait=300) as agent:
        await agent.Dog().bark("x")
def repeat():
    with proxy.Agent(url, "echo", wait=300) as agent:
        while True:
            agent.Dog().bark(threading.current_thread().name)
for target in [call, repeat] * 4 if door == "proxy" else [lambda: asyncio.run(acall())] * 4:
    threading.Thread(target=target, daemon=True).start()
sys.stdin.read()
"""


class Leaving:
    """A caller with an agent at ``sink`` of each broker. A context manager: it is killed if it has not ended."""

    def __init__(
        self, *urls: str, python: str = sys.executable, environ: Mapping[str, str] | None = None, door: str = "proxy"
    ) -> None:
        self.door = door
        program = _ASYNC_PROGRAM if door == "aio" else _PROGRAM
        self.process = subprocess.Popen(
            [python, "-c", textwrap.dedent(program), *urls],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ if environ is None else environ,
        )

    def hears(self, word: str) -> None:
        """Wait until it says a word, which must be the next."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        if said != word + "\n":
            _, errors = self.process.communicate(timeout=30)
            raise AssertionError(f"{said!r} and not {word!r}; {errors}")

    def order(self, *words: object) -> None:
        """Have it do something."""
        assert self.process.stdin is not None
        print(json.dumps(words), file=self.process.stdin, flush=True)

    def send(self, url: str, number: int, size: int) -> None:
        """Have it send requests to ``sink``, and wait for nothing."""
        self.order("send", url, number, size)
        self.hears("sent")

    def end(self) -> None:
        """Have it end, and wait until the interpreter does."""
        self.order("end")
        if self.door == "aio":
            self.hears("ended")
            self.close_stdin()
        self.hears("ending")

    def close_stdin(self) -> None:
        """Let it go on to its end after its event loop has."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.stdin = None

    def ended(self) -> tuple[int, str]:
        """Wait for its end; return its exit status and what it said on stderr."""
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors

    def __enter__(self) -> Leaving:
        self.hears("ready")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


@contextmanager
def brokers(folder: Path, *names: str) -> Iterator[list[LocalBroker]]:
    """Run local brokers that have a queue named ``sink``."""
    made = [LocalBroker(str(folder / f"{name}.sock")) for name in names]
    try:
        for one in made:
            one.start()
            with linked(connected(one.url)) as link:
                declare(link, "sink")
        yield made
    finally:
        for one in made:
            one.thaw()
            one.stop()


def nothing_is_lost_at_the_end(folder: Path, **how: str) -> None:
    """Have a process end while brokers take nothing: they get all of it when they go on, be one of them dead or not."""
    with brokers(folder, "slow", "dead") as (slow, dead), Leaving(slow.url, dead.url, **how) as caller:
        slow.freeze()
        dead.freeze()
        caller.send(slow.url, 6, 1_000_000)  # more than a socket takes, less than callers have to wait for
        caller.end()
        slow.thaw()
        status, errors = caller.ended()
        assert (status, errors) == (0, "")
        with EchoAgent(slow.url, "sink") as sink:
            eventually(lambda: len(sink.seen) == 7)


def what_was_lost_is_told_at_the_end(folder: Path, **how: str) -> None:
    """Have a process end that brokers take nothing of: it waits for all of them at once, and says what is lost."""
    with (
        brokers(folder, "one", "two", "three") as dead,
        Leaving(*(one.url for one in dead), **how) as caller,
    ):
        for one in dead:
            one.freeze()
            caller.send(one.url, 2, 300_000)
        caller.end()
        start = time.monotonic()
        _, errors = caller.ended()
        took = time.monotonic() - start
        assert errors.count("no word from the broker") == 6, errors
        assert "Traceback" not in errors
        assert took < 14  # five seconds and a goodbye, and not three times that


def daemon_threads_end_silently(folder: Path, *, python: str = sys.executable, door: str = "proxy") -> None:
    """Have a process end whose daemon threads wait for results, or make calls: nobody hears of these any more."""
    with (
        brokers(folder, "holding") as (broker,),
        EchoAgent(broker.url, "sink", hold=True) as sink,
        EchoAgent(broker.url, "echo") as echo,
    ):
        process = subprocess.Popen(
            [python, "-c", _WAITING_PROGRAM, broker.url, door],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            eventually(lambda: len(sink.seen) == 4)
            called = 4 if door == "proxy" else 0
            eventually(lambda: len({one["request"]["args"][0] for one in list(echo.seen)}) == called)
            assert (process.communicate(timeout=60)[0], process.returncode) == ("", 0)
        finally:
            process.kill()
            process.communicate()
