"""A plugin that is reloaded and unloaded while it is called a thousand times: for a broker of any kind."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gofer.aio import Agent as AsyncAgent
from gofer.errors import GoferError, NotFound, Rejected
from gofer.proxy import Agent
from gofer.root import Root
from gofer.tools.agent_client import ask

from support.goferd import AgentProcess
from support.plugins import describe, install
from support.presence import until_it_answers

__all__ = ["Storm", "manage"]

CALLS = 1000
RELOADS = 20
FLYING = 200  # calls at least that have not ended when something is changed
CODE = """
import asyncio, os, time
from gofer.agent.rmi import Context
from gofer.decorators import remote

VERSION = {version}

def note():
    with open({trace!r}, "a") as file:
        file.write(Context.current().sn + "\\n")

class Dog:
    @remote
    def bark(self, number):
        note()
        time.sleep(0.015)
        return [number, VERSION]

    @remote
    async def howl(self, number):
        note()
        await asyncio.sleep(0.02)
        return [number, VERSION]
"""


def manage(root: Path, **request: Any) -> Any:
    """Ask goferd to do something, as ``gofer mgt`` does."""
    return ask(Root(root), request, host=None, port=None, wait=60.0)


@dataclass
class Storm:
    """What became of the calls: by their numbers, what each has returned or raised."""

    root: Path
    site: Path
    url: str
    outcomes: dict[int, Any] = field(default_factory=dict)
    versions: list[int] = field(default_factory=list)

    @property
    def trace(self) -> Path:
        return self.site / "trace"

    def write(self, version: int) -> None:
        new = self.site / "new"
        new.write_text(CODE.format(version=version, trace=str(self.trace)))
        new.replace(self.site / "dog_module.py")

    def run(self) -> None:
        """Call a thousand times at once; as some end, load new code, again and again; then unload it."""
        install(self.site, "dog", "")
        self.write(0)
        describe(
            self.root,
            "dog",
            f"[main]\nenabled=1\nthreads=8\n[messaging]\nurl={self.url}\n[model]\nqueue=dog\nprefetch=40\n",
        )
        with AgentProcess(self.root, path=(self.site,)) as goferd, Agent(self.url, "dog", wait=20) as agent:
            goferd.start()
            until_it_answers(agent, goferd.tail())
            asyncio.run(self._run())

    async def _run(self) -> None:
        async with AsyncAgent(self.url, "dog", wait=60) as agent:
            calls = [asyncio.create_task(self._call(agent, number)) for number in range(CALLS)]

            async def go_on() -> None:
                """Wait until some calls have ended."""
                wanted = len(self.outcomes) + 5
                async with asyncio.timeout(15):
                    while len(self.outcomes) < wanted:  # noqa: ASYNC110 - hundreds of tasks set it
                        await asyncio.sleep(0.005)

            async def refill() -> None:
                """Make more calls while new code is checked, and the old one answers."""
                while True:
                    while len(calls) - len(self.outcomes) < FLYING:
                        calls.append(asyncio.create_task(self._call(agent, len(calls))))
                    await asyncio.sleep(0.005)

            refilling = asyncio.create_task(refill())
            for version in range(1, RELOADS + 1):
                await go_on()
                self.write(version)
                await asyncio.to_thread(manage, self.root, do="reload", which="dog")
            await go_on()
            refilling.cancel()
            await asyncio.to_thread(manage, self.root, do="unload", which="dog")
            await asyncio.wait_for(asyncio.gather(*calls), 60)

    async def _call(self, agent: AsyncAgent, number: int) -> None:
        dog = agent.Dog()
        method = dog.howl if number % 10 == 0 else dog.bark
        try:
            outcome: Any = await method(number)
            self.versions.append(outcome[1])
        except GoferError as raised:
            outcome = raised
        assert number not in self.outcomes
        self.outcomes[number] = outcome

    def check(self) -> None:
        """Each call has one outcome; each that returned has run once, and no other has; the code was new each time."""
        assert sorted(self.outcomes) == list(range(len(self.outcomes)))
        assert len(self.outcomes) >= CALLS
        values = [one for one in self.outcomes.values() if isinstance(one, list)]
        refused = [one for one in self.outcomes.values() if not isinstance(one, list)]
        assert {number for number, _ in values} == {n for n, one in self.outcomes.items() if isinstance(one, list)}
        ran = Counter(self.trace.read_text().split())
        assert set(ran.values()) == {1}
        assert len(ran) == len(values)
        assert values
        assert refused
        assert {type(one) for one in refused} <= {Rejected, NotFound}
        assert {one.code for one in refused if isinstance(one, Rejected)} <= {"plugin.unloaded"}
        assert set(self.versions) == set(range(RELOADS + 1))
        assert self.versions[-1] == RELOADS
