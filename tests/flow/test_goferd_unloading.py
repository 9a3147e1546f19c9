"""What plugins have added to their own API from others that are unloaded and loaded again, by way of ``gofer mgt``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.errors import NamespaceNotFound
from gofer.proxy import Agent
from support.commands import gofer
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers

ANIMALS = """
    from gofer.decorators import remote

    class {name}:
        @remote
        def says(self):
            return "{says}"
"""

ZOO = """
    from gofer.agent.plugin import Plugin
    from gofer.decorators import remote

    plugin = Plugin.find(__name__)
    plugin += Plugin.find("{other}")

    class {name}:
        @remote
        def says(self):
            return "{name}"
"""


class Zoo:
    """A goferd with plugins that are made of each other: town of zoo, and zoo of animals."""

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.url = root, url
        self.goferd = AgentProcess(root)
        self.write("animals", ANIMALS.format(name="Dog", says="woof"))
        self.write("zoo", ZOO.format(other="animals", name="Gate"))
        self.write("town", ZOO.format(other="zoo", name="Street"))
        self.goferd.start()

    def write(self, name: str, code: str) -> None:
        text = f"[main]\nenabled=1\n[messaging]\nurl={self.url}\n[model]\nqueue={name}\n"
        self.goferd.plugin(name, code, text)

    def mgt(self, *arguments: str) -> None:
        done = gofer("mgt", *arguments, environ={"GOFER_ROOT": str(self.root)})
        assert done.returncode == 0, done.stderr

    def says(self, queue: str, name: str) -> object:
        with Agent(self.url, queue, wait=30) as agent:
            return until_it_answers(agent, self.goferd.tail())[name].says()


@pytest.fixture
def zoo(root: Path) -> Iterator[Zoo]:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        zoo = Zoo(root, broker.url)
        yield zoo
        zoo.goferd.stop()


def test_what_it_had_added_comes_back_with_the_other(zoo: Zoo) -> None:
    assert zoo.says("zoo", "Dog") == zoo.says("town", "Dog") == "woof"

    zoo.mgt("-u", "animals")
    for queue in ("zoo", "town"):
        with pytest.raises(NamespaceNotFound):
            zoo.says(queue, "Dog")

    zoo.write("animals", ANIMALS.format(name="Dog", says="wuff"))
    zoo.mgt("-l", str(zoo.root / "etc/gofer/plugins/animals.conf"))
    assert [zoo.says(queue, "Dog") for queue in ("animals", "zoo", "town")] == ["wuff"] * 3
    assert zoo.says("town", "Gate") == "Gate"


def test_that_is_so_whatever_it_is_loaded_again_for(zoo: Zoo) -> None:
    zoo.mgt("-u", "zoo")
    with pytest.raises(NamespaceNotFound):
        zoo.says("town", "Dog")  # by way of zoo

    zoo.mgt("-l", str(zoo.root / "etc/gofer/plugins/zoo.conf"))
    assert zoo.says("town", "Dog") == "woof"

    zoo.mgt("-u", "animals")
    zoo.write("animals", "raise RuntimeError('not today')")
    zoo.mgt("-r", "town")  # the others go on, and are loaded again meanwhile, without it
    with pytest.raises(NamespaceNotFound):
        zoo.says("town", "Dog")


def test_what_clashes_when_it_comes_back_costs_nobody_what_they_have(zoo: Zoo) -> None:
    zoo.mgt("-u", "animals")
    zoo.write("animals", ANIMALS.format(name="Gate", says="creak"))

    zoo.mgt("-l", str(zoo.root / "etc/gofer/plugins/animals.conf"))

    assert zoo.says("animals", "Gate") == "creak"
    assert zoo.says("zoo", "Gate") == "Gate"
    assert "plugin zoo: has nothing of plugin animals any more: name clash: 'Gate'" in zoo.goferd.tail()
