"""The plugin to copy: one class and one function, which show each way of calling and of answering.

A plugin is a module with ``@remote`` in it, named by an entry point of the group ``gofer.plugins``, and switched on by
a descriptor of the entry point's name (``demo.conf`` beside this file is one to start from).
"""

from __future__ import annotations

import asyncio
import time

from gofer.agent.rmi import Context
from gofer.decorators import remote

__all__ = ["Demo", "TooTired", "hello"]


class TooTired(Exception):
    """Raised by ``Demo.bark``: an exception of the plugin's own, which its caller can catch as itself.

    That works where the caller has imported this module; elsewhere it arrives as a RemoteException of this name.
    """

    def __init__(self, name: str, barks: int) -> None:
        super().__init__(f"{name} is too tired to bark {barks} times")
        self.name = name
        self.barks = barks


class Demo:
    """Something that echoes, barks, takes its time and tells how far it is.

    A new object is made for each call, of the constructor arguments that the caller gave.
    """

    def __init__(self, name: str = "Rover", age: int = 3) -> None:
        self.name = name
        self.age = age

    @remote
    def echo(self, thing: object) -> object:
        """Return what was passed: any value that JSON can carry."""
        return thing

    @remote
    def bark(self, words: str, times: int = 1, *, loud: bool = False) -> str:
        """Bark the words, at most five times.

        Raises:
            TooTired: asked for more.
        """
        if times > 5:
            raise TooTired(self.name, times)
        said = " ".join([words] * times)
        return f"{self.name} ({self.age}) barks: {said.upper() + '!' if loud else said}"

    @remote
    def slow(self, seconds: float) -> float:
        """Take so many seconds, and return how many it took. Stops early when the request is cancelled."""
        call = Context.current()
        begun = time.monotonic()
        while (left := begun + seconds - time.monotonic()) > 0 and not call.cancelled():
            time.sleep(min(left, 0.1))
        return round(time.monotonic() - begun, 3)

    @remote
    def progress(self, total: int, pause: float = 0.2) -> str:
        """Work through ``total`` units, ``pause`` seconds each, and report each one."""
        report = Context.current().progress
        report.total = total
        for unit in range(1, total + 1):
            report.details = f"unit {unit}"
            time.sleep(pause)
            report.completed = unit
        return f"{total} units done"

    @remote
    async def rest(self, seconds: float) -> str:
        """Rest without holding a thread: thousands of these can wait at the same time."""
        await asyncio.sleep(seconds)
        return f"{self.name} has rested for {seconds:g} s"


@remote
def hello(name: str = "world") -> str:
    """Greet. A function is called by the name of its plugin or of its module: ``agent.demo.hello()``."""
    return f"Hello, {name}!"
