"""``python -m gofer.agent.helper``: the process that forks one plugin's calls. Started by gofer alone.

It imports the plugin's module, and the modules of plugins that this one asks for, as the agent has. It runs the
``@load`` functions that say ``fork=True``. It takes no requests itself.

For ``goferd --check``, ``gofer plugins``, reloads and others it tells what is wrong with what is installed, or what can
be called. Each import has a process of its own for that, and a limit of time.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

from msgspec import Struct
from msgspec.structs import astuple

from gofer.agent.builtin import admin_api
from gofer.agent.config import AgentConfig, Descriptor, Problem, redescribe
from gofer.agent.container import PluginContainer
from gofer.agent.failures import Refused, not_identified, one_line
from gofer.agent.loader import Loader
from gofer.agent.plugin import Plugin
from gofer.agent.plugin_code import authenticate, exchange_hooks, find_plugin, import_code, locate_plugin
from gofer.agent.sharing import accepting, homes
from gofer.agent.sources import GROUP, Aside
from gofer.agent.states import State
from gofer.entry_points import load, scan
from gofer.errors import ConfigError, PluginError
from gofer.messaging.adapter import Adapter
from gofer.rmi.api import Target
from gofer.rmi.model import pipe
from gofer.rmi.model.fork import died
from gofer.rmi.model.fork_children import end_with_parent, serve, threads
from gofer.root import Root
from gofer.sections import Sections
from gofer.tracing import use

__all__ = ["main"]


_AT_A_TIME = 4  # imports to see what is wrong with them
_PIPE = 65536  # bytes that a pipe holds


class _Child(Struct):
    """A process that imports something. ``value``, ``output``: pipes for what it returns, and prints.

    ``said``: what has come from each; ``open``: those from which more may come.
    """

    number: int
    pid: int
    deadline: float
    value: int
    output: int
    said: dict[int, bytes]
    open: set[int]

    def read(self, end: int) -> None:
        """Take what a pipe holds now. Of what is printed only the end is kept: it may be without end."""
        with suppress(BlockingIOError):
            more = os.read(end, _PIPE)
            self.said[end] = (self.said[end] + more)[0 if end == self.value else -_PIPE :]
            if not more:
                self.open.remove(end)


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
    if "checks" in told:
        _answer(control, _checked(told, control))
        return
    if told["name"] is None:
        _answer(control, _imports(told, locate_plugin).methods(told["modules"]))
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
        if name in self.imports.pending and (plugin := self._made(name)).enabled:
            self.guarded(plugin, self._fill)

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

        for step in (partial(locate_plugin, self.root), authenticate, fill):
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


def _checked(told: Mapping[str, Any], control: socket.socket) -> list[tuple[Any, str]]:
    """Tell what is wrong with what is to be imported, each in a process of its own: it may end, kill or hang that."""
    group = told.get("group")
    scan(group or GROUP)  # once, for all
    end_with_parent(0)  # it notices by its connection, and ends what the imports have started
    if group is not None:
        return _call_forked([partial(_wrong_object, group, name) for name in told["checks"]], told["seconds"], control)
    return _call_forked([partial(_wrong_plugin, told, *one) for one in told["checks"]], told["seconds"], control)


def _wrong_plugin(told: Mapping[str, Any], file: str, sections: Sections) -> tuple[list[tuple[Any, ...]], list[str]]:
    """Return what is wrong with a plugin, and the names of those that cannot be imported."""
    try:
        name = redescribe(Path(file), sections)[0].name
    except ConfigError as changed:
        return [("error", file, "main", "plugin", str(changed))], []
    # Its own descriptor, even if another one has that name.
    imports = _imports({**told, "descriptors": [*told["descriptors"], (file, sections)]}, find_plugin)
    problems = imports.problems(name, told["unavailable"])
    failed = [name for name, one in imports.plugins.items() if one.state is State.QUARANTINED]
    return list(map(astuple, problems)), failed


def _wrong_object(group: str, name: str) -> str | None:
    """Return what is wrong with an adapter or an authenticator; None: nothing."""
    try:
        found = load(group, name)
    except PluginError as error:
        return str(error)
    if group == "gofer.adapters":
        fits = isinstance(found, type) and issubclass(found, Adapter)
        return None if fits else f"{found!r} is not a subclass of gofer.messaging.adapter.Adapter"
    missing = [method for method in ("sign", "validate") if not callable(getattr(found, method, None))]
    return f"{found!r} has no method {' and no method '.join(missing)}" if missing else None


def _call_forked(
    functions: Sequence[Callable[[], Any]], seconds: float, control: socket.socket
) -> list[tuple[Any, str]]:
    """Call each function in a process of its own, some at a time, each for so many seconds.

    Ends all that, and this process, when whoever waits for it has gone.

    Returns:
        For each its value, plain JSON; or None, and in words what became of its process.
    """
    found: list[tuple[Any, str]] = [(None, "")] * len(functions)
    waiting = list(enumerate(functions))
    running: list[_Child] = []
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)  # whoever has started this may have had it ignored
    while waiting or running:
        while waiting and len(running) < _AT_A_TIME:
            running.append(_forked(*waiting.pop(0), seconds))
        first = min(child.deadline for child in running)
        ends = {end: child for child in running for end in child.open}
        for end in select.select([woken, control.fileno(), *ends], [], [], max(0.0, first - monotonic()))[0]:
            if end == control.fileno():  # nothing more is said there
                for child in running:
                    _end(child)
                sys.exit()
            elif end == woken:
                os.read(woken, _PIPE)
            else:
                ends[end].read(end)
        for child in list(running):
            ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            if ended or monotonic() >= child.deadline:
                running.remove(child)
                answer = _end(child)
                found[child.number] = answer if ended else (None, f"importing it takes longer than {seconds:g} s")
    return found


def _forked(number: int, function: Callable[[], Any], seconds: float) -> _Child:
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
    (value, value_in), (output, output_in) = pipes
    pid = os.fork()
    if not pid:
        os.close(value)
        os.close(output)
        _become_child(function, value_in, output_in)
    os.close(value_in)
    os.close(output_in)
    os.set_blocking(value, False)
    os.set_blocking(output, False)
    return _Child(number, pid, monotonic() + seconds, value, output, {value: b"", output: b""}, {value, output})


def _become_child(function: Callable[[], Any], value: int, output: int) -> NoReturn:
    status = 1
    try:
        own = os.getpid()
        end_with_parent(signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.dup2(output, 1)
        os.dup2(output, 2)
        answer = json.dumps(function()).encode()
        if os.getpid() == own:  # else the import has forked this one
            with open(value, "wb") as writer:
                writer.write(answer)
        status = 0
    except BaseException:  # noqa: BLE001 - the parent is told its last line
        traceback.print_exc()
    finally:
        os._exit(status)  # whatever threads or exit handlers the import has left


def _end(child: _Child) -> tuple[Any, str]:
    """Kill a child and all that it has started, which must not outlive it; return what came of it."""
    # Until it is waited for, the number is its own.
    with suppress(ProcessLookupError):  # it has no group of its own yet
        os.killpg(child.pid, signal.SIGKILL)
    os.kill(child.pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    for end in list(child.open):
        child.read(end)
    for end in (child.value, child.output):
        os.close(end)
    if status == 0 and (value := child.said[child.value]):
        return json.loads(value), ""
    lines = child.said[child.output].decode("utf-8", "replace").splitlines()
    return None, died(status, next(filter(None, map(str.strip, reversed(lines))), ""))


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
