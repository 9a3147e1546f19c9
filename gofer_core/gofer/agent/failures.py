"""What a plugin's code may do wrong: raise, end the process, hang. Each becomes one line, and one plugin's problem."""

from __future__ import annotations

import logging
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gofer.agent.config import Problem
from gofer.errors import GoferError, PluginError

__all__ = ["Broken", "Refused", "blamed", "not_identified", "one_line", "why_not_loaded", "within"]

log = logging.getLogger(__name__)

_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep

#: Modules of gofer 2 that are gone, with all below them, and what to write instead.
_GONE = {
    "gofer.agent.action": "mark a function with @action, from gofer.decorators",
    "gofer.agent.whiteboard": "a plugin has its own: plugin.whiteboard",
    "gofer.common": "Python has its own for what was there: os.makedirs, threading, functools",
    "gofer.compat": "write for Python 3: str, json",
    "gofer.messaging.adapter": "what programs use of it is in gofer.messaging: from gofer.messaging import Queue, URL",
    "gofer.messaging.async": "write `from gofer.rmi.reply import ReplyConsumer`",
    "gofer.messaging.broker": "write `from gofer.messaging import Connector`",
    "gofer.messaging.consumer": "write `from gofer.messaging import Consumer`",
    "gofer.messaging.producer": "write `from gofer.messaging import Producer`",
    "gofer.mp": "mark a method with @fork, from gofer.decorators; Python has multiprocessing",
    "gofer.rmi.consumer": "replies are read with `from gofer.rmi.reply import ReplyConsumer`",
    "gofer.rmi.store": "requests are no files; plugin.pending is how many have not ended",
    "gofer.rmi.tracker": "a method asks Context.current().cancelled(), from gofer.agent.rmi",
    "gofer.thread": "Python has its own: threading.Thread",
    "gofer.threadpool": "Python has its own: concurrent.futures.ThreadPoolExecutor",
    "gofer.transport": "the adapter is named in the URL; write `from gofer.messaging import URL`",
}
#: Names of gofer 2 that plugins import from other modules, too, and where they are now.
_HOMES = {
    "gofer.agent": "PluginContainer",
    "gofer.agent.plugin": "Plugin",
    "gofer.agent.rmi": "Context",
    "gofer.messaging": "Connector Consumer Document Exchange NotFound Producer Queue URL",
    "gofer.messaging.auth": "Authenticator ValidationFailed",
    "gofer.metrics": "Timer",
    "gofer.rmi.dispatcher": "DispatchError MemberNotFound NamespaceNotFound NotAuthorized RemoteException",
    "gofer.rmi.policy": "RequestTimeout",
    "gofer.rmi.reply": "Listener ReplyConsumer",
    "gofer.rmi.shell": "Shell",
}
_PAGE = 'the page "Coming from gofer 2" of the documentation lists what plugins can import'


class Broken(PluginError):
    """A plugin's own code failed. The text is one line; ``trace`` is the whole traceback."""

    def __init__(self, text: str, trace: str) -> None:
        super().__init__(text)
        self.trace = trace


class Refused(PluginError):
    """A :class:`gofer.agent.plugin.Plugin` cannot run.

    ``problem`` is the line that says why; ``trace`` the traceback, if its code raised.
    """

    def __init__(self, plugin: Any, problem: Problem, trace: str | None = None) -> None:
        super().__init__(str(problem))
        self.plugin = plugin
        self.problem = problem
        self.trace = trace

    @classmethod
    def at(cls, plugin: Any, section: str, key: str, text: str, trace: str | None = None) -> Refused:
        """Make the error for a place of the plugin's descriptor."""
        return cls(plugin, Problem("error", str(plugin.descriptor.file), section, key, text), trace)


def not_identified(unavailable: str) -> str:
    """Say why a plugin without an authenticator must not run, and what to set.

    Args:
        unavailable: why no password can be checked.
    """
    return (
        f"callers cannot be identified: there is no authenticator, and {unavailable}. Set [messaging] "
        "authenticator in the descriptor, like authenticator = hmac, "
        "or [pam] service in agent.conf to a file of /etc/pam.d"
    )


def why_not_loaded(plugin: Any, asking: Any | None) -> str:
    """Say why a plugin has nothing to give: its state, and the first reason, or the cycle of those who wait.

    Args:
        asking: the plugin whose code wants something of it, if any.
    """
    cycle = _cycle(plugin, asking)
    if cycle:
        return f"it is {plugin.state.value}, and they need each other: {' -> '.join(cycle)}"
    # Of a row of those that failed for each other's sake, the first one says why.
    first = (plugin.error or "").rpartition("it is quarantined: ")[2].removeprefix(f"{plugin.descriptor.file}: ")
    return f"it is {plugin.state.value}" + (f": {first}" if first else "")


def _cycle(plugin: Any, asking: Any | None) -> list[str]:
    """Name the plugins by which one that is being loaded waits for the one that asks; none: it does not."""
    one, names = plugin, [plugin.name]
    while asking is not None and one is not asking:
        asked = None if one.asks is None else plugin.container.plugins.get(one.asks)
        if asked is None or asked.name in names:
            return []
        one = asked
        names.append(one.name)
    return [*names, plugin.name] if asking not in (None, plugin) else []


@contextmanager
def blamed(plugin: Any, section: str, key: str, what: str = "") -> Iterator[None]:
    """Turn whatever is raised within into a Refused for this plugin, at this place of its descriptor.

    Everything, an end of the process included: a plugin's code raises it.
    """
    try:
        yield
    except Refused:
        raise
    except BaseException as raised:
        if isinstance(raised, Broken):
            words, trace = str(raised), raised.trace
        else:
            words, trace = one_line(raised)
            if isinstance(raised, GoferError):
                words = str(raised)  # it names what it is about; the class and the place would only be in the way
        if plugin.missed is not None and "'NoneType'" in words:  # what Plugin.find has given where there is none
            words += f" ({plugin.missed})"
        raise Refused.at(plugin, section, key, f"{what}: {words}" if what else words, trace) from raised


def one_line(raised: BaseException) -> tuple[str, str]:
    """Tell an exception that a plugin's code raised in one line, with the place, and as its whole traceback."""
    trace = "".join(traceback.format_exception(raised))
    # The frames of the import machinery say nothing about the plugin.
    frames = [f for f in traceback.extract_tb(raised.__traceback__) if not f.filename.startswith("<frozen ")]
    frames = [f for f in frames if not f.filename.startswith(_OURS)] or frames  # the plugin's line, not a decorator's
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    if isinstance(raised, SyntaxError) and raised.filename:
        place = f" ({raised.filename}, line {raised.lineno})"
    try:
        words = " ".join((raised.msg if isinstance(raised, SyntaxError) else str(raised)).split())
    except Exception:  # noqa: BLE001 - the plugin's own __str__ may raise; its class's name must do
        words = ""
    if isinstance(raised, SystemExit):
        words = f"it ended the process by exit status {words or 0}"
    if instead := _instead(raised):
        words = f"{words}; {instead}"
    return f"{type(raised).__name__}{': ' if words else ''}{words[:300]}{place}", trace


def within(seconds: float, work: Callable[[], object], name: str, *, late: Callable[[], object] | None = None) -> bool:
    """Do some work in a thread of its own, and wait for that; False: it goes on, and nothing waits for it any more.

    Args:
        seconds: how long to wait.
        name: the thread's.
        late: called by that thread when the work has ended well, and nothing waits for it any more.

    Raises:
        BaseException: what the work has raised, if somebody still waits for it; else that is logged.
    """
    failed: list[BaseException] = []
    told = threading.Lock()  # taken by the end of the work, or by who does not wait any more

    def run() -> None:
        try:
            work()
        except BaseException as raised:  # noqa: BLE001 - raised again by whoever waits
            failed.append(raised)
        if told.acquire(blocking=False):
            return
        try:
            if failed:
                log.error("%s: it failed after nobody waited for it any more", name, exc_info=failed[0])
            elif late is not None:
                late()
        except BaseException:  # a plugin's code, again
            log.exception("%s: the step after a late result has failed", name)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if told.acquire(blocking=False):
        return False
    if failed:
        raise failed[0]
    return True


def _instead(raised: BaseException) -> str:
    """Say what to write instead of what is imported from gofer 2 and is not there any more."""
    if isinstance(raised, SyntaxError) and re.search(r"\bgofer\.(rmi|messaging)\.async\b", raised.text or ""):
        return "`async` is a keyword of Python now: write `from gofer.rmi.reply import ReplyConsumer`"
    home = raised.name or "" if isinstance(raised, ImportError) else ""
    if home.partition(".")[0] != "gofer" or "in this version of gofer" in str(raised):  # that one says what to write
        return ""
    wanted = re.match(r"cannot import name '(\w+)'", str(raised))
    if wanted is not None:
        for module, names in _HOMES.items():
            if wanted[1] in names.split():
                return f"write `from {module} import {wanted[1]}`"
    parts = home.split(".")
    known = [_GONE[name] for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in _GONE]
    what = f"such name in {home}" if wanted is not None else "such module"
    return known[0] if known else f"this version of gofer has no {what}; {_PAGE}"
