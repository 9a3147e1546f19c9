"""A plugin with several versions of a class, called in every way there is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from gofer import aio
from gofer.errors import NamespaceNotFound
from gofer.messaging import mock
from gofer.proxy import Agent
from support.commands import gofer
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers

pytestmark = pytest.mark.xdist_group("versions")  # one process makes what is shared

DOG = """
    from gofer.agent.plugin import Plugin
    from gofer.decorators import fork, remote, version

    plugin = Plugin.find(__name__)


    class Dog:
        def __init__(self, name="Rover"):
            self.name = name

        @remote
        def bark(self, words):
            return f"{self.name}: {words}"


    @version("2", of="Dog")
    class DogV2(Dog):
        @remote
        @fork
        def bark(self, words, *, loud):
            return {"name": self.name, "words": words.upper() if loud else words}


    @version("1")
    class Cat:
        @remote
        def meow(self):
            return "old"


    @version("2", of="Cat", default=True)
    class NewCat(Cat):
        @remote
        @fork
        def meow(self):
            return "new"
"""

ZOO = """
    from gofer.agent.plugin import Plugin
    from gofer.decorators import remote

    plugin, dogs = Plugin.find(__name__), Plugin.find("dogs")
    plugin += dogs["Dog", "2"]


    class Puppy(dogs["Dog", "2"]):
        @remote
        def yap(self):
            return self.name
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    root = tmp_path_factory.mktemp("versions")
    path = root / "run/gofer/broker.sock"
    path.parent.mkdir(parents=True)
    text = "[main]\nenabled = 1\n{}\n[messaging]\nurl = local://\n[model]\nqueue = {}\n"
    with LocalBroker(str(path)), AgentProcess(root) as process:
        process.plugin("dogs", DOG, text.format("accept = other", "dogs"))
        process.plugin("zoo", ZOO, text.format("", "zoo"))
        process.plugin("other", "", text.format("forward = dogs", "other"))
        yield process.start()


@pytest.fixture
def url(process: AgentProcess) -> str:
    return f"local://{process.root}/run/gofer/broker.sock"


@pytest.fixture
def agent(process: AgentProcess, url: str) -> Iterator[Agent]:
    with Agent(url, "dogs", wait=30) as agent:
        yield until_it_answers(agent, process.tail())


def test_each_version_answers_for_itself(agent: Agent) -> None:
    assert agent.Dog("Rex").bark("hi") == "Rex: hi"
    assert agent["Dog", "2"]("Rex").bark("hi", loud=True) == {"name": "Rex", "words": "HI"}
    assert agent["Dog@2"]().bark("hi", loud=False) == {"name": "Rover", "words": "hi"}


def test_who_asks_for_no_version_has_the_default(agent: Agent) -> None:
    assert (agent.Cat().meow(), agent["Cat", "1"].meow(), agent["Cat", "2"].meow()) == ("new", "old", "new")


def test_an_unknown_version_is_reported_with_those_there_are(agent: Agent) -> None:
    with pytest.raises(NamespaceNotFound, match=r"plugin 'dogs' has no version '3' of Cat\. Available versions: 1, 2$"):
        agent["Cat", "3"].meow()


def test_it_is_shown(agent: Agent) -> None:
    (dogs,) = (one for one in agent.Admin().describe()["plugins"] if one["plugin"] == "dogs")
    told = {
        one["name"]: (one["version"], [method["signature"] for method in one["methods"]]) for one in dogs["classes"]
    }
    assert told == {
        "Dog": (None, ["(words)"]),
        "Dog@2": ("2", ["(words, *, loud)"]),
        "Cat": ("2", ["()"]),
        "Cat@1": ("1", ["()"]),
        "Cat@2": ("2", ["()"]),
    }
    assert "<class> Dog@2" in agent.Admin().help()


def test_other_plugins_take_inherit_and_forward_to_them(url: str, process: AgentProcess, agent: Agent) -> None:
    with Agent(url, "zoo", wait=30) as zoo, Agent(url, "other", wait=30) as other:
        until_it_answers(zoo, process.tail())
        until_it_answers(other, process.tail())
        assert zoo["Dog", "2"]("Rex").bark("hi", loud=True)["words"] == "HI"
        assert (zoo.Puppy("Rex").yap(), zoo.Puppy("Rex").bark("hi", loud=True)["words"]) == ("Rex", "HI")
        with pytest.raises(NamespaceNotFound, match=r"Available versions: 2$"):
            zoo.Dog().bark("hi")
        assert other["Dog", "2"].bark("hi", loud=False)["words"] == "hi"
        assert other.Cat().meow() == "new"


def test_coroutines_and_shells_ask_in_the_same_words(url: str, agent: Agent) -> None:
    async def call() -> object:
        async with aio.Agent(url, "dogs", wait=30) as waiting:
            return await waiting["Dog", "2"]("Rex").bark("hi", loud=True)

    assert asyncio.run(call()) == {"name": "Rex", "words": "HI"}
    done = gofer("rmi", "-u", url, "-a", "dogs", "-t", "Dog@2.bark", "hi", "loud=true")
    assert (done.returncode, done.stdout) == (0, '{"name": "Rover", "words": "HI"}\n')


def test_mocks_answer_for_a_version() -> None:
    class DogV2:
        def bark(self) -> str:
            return "mocked"

    mock.install()
    try:
        mock.register(**{"Dog@2": DogV2})
        with Agent("local://", "dogs") as agent:
            assert agent["Dog", "2"].bark() == "mocked"
            with pytest.raises(NamespaceNotFound):
                agent.Dog().bark()
    finally:
        mock.uninstall()


def test_its_requests_are_logged_by_version(process: AgentProcess, agent: Agent) -> None:
    agent["Dog", "2"].bark("hi", loud=False)
    assert " Dog@2.bark value " in process.log.read_text()
