"""A goferd with plugins of all states, and one who manages it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gofer.proxy import Agent
from gofer.root import Root
from gofer.tools.agent_client import ask

from support.commands import gofer
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.plugins import describe, install
from support.presence import until_it_answers

__all__ = ["Site", "managed"]

KENNEL = """
    import os
    import time
    from gofer.agent.plugin import Plugin
    from gofer.agent.rmi import Context
    from gofer.decorators import action, fork, once, remote, user

    swept = []

    class Dog:
        '''Barks.'''

        def __init__(self, name: str = "Rover") -> None:
            self.name = name

        @remote
        def bark(self, words: str, times: int = 1) -> str:
            '''Bark some words.

            Many times.
            '''
            return " ".join([words] * times)

        @remote
        def stay(self):
            while not Context.current().cancelled():
                time.sleep(0.005)

        @remote(secret="bone")
        @fork
        @user(name="root")
        def fetch(self): ...

    class Broom:
        @action(seconds=0.05)
        def sweep(self):
            swept.append(Plugin.find(__name__).name)
            if len(swept) > 3:
                raise OSError("worn out")

    @remote
    def version():
        return 1

    @action
    def once_at_start():
        open(os.environ["GOFER_ROOT"] + "/started", "a").write("started" + chr(10))

    @action(cron="0 4 * * *")
    def nightly(): ...
"""


class Site:
    """A goferd with plugins of all states, its broker, and one who manages it."""

    def __init__(self, top: Path) -> None:
        self.root = top / "root"
        self.packages = top / "site"
        self.packages.mkdir(parents=True)
        self.broker = LocalBroker(str(top / "broker.sock"))
        self.goferd = AgentProcess(self.root, path=(self.packages,))
        self.plugin("kennel", KENNEL, more="[main]\nthreads=2\n")
        install(self.packages, "broken", "raise RuntimeError('no such luck')")
        describe(self.root, "broken")
        install(self.packages, "resting", "")
        describe(self.root, "resting", "[main]\nenabled=0\n")

    def plugin(self, name: str, code: str, more: str = "", **how: Any) -> Path:
        install(self.packages, name, code, **how)
        main = "[main]\nenabled=1\n" + more.removeprefix("[main]\n")
        return describe(self.root, name, f"{main}[messaging]\nurl={self.broker.url}\n[model]\nqueue={name}\n")

    def ask(self, do: str, **fields: Any) -> Any:
        return ask(Root(self.root), {"do": do, **fields}, host=None, port=None, wait=30)

    def shown(self, name: str) -> dict[str, Any]:
        found = {plugin["name"]: plugin for plugin in self.ask("show")["plugins"]}
        plugin = found[name]
        assert isinstance(plugin, dict)
        return plugin

    def mgt(self, *arguments: str, status: int = 0) -> str:
        done = gofer("mgt", *arguments, environ={"GOFER_ROOT": str(self.root)})
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    def caller(self, queue: str = "kennel") -> Agent:
        return Agent(self.broker.url, queue, wait=20)


@contextmanager
def managed(top: Path) -> Iterator[Site]:
    """Run one below a directory."""
    top.chmod(0o755)
    site = Site(top)
    with site.broker, site.goferd:
        site.goferd.start()
        with site.caller() as agent:
            until_it_answers(agent, site.goferd.tail())
        yield site
