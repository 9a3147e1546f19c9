"""A plugin for the tests of the agent's half: every kind of method that one may write."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Any

from gofer.decorators import action, fork, load, remote, unload, user
from gofer.rmi.context import Context

__all__ = ["Dog", "Gate", "Hound", "gate", "ran"]


class Gate:
    """What methods and tests wait on and count with. Cleared by the fixture that serves the kennel."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.ran: list[Any] = []
        self.contexts: list[Context] = []


gate = Gate()


def ran() -> list[Any]:
    """What has run, in its order."""
    return gate.ran


class Refusal(Exception):
    """An exception of the plugin's own."""

    def __init__(self, words: str, code: int) -> None:
        super().__init__(words)
        self.code = code


class Trap(dict[str, Any]):
    """A value that ends the process when it is looked at."""

    def items(self) -> Any:
        raise SystemExit("items")


class Untouchable(Exception):
    """An exception that tells nothing about itself."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class Dog:
    """Barks."""

    def __init__(self, name: str = "nobody", *, age: int = 0) -> None:
        self.name = name
        self.age = age

    @remote
    def echo(self, value: Any = None) -> Any:
        """Return what it is given.

        More about it.
        """
        gate.ran.append(value)
        return value

    @remote
    def who(self) -> list[Any]:
        return [self.name, self.age]

    @remote
    def wait(self, value: Any = None) -> Any:
        gate.ran.append(value)
        gate.entered.release()
        assert gate.open.wait(30)
        return value

    @remote(timeout=0.1)
    def brief(self) -> list[Any]:
        context = Context.current()
        gate.contexts.append(context)
        assert gate.open.wait(30)
        gate.ran.append("ended")
        return []

    @remote
    def fail(self, words: str, code: int) -> None:
        raise Refusal(words, code)

    @remote
    def leave(self) -> None:
        sys.exit("leaving")

    @remote
    def interrupt(self) -> None:
        raise KeyboardInterrupt

    @remote
    def odd(self, kind: str) -> Any:
        odds: dict[str, Any] = {
            "set": {1},
            "bytes": b"x",
            "nan": float("nan"),
            "int keys": {1: "a"},
            "generator": (n for n in range(3)),
            "object": object(),
            "surrogate": "\ud800",
            "digits": 10**5000,
            "exit": Trap(),
        }
        return odds[kind]

    @remote
    def fail_oddly(self) -> None:
        raise ValueError(10**5000, object(), float("nan"), "\ud800")

    @remote
    def fail_untouchably(self) -> None:
        raise Untouchable("no")

    @remote
    def text(self, size: int) -> str:
        return "x" * size

    @remote
    def shout(self, size: int) -> None:
        raise ValueError("x" * size)

    @remote
    async def later(self, value: Any) -> Any:
        context = Context.current()
        await asyncio.sleep(0)
        assert Context.current() is context
        return [value, context.sn, threading.current_thread().name]

    @remote
    async def wait_later(self, value: Any = None) -> Any:
        gate.ran.append(value)
        gate.entered.release()
        while not gate.open.is_set():  # noqa: ASYNC110 - a thread opens the gate
            await asyncio.sleep(0.005)
        return value

    @remote
    async def fail_later(self) -> None:
        await asyncio.sleep(0)
        raise LookupError("later")

    @remote
    def forgotten(self) -> Any:
        return self.later(1)

    @remote
    def progress(self, total: int) -> str:
        progress = Context.current().progress
        progress.total = total
        for n in range(total):
            progress.completed = n + 1
        progress.details = {"last": True}
        return "done"

    @remote
    def context(self) -> list[Any]:
        context = Context.current()
        gate.contexts.append(context)
        return [context.sn, context.data, context.identity, context.cancelled()]

    @remote(secret="garfield")
    def guarded(self) -> str:
        return "in"

    @remote(secret=["one", "zwei\u00e4"])
    def guarded_by_two(self) -> str:
        return "in"

    @remote(secret=lambda: ("made", "up"))
    def guarded_by_call(self) -> str:
        return "in"

    @remote(secret=lambda: 1 / 0)
    def guarded_by_failure(self) -> str:
        return "in"

    @remote
    @user(name="root")
    def reboot(self) -> None:
        gate.ran.append("rebooted")

    @remote
    @fork
    def forked(self) -> None:
        gate.ran.append("forked")

    @remote
    @staticmethod
    def static(value: Any) -> Any:
        return value

    @remote
    @classmethod
    def named(cls) -> str:
        return cls.__name__

    @property
    def fur(self) -> str:
        return "brown"

    def hidden(self) -> None:
        gate.ran.append("hidden")

    @remote
    def _private(self) -> None:
        gate.ran.append("private")


class Hound(Dog):
    """Inherits."""

    def who(self) -> list[Any]:  # not decorated: not exposed
        return ["hidden"]

    @remote(secret="wag")
    def echo(self, value: Any = None) -> Any:
        return ["hound", value]


class Cat:
    """Has nothing remote."""

    def meow(self) -> str:
        return "meow"


@remote
def hello(name: str = "you") -> str:
    """Greet."""
    return f"hello {name}"


def quiet() -> None:
    gate.ran.append("quiet")


@load
def loaded() -> None:
    gate.ran.append("loaded")


@unload
def unloaded() -> None:
    gate.ran.append("unloaded")


@action(minutes=5)
def tick() -> None:
    gate.ran.append("tick")


def not_a_member(function: Callable[[], None]) -> None:
    function()
