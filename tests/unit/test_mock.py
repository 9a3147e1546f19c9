"""Mocks of agents, as programs' own tests use them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import gofer.aio
import pytest
from gofer.errors import ConfigError, ConnectionLost, MemberNotFound, NamespaceNotFound
from gofer.messaging import mock
from gofer.messaging.pool import pool
from gofer.proxy import Agent, seam
from gofer.testing.mock import Call

URL = "amqp://nobody.invalid"


class Dog:
    """What a test writes in place of the remote class."""

    made = 0

    def __init__(self, name: str = "Rover", age: int = 1) -> None:
        self.name = name
        self.barks = 0
        type(self).made += 1

    def bark(self, words: Any, times: int = 1) -> str:
        self.barks += 1
        return f"{self.name} {self.barks}: {words}"

    def odd(self) -> Any:
        return {1, 2}

    async def later(self) -> None: ...

    def change(self, things: list[int]) -> list[int]:
        things.append(9)
        return things

    breed = "a value, not a method"


@pytest.fixture(autouse=True)
def installed() -> Iterator[None]:
    before = set(pool._connections)  # of other tests, for some seconds
    mock.install()
    yield
    mock.uninstall()
    assert set(pool._connections) <= before, "a mocked agent took up a connection"


def test_a_registered_class_answers() -> None:
    mock.register(Dog=Dog)
    agent = Agent(URL, "xyz")
    assert isinstance(agent, Agent)
    dog = agent.Dog()
    assert dog.bark("hello") == "Rover 1: hello"
    assert dog.bark("world", times=2) == "Rover 2: world"
    assert agent["Dog"]["bark"]("items") == "Rover 3: items"


def test_the_history_holds_every_call() -> None:
    mock.register(Dog=Dog)
    dog = Agent(URL, "xyz").Dog()
    assert dog.bark.history() == []
    dog.bark("hello")
    dog.bark(["a", ("b",)], times=2)
    history = dog.bark.history()
    assert history == [Call(("hello",), {}), Call((["a", ["b"]],), {"times": 2})]
    last = history[-1]
    assert last.args[0] == ["a", ["b"]]  # as an agent would have had it
    assert last.kwargs == {"times": 2}
    history.clear()
    assert len(dog.bark.history()) == 2
    assert dog.change([1]) == [1, 9]
    assert dog.change.history() == [Call(([1],), {})]


def test_what_is_pushed_is_what_the_next_calls_end_with_in_that_order() -> None:
    mock.register(Dog=Dog)
    dog = Agent(URL, "xyz").Dog()
    dog.bark.push(Exception("no more barking"))
    dog.bark.push("a value")
    dog.bark.push(KeyError)
    dog.bark.push(None)
    with pytest.raises(Exception, match="no more barking"):
        dog.bark("hello")
    assert dog.bark("hello") == "a value"
    with pytest.raises(KeyError):
        dog.bark("hello")
    assert dog.bark("hello") is None
    assert dog.bark("hello") == "Rover 1: hello"
    assert len(dog.bark.history()) == 5


def test_classes_are_each_agents_own_and_instances_and_modules_are_shared() -> None:
    kennel = types.ModuleType("kennel")
    kennel.howl = lambda: "aooo"  # type: ignore[attr-defined]  # that is what the test is about
    mock.register(Dog=Dog, Rex=Dog("Rex"), kennel=kennel)
    one, other = Agent(URL, "xyz"), Agent(URL, "xyz")

    assert one.Dog().bark("x") == "Rover 1: x"
    assert one(wait=5).Dog().bark("x") == "Rover 2: x"  # a view is the same agent
    assert other.Dog().bark("x") == "Rover 1: x"
    assert [len(agent.Dog.bark.history()) for agent in (one, other)] == [2, 1]
    other.Dog.bark.push("for the other")
    assert one.Dog.bark("x") == "Rover 3: x"

    assert [one.Rex().bark("x"), other.Rex().bark("x")] == ["Rex 1: x", "Rex 2: x"]
    assert one.Rex.bark.history() == other.Rex.bark.history() == [Call(("x",), {})] * 2
    assert [one.kennel.howl(), other.kennel.howl()] == ["aooo", "aooo"]
    assert len(one.kennel.howl.history()) == 2


def test_constructor_arguments_reach_the_class_as_those_of_remote_ones_do() -> None:
    mock.register(Dog=Dog)
    agent = Agent(URL, "xyz")
    dog = agent.Dog("Fido", age=3)
    assert dog.bark("x") == "Fido 1: x"
    assert dog.bark("x") == "Fido 2: x"
    assert agent.Dog().bark("x") == "Rover 1: x"
    dog("Max")
    assert dog.bark("x") == "Max 1: x"
    with pytest.raises(TypeError, match="unexpected keyword argument 'nme'"):
        agent.Dog(nme="Fido").bark("x")


def test_what_is_not_registered_is_reported_with_what_is() -> None:
    agent = Agent(URL, "xyz")
    with pytest.raises(NamespaceNotFound, match=r"no mock for 'Cat': .*\(Cat=\.\.\.\).*nothing is registered"):
        agent.Cat().meow()
    mock.register(Dog=Dog, Bird=Dog)
    with pytest.raises(NamespaceNotFound, match="registered: Bird, Dog"):
        agent.Cat().meow.history()
    for nothing in ("brak", "breed", "__init__"):
        with pytest.raises(MemberNotFound, match=nothing):
            agent["Dog"][nothing]()
        with pytest.raises(MemberNotFound, match=nothing):
            agent["Dog"][nothing].push(1)
    mock.register(Cat=Dog)
    assert agent.Cat().bark("x") == "Rover 1: x"  # an agent need not be made anew


def test_options_and_arguments_are_checked_as_ever() -> None:
    mock.register(Dog=Dog)
    with pytest.raises(TypeError, match="unknown option 'wiat'"):
        Agent(URL, "xyz", wiat=5)
    with pytest.raises(ConfigError):
        Agent("gopher://xyz", "xyz")
    agent = Agent(URL, "xyz", wait=5, data={"a": 1}, secret="s", timeout="5m", progress=print)
    assert agent.Dog().bark("x")
    with pytest.raises(TypeError, match=r"argument\[0\]"):
        agent.Dog().bark({1, 2})
    with pytest.raises(TypeError, match=r"agent\(wait=\.\.\.\)\.Dog"):
        agent.Dog(wait=5)
    assert len(agent.Dog.bark.history()) == 1
    with pytest.raises(TypeError, match="result is a builtins"):
        agent.Dog().odd()
    with pytest.raises(TypeError, match="async"):
        agent.Dog().later()


def test_a_call_that_does_not_wait_returns_its_serial_number() -> None:
    mock.register(Dog=Dog)
    agent = Agent(URL, "xyz")
    for view in (agent(wait=0), agent(reply="tasks")):
        assert len(view.Dog().bark("x")) == 36
        view.Dog.bark.push(ValueError("nobody hears it"))
        assert len(view.Dog().bark("x")) == 36
    assert len(agent.Dog.bark.history()) == 4
    agent.flush(1)


def test_a_trigger_calls_when_it_is_pulled() -> None:
    mock.register(Dog=Dog)
    agent = Agent(URL, "xyz")
    trigger = agent(trigger=1).Dog().bark("x")
    assert agent.Dog.bark.history() == []
    assert trigger() == "Rover 1: x"
    with pytest.raises(RuntimeError, match="was sent already"):
        trigger()


def test_agents_for_coroutines_are_mocked_too() -> None:
    async def program() -> None:
        async with gofer.aio.Agent(URL, "xyz", wait=5) as agent:
            dog = agent.Dog("Fido")
            calls = [dog.bark(n) for n in range(3)]
            assert dog.bark.history() == []  # a call begins when it is awaited
            assert await asyncio.gather(*calls) == [f"Fido {n + 1}: {n}" for n in range(3)]
            dog.bark.push(ValueError("no"))
            with pytest.raises(ValueError, match="no"):
                await dog.bark("x")
            assert len(await agent(wait=0).Dog().bark("x")) == 36
            await agent.flush(1)
            assert len(dog.bark.history()) == 5
        with pytest.raises(ConnectionLost, match="closed"):
            await agent.Dog().bark("x")

    mock.register(Dog=Dog)
    asyncio.run(program())


def test_an_agent_that_was_closed_is_closed() -> None:
    mock.register(Dog=Dog)
    with Agent(URL, "xyz") as agent:
        assert agent.Dog().bark("x")
    with pytest.raises(ConnectionLost, match="closed"):
        agent.Dog().bark("x")


def test_registering_again_begins_anew() -> None:
    mock.register(Dog=Dog)
    agent = Agent(URL, "xyz")
    agent.Dog.bark.push("old")
    mock.install()  # once more changes nothing
    assert agent.Dog().bark("x") == "old"
    mock.register(Dog=Dog("Rex"))
    assert agent.Dog().bark("x") == "Rex 1: x"
    assert len(agent.Dog.bark.history()) == 1


def test_threads_may_call_and_a_mock_may_call_another() -> None:
    class Kennel:
        def __init__(self) -> None:
            agent.Dog().bark("made")

        def all(self) -> Any:
            return agent.Dog().bark("from the kennel")

    mock.register(Dog=Dog, Kennel=Kennel)
    agent = Agent(URL, "xyz")
    threads = [threading.Thread(target=agent.Kennel().all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(agent.Dog.bark.history()) == 9


def test_without_mocks_agents_are_themselves_again() -> None:
    mock.register(Dog=Dog)
    agent = Agent(URL, "xyz")
    assert agent.Dog().bark("x")
    mock.uninstall()
    mock.uninstall()
    assert seam.double is None
    assert not hasattr(agent.Dog().bark, "history")
    with pytest.raises(RuntimeError, match=r"mock\.install\(\) comes before"):
        mock.register(Dog=Dog)
    mock.install()
    with pytest.raises(NamespaceNotFound, match="nothing is registered"):
        agent.Dog().bark("x")


@pytest.mark.parametrize(
    "first", ["from gofer.proxy import Agent; mock.install()", "mock.install(); from gofer.proxy import Agent"]
)
def test_it_does_not_matter_which_comes_first(first: str) -> None:
    code = f"""
from gofer.messaging import mock
{first}
class Dog:
    def bark(self, words):
        return "mock Dog, called with: [%s]" % words
mock.register(Dog=Dog)
dog = Agent("amqp://localhost", "xyz").Dog()
print(dog.bark("hello"), dog.bark.history()[-1].args[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "mock Dog, called with: [hello] hello\n"


def test_who_calls_agents_does_not_load_mocks() -> None:
    code = "import sys, gofer.proxy; print([name for name in sys.modules if 'mock' in name or 'testing' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
