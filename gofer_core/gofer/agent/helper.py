"""``python -m gofer.agent.helper``: the process that forks one plugin's calls. Started by the agent alone.

It imports the plugin's module, and those of plugins that this one asks for, as the agent has; of ``@load`` functions it
runs those that say ``fork=True``. It has no queue, no worker and no clock. For ``goferd --check`` and ``gofer can`` it
only tells what is wrong with the plugin, or what can be called.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from msgspec.structs import astuple

from gofer.agent.builtin import admin_api
from gofer.agent.config import AgentConfig, Descriptor, Problem, redescribe
from gofer.agent.container import PluginContainer
from gofer.agent.failures import Refused, not_identified, one_line
from gofer.agent.loader import Loader
from gofer.agent.modules import Aside
from gofer.agent.plugin import Plugin
from gofer.agent.plugin_code import exchange_hooks, find_plugin, import_code, locate_plugin
from gofer.agent.sharing import accepting, homes
from gofer.agent.states import State
from gofer.errors import ConfigError
from gofer.rmi.api import Target
from gofer.rmi.model import pipe
from gofer.rmi.model.fork_children import end_with_parent, serve, threads
from gofer.root import Root
from gofer.tracing import use

__all__ = ["main"]


def main(argv: Sequence[str]) -> None:
    """Do what the agent says until that closes the connection.

    Args:
        argv: the number of the connection's descriptor.
    """
    # Until it listens to the agent, it could not notice the end of that.
    end_with_parent(signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    control = socket.socket(fileno=int(argv[0]))
    control.set_inheritable(False)
    kind, words = pipe.receive(control)
    if not kind:
        return
    told = json.loads(words)
    sys.path[:] = told["path"]
    os.environ["GOFER_ROOT"] = told["root"]
    if told["check"] and told["name"] is None:
        _answer(control, _imports(told, locate_plugin).methods(told["modules"]))
        return
    if told["check"]:
        imports = _imports(told, find_plugin)
        problems = imports.problems(told["name"], told["unavailable"])
        failed = [name for name, one in imports.plugins.items() if one.state is State.QUARANTINED]
        _answer(control, [list(map(astuple, problems)), failed])
        return
    _log_to_agent(pipe.Sender(control), told["levels"])
    try:
        plugin = _imports(told, locate_plugin).prepared(told["name"])
        use(told["tracer"])
    except BaseException as raised:  # noqa: BLE001 - whatever the plugin's code does, the agent is told
        _answer(control, str(raised) if isinstance(raised, Refused) else one_line(raised)[0])
        return
    if started := threads():
        text = (
            f"importing it starts threads ({', '.join(started)}), which a fork would not have; "
            "start them in a @load function, or with the first call"
        )
        _answer(control, text)
        return
    end_with_parent(0)  # the agent's thread that has started this may end before the agent does

    def find(namespace: str | None, method: str) -> Target:
        return plugin.api.find(plugin.name if namespace is None else namespace, method)

    _answer(control, None)
    serve(control, find, plugin.entered)


class _Imports(Loader):
    """Imports plugins, and those that the code of one asks for meanwhile, and nothing more. One thread."""

    find: Callable[[Root, Plugin], object]

    def begin(self, name: str) -> None:
        """Import one that the code of another asks for."""
        if name in self.imports.pending:
            self.guarded(self._made(name), self._fill)

    def prepared(self, name: str) -> Plugin:
        """Return a plugin whose code is imported, and whose functions have run that are marked ``@load(fork=True)``."""
        plugin = self._made(name)
        self._fill(plugin)
        with plugin.entered():
            for target in plugin.api.loads:
                value = target.invoke() if target.mark.load_in_fork else None
                if inspect.iscoroutine(value):
                    import asyncio  # 3 MB, which each child would have, too

                    asyncio.run(value)
        return plugin

    def problems(self, name: str, unavailable: str | None) -> list[Problem]:
        """Return what is wrong with a plugin. ``unavailable``: why no password can be checked."""
        plugin = self._made(name)
        found: dict[Problem, None] = {}
        odd: list[Problem] = []

        def fill(plugin: Plugin) -> None:
            odd.extend(self._fill(plugin))

        for step in (partial(self.find, self.root), fill):
            try:
                step(plugin)
            except Refused as refused:  # perhaps by its authenticator: then its code is looked at, too
                found[refused.problem] = None
        identified = any(login.identity for target in plugin.api for login in target.mark.logins)
        if unavailable is not None and identified and not found and plugin.authenticator is None:
            text = not_identified(unavailable)
            found[Problem("error", str(plugin.descriptor.file), "main", "plugin", text)] = None
        return [*found, *odd]

    def methods(self, others: Mapping[str, str]) -> list[tuple[str, str, str, list[str]]]:
        """Import all, and return what can be called: plugin, class, method, and the plugins that the method is of.

        Args:
            others: see ``homes``.
        """
        while self.imports.pending:
            self.begin(next(iter(self.imports.pending)))
        for plugin in self.plugins.values():
            plugin.given = list(self.extending(plugin))
        self.build_apis()
        found = []
        for plugin in self.plugins.values():
            forwarded = [target for other in accepting(plugin, self.plugins) for target in other.api]
            found += [
                (plugin.name, target.namespace, target.method, homes(target, self.plugins, others))
                for target in (*plugin.api, *admin_api(plugin), *forwarded)
            ]
        return found

    def _made(self, name: str) -> Plugin:
        plugin = self.plugins[name] = self.imports.pending.pop(name)
        return plugin

    def _fill(self, plugin: Plugin) -> list[Problem]:
        if plugin.source is None:
            self.find(self.root, plugin)
        odd = import_code(self.hooks, plugin, Aside())  # what was compiled may be older than what is there
        exchange_hooks(self.hooks, plugin.module)
        return odd


def _imports(told: Mapping[str, Any], find: Callable[[Root, Plugin], object]) -> _Imports:
    container = PluginContainer(Root(Path(told["root"])), AgentConfig(), loader=_Imports)
    imports = container.loader
    assert isinstance(imports, _Imports)  # noqa: S101 - see above
    imports.find = find
    imports.imports.pending = {one.name: Plugin(container, one) for one in _described(told["descriptors"])}
    return imports


def _described(told: Sequence[tuple[str, Any]]) -> Iterator[Descriptor]:
    for file, sections in told:
        try:
            yield redescribe(Path(file), sections)[0]
        except ConfigError as changed:  # a file that it names
            logging.getLogger(__name__).warning("%s", changed)


def _answer(control: socket.socket, answer: object) -> None:
    pipe.send(control, pipe.IMPORTED, json.dumps(answer).encode())


def _log_to_agent(sender: pipe.Sender, levels: Mapping[str, int]) -> None:
    """Send what is logged to the agent, which has these levels, too."""
    logging.basicConfig(level=levels.get("root", logging.INFO), handlers=[pipe.LogHandler(sender)], force=True)
    for name, level in levels.items():
        if name != "root":
            logging.getLogger(name).setLevel(level)


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # whatever threads or exit handlers the import has left
