"""``python -m gofer.agent.helper``: the process that forks one plugin's calls. Started by the agent alone.

It imports the plugin's module, and those of plugins that this one asks for, as the agent has; of ``@load`` functions it
runs those that say ``fork=True``. It has no queue, no worker and no clock.
"""

from __future__ import annotations

import inspect
import json
import logging
import signal
import socket
import sys
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from gofer.agent.config import Problem
from gofer.agent.failures import Refused, one_line
from gofer.agent.forking import Greeting, read
from gofer.agent.import_only import ImportOnly
from gofer.agent.plugin import Plugin
from gofer.agent.sources import locate
from gofer.rmi.api import Target
from gofer.rmi.model.helper import end_with_parent, serve, threads
from gofer.rmi.model.pipe import LineHandler

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Fork calls until the agent closes the connection. Returns the exit status.

    Args:
        argv: the number of the connection's descriptor.
    """
    # Until it listens to the agent, it could not notice the end of that.
    end_with_parent(signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    control = socket.socket(fileno=int(argv[0]))
    control.set_inheritable(False)
    words = _receive(control)
    if words is None:
        return 0
    told = read(words)
    sys.path[:] = told.path
    _log_to_agent(told.config.logging.levels)
    try:
        plugin = _prepare(told)
    except BaseException as raised:  # noqa: BLE001 - whatever the plugin's code does, the agent is told
        why = str(raised) if isinstance(raised, Refused) else one_line(raised)[0]
        control.sendall(json.dumps(why).encode() + b"\n")
        return 1
    if started := threads():
        text = (
            f"importing it starts threads ({', '.join(started)}), which a fork would not have; "
            "start them in a @load function, or with the first call"
        )
        control.sendall(json.dumps(text).encode() + b"\n")
        return 1
    end_with_parent(0)  # the agent's thread that has started this may end before the agent does

    def find(space: str | None, method: str) -> Target:
        return plugin.api.find(plugin.name if space is None else space, method)

    control.sendall(b"null\n")
    serve(control, find, plugin.entered)
    return 0


def _receive(control: socket.socket) -> bytes | None:
    wanted, read = 8, b""
    while len(read) < wanted:
        part = control.recv(wanted - len(read))
        if not part:
            return None
        read += part
        if len(read) == wanted == 8:
            wanted += int.from_bytes(read, "big")
    return read[8:]


def _prepare(told: Greeting) -> Plugin:
    """Import the plugin, and run what it has marked ``@load(fork=True)``."""

    def find(plugin: Plugin) -> None:
        source = told.source if plugin.name == told.name else locate(told.root, plugin.descriptor)
        if isinstance(source, Problem):
            raise Refused(plugin, source)
        plugin.source = source

    container = ImportOnly(told.root, told.config, told.descriptors, find)
    plugin = container.make(told.name)
    container.fill(plugin)
    with plugin.entered():
        for target in plugin.api.loads:
            if target.mark.load_in_fork:
                value = target.invoke()
                if inspect.iscoroutine(value):
                    _complete(value)
    return plugin


def _log_to_agent(levels: Mapping[str, int]) -> None:
    """Send what is logged to the agent, which has these levels, too."""
    logging.basicConfig(level=levels.get("root", logging.INFO), handlers=[LineHandler()], force=True)
    for name, level in levels.items():
        if name != "root":
            logging.getLogger(name).setLevel(level)


def _complete(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine to its end, on a loop that is gone after that: a fork could not go on with it."""
    import asyncio  # 3 MB, which each child would have, too

    asyncio.run(coroutine)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
