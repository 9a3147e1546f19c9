"""Plugins whose import, or whose @load, does not return: the others are loaded without them, and they later."""

from __future__ import annotations

import logging
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.agent import PluginContainer, plugin_code
from gofer.agent.config import AgentConfig, read_descriptors
from gofer.agent.plugin import Plugin, State
from gofer.root import Root
from support.plugins import describe, install
from support.waiting import eventually

DOG = """
    from gofer.decorators import remote

    class Dog:
        @remote
        def bark(self):
            return "woof"
"""
#: Code that does not go on before the test says so.
HANGS = """
    import late_gate
    late_gate.begun.set()
    assert late_gate.go_on.wait(30)
"""
FINDS_DOG = """
    from gofer.agent.plugin import Plugin
    Mine = Plugin.find("dog")["Dog"]
"""


class Gate:
    """The module ``late_gate``: what the code of plugins waits for."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.last = threading.Event()


class Late:
    """A container that waits for 0.1 s for each plugin."""

    def __init__(self, root: Path, site: Path) -> None:
        self.root = root
        self.site = site
        self.container = PluginContainer(Root(root), AgentConfig())
        self.container.loader.imports.patience = 0.1

    def plugin(self, name: str, *code: str, main: str = "enabled=1") -> Path:
        install(self.site, name, "\n".join(code))
        return describe(self.root, name, f"[main]\n{main}\n")

    def start(self) -> None:
        self.container.start(read_descriptors(Root(self.root))[0])

    def update(self) -> None:
        self.container.update(read_descriptors(Root(self.root))[0])

    def states(self) -> dict[str, State]:
        return {name: plugin.state for name, plugin in self.container.plugins.items()}

    def until(self, **states: State) -> None:
        eventually(lambda: self.states() == states, what=str(states))

    def __getitem__(self, name: str) -> Plugin:
        return self.container.plugins[name]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    gate = Gate()
    monkeypatch.setitem(sys.modules, "late_gate", gate)
    yield gate
    gate.go_on.set()


@pytest.fixture
def late(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate) -> Iterator[Late]:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)
    late = Late(root, site)
    yield late
    gate.go_on.set()
    late.container.stop(5)
    eventually(lambda: not any(one.name.endswith("-load") for one in threading.enumerate()))
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_those_behind_it_run_and_it_is_named_once(late: Late, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    file = late.plugin("a", HANGS)
    late.plugin("b", DOG)
    late.start()
    late.until(a=State.LOADING, b=State.RUNNING)
    assert late["b"].api.has("Dog", "bark")
    told = [
        one.getMessage() for one in caplog.records if one.levelno == logging.WARNING and str(file) in one.getMessage()
    ]
    assert told == [
        f"{file}: [main] plugin: importing and loading it has taken 0.1 s so far; the other plugins continue without it"
    ]


def test_it_runs_as_soon_as_its_code_returns(late: Late, gate: Gate) -> None:
    late.plugin("a", HANGS, DOG)
    late.plugin("b", DOG)
    late.start()
    gate.go_on.set()
    late.until(a=State.RUNNING, b=State.RUNNING)
    assert late["a"].api.has("Dog", "bark")


def test_a_load_function_that_hangs_is_the_same(late: Late, gate: Gate) -> None:
    hanging = "\n    ".join(HANGS.splitlines())
    late.plugin("a", DOG, f"    from gofer.decorators import load\n    @load\n    def begin():{hanging}")
    late.plugin("b", DOG)
    late.start()
    late.until(a=State.LOADING, b=State.RUNNING)
    gate.go_on.set()
    late.until(a=State.RUNNING, b=State.RUNNING)


def test_an_extension_that_hangs_is_given_up_and_the_others_run(
    late: Late, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_code, "_EXTEND", 1.0)
    hanging = "\n        ".join(HANGS.splitlines())
    hook = "from gofer.hooks import hookimpl\n    @hookimpl\n    def gofer_extend(plugin):"
    late.plugin("a", f"    {hook}\n        if plugin.name == 'b':{hanging}")
    late.plugin("b", DOG)
    late.plugin("c", DOG)
    late.start()
    late.until(a=State.RUNNING, b=State.QUARANTINED, c=State.RUNNING)
    assert "a gofer_extend hook failed: no answer in 1 s" in str(late["b"].error)


def test_one_that_fails_late_is_quarantined(late: Late, gate: Gate) -> None:
    late.plugin("a", HANGS, "    1 / 0")
    late.plugin("b", DOG)
    late.start()
    gate.go_on.set()
    late.until(a=State.QUARANTINED, b=State.RUNNING)
    assert "ZeroDivisionError" in str(late["a"].error)
    assert "a_module" not in sys.modules


def test_who_looks_for_it_while_being_loaded_waits_for_it_and_nobody_else_does(late: Late, gate: Gate) -> None:
    late.plugin("cat", FINDS_DOG, "    Cat = Mine")
    late.plugin("dog", HANGS, DOG)
    late.plugin("eel", DOG)
    late.plugin("fox", FINDS_DOG, "    Fox = Mine")
    late.start()
    waiting = {"cat": State.LOADING, "dog": State.LOADING, "fox": State.LOADING}
    late.until(**waiting, eel=State.RUNNING)
    gate.go_on.set()
    late.until(**dict.fromkeys(("cat", "dog", "eel", "fox"), State.RUNNING))


def test_who_looks_for_each_other_does_not_wait(late: Late, gate: Gate) -> None:
    """The one that is found while it looks is as far as it is."""
    finds_cat = "    from gofer.agent.plugin import Plugin\n    Plugin.find('cat')"
    late.plugin("cat", HANGS, "    from gofer.agent.plugin import Plugin\n    Plugin.find('dog')")
    late.plugin("dog", finds_cat, DOG)
    late.start()
    assert late.states() == {"cat": State.LOADING, "dog": State.LOADING}
    gate.go_on.set()
    late.until(cat=State.RUNNING, dog=State.RUNNING)


def test_a_call_that_looks_for_it_does_not_wait(late: Late, gate: Gate) -> None:
    late.plugin("a", HANGS)
    late.plugin("b", DOG)
    late.start()
    with late["b"].entered():
        assert Plugin.find("a").state is State.LOADING


@pytest.mark.parametrize("behind", [True, False], ids=["the extended one is late", "the extending one is late"])
def test_a_late_extension_is_added(late: Late, gate: Gate, behind: bool) -> None:
    cat = DOG.replace("Dog", "Cat")
    late.plugin("animals", *([HANGS] if behind else []), DOG)
    late.plugin("cat", *([] if behind else [HANGS]), cat, main="enabled=1\nextends=animals")
    late.start()
    assert State.LOADING in late.states().values()
    gate.go_on.set()
    late.until(animals=State.RUNNING, cat=State.RUNNING)
    assert late["animals"].api.has("Cat", "bark")


def test_it_may_be_later_than_the_late_one_that_extends_it(late: Late, gate: Gate) -> None:
    """The one waits for the other's import, and that one must not wait for the first one's end."""
    late.plugin("animals", "import late_gate\nassert late_gate.last.wait(30)", textwrap.dedent(DOG))
    late.plugin("cat", HANGS, DOG.replace("Dog", "Cat"), main="enabled=1\nextends=animals")
    late.start()
    gate.go_on.set()
    eventually(lambda: late.container.loader.imports.is_settled(late["cat"]))
    gate.last.set()
    late.until(animals=State.RUNNING, cat=State.RUNNING)
    assert late["animals"].api.has("Cat", "bark")


def test_one_that_is_unloaded_meanwhile_does_not_run(late: Late, gate: Gate) -> None:
    descriptor = late.plugin("a", HANGS, DOG)
    late.plugin("b", DOG)
    late.start()
    descriptor.unlink()
    late.update()
    late.until(b=State.RUNNING)
    gate.go_on.set()
    eventually(lambda: not any(one.name == "gofer-a-load" for one in threading.enumerate()))
    assert late.states() == {"b": State.RUNNING}
    assert "a_module" not in sys.modules


def test_a_reload_leaves_it_alone(late: Late, gate: Gate) -> None:
    late.plugin("a", HANGS, DOG)
    late.start()
    plugin = late["a"]
    late.plugin("b", DOG)
    late.update()
    late.until(a=State.LOADING, b=State.RUNNING)
    gate.go_on.set()
    late.until(a=State.RUNNING, b=State.RUNNING)
    assert late["a"] is plugin


def test_stopping_does_not_wait_for_it(late: Late, gate: Gate) -> None:
    late.container.loader.imports.patience = 60
    late.plugin("a", HANGS)
    starting = threading.Thread(target=late.start)
    starting.start()
    assert gate.begun.wait(10)
    late.container.stop(60)
    starting.join(10)
    assert not starting.is_alive()
    assert late.states() == {"a": State.STOPPED}
