"""What plugins do when they are loaded and unloaded, in every form that a function may have; a real goferd runs it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.errors import NotFound
from gofer.proxy import Agent
from support.commands import check_goferd
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.waiting import eventually

FORMS = """
    import asyncio
    import json
    import os
    from pathlib import Path

    from gofer.agent.plugin import Plugin
    from gofer.decorators import fork, load, remote, unload

    from . import submodule
    from .other import *

    plugin = Plugin.find(__name__)
    loops = []

    def note(what):
        with open(plugin.cfg.notes.file, "a") as file:
            file.write(json.dumps([what, Plugin.find(__name__).name]) + "\\n")

    @load
    def plain():
        note("load plain")

    @load
    async def waits():
        await asyncio.sleep(0.01)
        loops.append(asyncio.get_running_loop())
        note("load async")

    class Setup:
        def __init__(self):
            self.made = True

        @load
        def method(self):
            note(f"load method {self.made}")

        @load
        @staticmethod
        def static():
            note("load static")

        @classmethod
        @load
        def named(cls):
            note(f"load {cls.__name__}")

        @load
        async def coroutine(self):
            await asyncio.sleep(0)
            note("load async method")

        class Inner:
            @load
            def deep(self):
                note("load in a class in a class")

        @unload
        def end(self):
            note(f"unload method {self.made}")

        @staticmethod
        @unload
        def end_static():
            note("unload static")

    @unload
    async def ends():
        await asyncio.sleep(0.01)
        note(f"unload async {loops == [asyncio.get_running_loop()]}")

    class Dog:
        @remote
        async def loop(self):
            return loops == [asyncio.get_running_loop()]

        @remote
        @fork
        def forked(self):
            return os.environ.get("WARMED", "")

    @load(fork=True)
    async def warm():
        await asyncio.sleep(0)
        os.environ["WARMED"] = os.environ.get("WARMED", "") + "yes"
"""

OTHER = """
    from gofer.decorators import load

    __all__ = ["elsewhere"]

    @load
    def elsewhere():
        from . import note
        note("load elsewhere in the package")
"""


SUBMODULE = """
    from gofer.decorators import load, unload

    @load
    def begins():
        from . import note
        note("load in a submodule")

    class Cellar:
        @staticmethod
        @unload
        def lock():
            from . import note
            note("unload in a submodule")
"""


class Farm:
    """A goferd with one plugin, which writes what it does into a file."""

    def __init__(self, root: Path, site: Path, url: str) -> None:
        self.site, self.url = site, url
        self.notes = site / "notes"
        self.goferd = AgentProcess(root, path=(site,))

    def start(self, code: str, **files: str) -> None:
        package = self.site / "forms"
        package.mkdir()
        for name, text in {"__init__": code, **files}.items():
            (package / f"{name}.py").write_text(textwrap.dedent(text))
        text = f"[main]\nenabled=1\nplugin=forms\n[messaging]\nurl={self.url}\n[model]\nqueue=forms\n"
        self.goferd.descriptor("forms", f"{text}[notes]\nfile={self.notes}\n")
        self.goferd.start()

    def noted(self) -> list[str]:
        lines = [json.loads(line) for line in self.notes.read_text().splitlines()] if self.notes.exists() else []
        assert {name for _, name in lines} <= {"forms"}
        return [what for what, _ in lines]


@pytest.fixture
def farm(root: Path, tmp_path: Path) -> Iterator[Farm]:
    site = tmp_path / "site"
    site.mkdir()
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        farm = Farm(root, site, broker.url)
        yield farm
        farm.goferd.stop()


def test_functions_methods_and_coroutines_run_in_their_order(farm: Farm) -> None:
    farm.start(FORMS, other=OTHER, submodule=SUBMODULE)
    loads = [
        "load elsewhere in the package",
        "load plain",
        "load async",
        "load method True",
        "load static",
        "load Setup",
        "load async method",
        "load in a class in a class",
        "load in a submodule",
    ]
    eventually(lambda: farm.noted() == loads, what=farm.goferd.tail())

    with Agent(farm.url, "forms", wait=30) as agent:
        eventually(lambda: answers(agent), what=farm.goferd.tail())
        assert agent.Dog().loop() is True  # that of the plugin: what a @load has made there can be used
        assert agent.Dog().forked() == "yesyes"  # once in the agent, which the helper has inherited, and once in that

    farm.goferd.stop()
    unloads = ["unload in a submodule", "unload async True", "unload static", "unload method True"]
    assert farm.noted()[len(loads) :] == unloads


def answers(agent: Agent) -> bool:
    try:
        return bool(agent(wait=5).Admin().hello())
    except NotFound:  # its last @load is over, and its queue is not there yet
        return False


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (
            "from gofer.decorators import load\n@load\nasync def begin():\n    raise ValueError('no')",
            "ValueError: no",
        ),
        (
            "from gofer.decorators import load\nclass A:\n  def __init__(self, a):...\n  @load\n  def begin(self): ...",
            "missing 1 required positional argument: 'a'",
        ),
        ("from gofer.decorators import fork\n@fork\ndef lonely(): ...", "@fork on forms.lonely: "),
        (
            "from gofer.decorators import user\nclass A:\n    @user(name='root')\n    def lonely(self): ...",
            "@user, or @pam, on A.lonely: ",
        ),
        ("from gofer.decorators import once\n@once\ndef lonely(): ...", "@once on forms.lonely: "),
        (
            "from gofer.hooks import hookimpl\n@hookimpl\nasync def gofer_accept(request):\n    raise ValueError('no')",
            "gofer_accept is `async def`, so nothing in it would run; write `def gofer_accept`",
        ),
        (
            "from gofer.decorators import fork\nclass A:\n  class B:\n    @fork\n    def lonely(self): ...",
            "@fork on A.B.lonely: ",
        ),
    ],
)
def test_what_cannot_run_quarantines_the_plugin_and_is_reported(farm: Farm, code: str, says: str) -> None:
    farm.start(code)
    eventually(lambda: says in farm.goferd.tail(), what=farm.goferd.tail())


def test_a_hook_in_a_submodule_that_is_not_called_is_reported(farm: Farm) -> None:
    hook = "from gofer.hooks import hookimpl\n@hookimpl\ndef {}(request): ..."
    farm.start(
        "from . import guard\nfrom .other import gofer_finished",
        guard=hook.format("gofer_accept"),
        other=hook.format("gofer_finished"),
    )
    checked = check_goferd(farm.goferd.root, farm.site)
    assert checked.returncode == 0, checked.stdout
    for said in (farm.goferd.tail(), checked.stdout):
        assert "forms.conf: [main] plugin: hook forms.guard.gofer_accept is not called: import it into forms" in said
        assert "gofer_finished is not called" not in said
