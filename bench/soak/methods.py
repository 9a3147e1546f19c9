"""The soak's plugin. Each run leaves two lines in a file, synced: that it has begun, and that it has ended.

A copy of this file is the module of each of the soak's plugins.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gofer.agent.plugin import Plugin
from gofer.agent.rmi import Context
from gofer.decorators import fork, once, remote

__all__ = ["Once", "Soak"]

plugin = Plugin.find(__name__)


def note(what: str) -> None:
    """Append to the file, in one write, so that lines of several processes stay whole."""
    context = Context.current()
    line = f"{time.time():.6f} {what} {context.sn} {context.data} {os.getpid()}\n"
    file = os.open(plugin.cfg.soak.runs, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(file, line.encode())
        os.fsync(file)
    finally:
        os.close(file)


@contextmanager
def run() -> Iterator[None]:
    """Leave the two lines."""
    note("begun")
    yield
    note("ended")


def told() -> list[Any]:
    """Return what a caller can check: which request this was, and its serial number."""
    context = Context.current()
    return [context.data, context.sn]


class Soak:
    """Methods of every kind."""

    @remote
    def quick(self) -> list[Any]:
        """Return at once."""
        with run():
            return told()

    @remote
    def sized(self, text: str) -> list[Any]:
        """Return as much as was sent."""
        with run():
            return [*told(), text]

    @remote
    def some(self, seconds: float) -> list[Any] | None:
        """Take a while: some of these are written down, some are not. A cancelled one has no value."""
        with run():
            time.sleep(seconds)
            return None if Context.current().cancelled() else told()

    @remote
    @fork
    def forked(self, seconds: float) -> list[Any]:
        """Take a while in a process of its own."""
        with run():
            time.sleep(seconds)
            return told()

    @remote
    async def waited(self, seconds: float) -> list[Any]:
        """Take a while on the plugin's event loop."""
        with run():
            await asyncio.sleep(seconds)
            return told()

    @remote
    def raising(self) -> None:
        """Raise."""
        with run():
            pass
        raise KeyError(*told())

    @remote
    def reporting(self, seconds: float) -> list[Any]:
        """Tell how far it is."""
        with run():
            progress = Context.current().progress
            progress.total = 5
            for done in range(5):
                time.sleep(seconds / 5)
                progress.completed = done + 1
            return told()


class Once:
    """What must not run twice."""

    @remote
    @once
    def once(self, seconds: float) -> list[Any]:
        """Take a while, once."""
        with run():
            time.sleep(seconds)
            return told()
