"""Calling hooks: one implementation after another, so that one that raises, or hangs, silences no other."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from gofer.limit import LimitedLog
from gofer.rmi.server.reply_encoder import Refusal
from gofer.rmi.server.serial import Outcome, SerialThread

if TYPE_CHECKING:
    from gofer.rmi.request import Received
    from gofer.rmi.server.service import Service

__all__ = ["HookCalls", "Raised", "call_each", "named"]

log = logging.getLogger(__name__)

_MOST = 10_000  # events that wait for one implementation of gofer_finished
_MOST_BYTES = 64 * 1024 * 1024  # of the requests that these hold


Entered = Callable[[], AbstractContextManager[object]]


class Raised(NamedTuple):
    """What an implementation of a hook has raised."""

    implementation: str
    error: BaseException


def named(implementation: Any) -> str:
    """Name an implementation of a hook: the module that it is in, and its name there."""
    function = getattr(implementation.function, "__func__", implementation.function)
    owner = getattr(function, "__module__", None) or getattr(implementation.plugin, "__name__", "?")
    return f"{owner}.{getattr(function, '__name__', '?')}"


def call_each(
    implementations: Sequence[Any],
    arguments: Mapping[str, Any],
    *,
    first: bool = False,
    last: type | None = None,
    calling: Callable[[str], object] = lambda name: None,
) -> tuple[list[Any], list[Raised]]:
    """Call implementations of a hook, in pluggy's order, all of them, whatever one raises.

    Args:
        implementations: as ``get_hookimpls`` of pluggy's caller of the hook returns them: the first one comes last.
        first: end with the first that returns something.
        last: the implementations of this class are called only if nothing has raised before.
        calling: told the name of each implementation before its call.

    Returns:
        What they returned, but None; and what they raised.
    """
    found: list[Any] = []
    raised: list[Raised] = []
    wrapping: list[tuple[Any, Any]] = []
    for one in reversed(implementations):
        if raised and last is not None and isinstance(one.plugin, last):
            continue
        calling(named(one))
        try:
            value = one.function(*[arguments[name] for name in one.argnames])
            if one.wrapper or one.hookwrapper:
                next(value)
                wrapping.append((one, value))
                continue
        except BaseException as error:  # noqa: BLE001 - a plugin's code; whoever calls this decides what it means
            raised.append(Raised(named(one), error))
            continue
        if value is not None:
            found.append(value)
            if first:
                break
    for one, generator in reversed(wrapping):
        calling(named(one))
        try:
            found = _end(one, generator, found)
        except BaseException as error:  # noqa: BLE001 - as above
            raised.append(Raised(named(one), error))
    return found, raised


def _end(wrapper: Any, generator: Any, found: list[Any]) -> list[Any]:
    import pluggy

    try:
        generator.send(pluggy.Result(found, None) if wrapper.hookwrapper else found)
    except StopIteration as end:
        return end.value if wrapper.wrapper and isinstance(end.value, list) else found
    generator.close()
    raise RuntimeError("a wrapper has a second yield")


class _Listener:
    """One implementation of gofer_finished, and the thread that tells it of one end after the other."""

    def __init__(self, implementation: Any) -> None:
        self._implementation = implementation
        self._name = named(implementation)
        self.thread = SerialThread(f"gofer-finished-{self._name}")
        self._sizes: deque[int] = deque()  # of the requests that it is not told of yet
        self._bytes = 0  # of all these, about
        self._complain = LimitedLog(log, rate=0.1, burst=5)

    def tell(self, arguments: Mapping[str, Any], entered: Entered, size: int) -> None:
        """Have it told of the end of a request; not where it is too slow, or hangs. Never waits."""
        waiting = len(self._sizes)
        if waiting >= _MOST or self._bytes + size > _MOST_BYTES:
            text = "hook %s is too slow, or hangs: %d finished requests wait for it, and it does not get this one"
            self._complain(logging.ERROR, text, self._name, waiting)
            return
        self._bytes = self._bytes + size if waiting else size
        self._sizes.append(size)
        self.thread.put(partial(self._tell, arguments, entered))

    def stop(self) -> None:
        """Let the thread end; say of how many ends it is not told."""
        untold = len(self._sizes)
        if untold:
            text = "hook %s is too slow, or hangs: the agent ends, and has not told it of %d finished requests"
            log.error(text, self._name, untold)
        self.thread.stop()

    def _tell(self, arguments: Mapping[str, Any], entered: Entered) -> None:
        self._bytes -= self._sizes.popleft()
        raised: list[BaseException] = []
        began = time.monotonic()
        try:
            with entered():
                raised = [one.error for one in call_each([self._implementation], arguments)[1]]
        except BaseException as failed:  # noqa: BLE001 - a plugin's code, and the next end is told all the same
            raised = [failed]
        arguments["request"].channel.counters.time(("hook", "gofer_finished"), time.monotonic() - began)
        for error in raised:
            self._complain(logging.ERROR, "hook %s failed", self._name, error=error)


class HookCalls:
    """Tells the hooks of an agent of its requests. Any thread; only ``flush`` waits.

    Each implementation of gofer_finished is called by a thread of its own: none waits for another, and neither the
    thread that reads the broker nor the ledger's, nor a worker, waits for any.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[Any, _Listener] = {}
        self._complain = LimitedLog(log)

    def finished(self, service: Service, request: Received, outcome: str, seconds: float) -> None:
        """Have all implementations of gofer_finished told of the end of a request."""
        implementations = service.hook.gofer_finished.get_hookimpls()
        if not implementations:
            return
        arguments = {"plugin": service.plugin, "request": request, "outcome": outcome, "seconds": seconds}
        for one in reversed(implementations):
            self._listener(one, implementations).tell(arguments, service.entered, 2 * len(request.delivery.body))

    def flush(self, timeout: float) -> bool:
        """Wait until all were told of what has ended so far, at most ``timeout`` seconds; tell whether they were."""
        deadline = time.monotonic() + timeout
        with self._lock:
            threads = [one.thread for one in self._listeners.values() if not one.thread.is_current]
        return all(one.flush(max(0.0, deadline - time.monotonic())) for one in threads)

    def stop(self) -> None:
        """Have all threads end that have nothing left to do. ``flush`` goes before; what it did not reach is logged."""
        with self._lock:
            for one in self._listeners.values():
                one.stop()

    def accept(
        self, thread: SerialThread, service: Service, request: Received, done: Callable[[Refusal | None], object]
    ) -> None:
        """Ask all implementations of gofer_accept, as a job of a thread.

        Args:
            done: called once, with why the request is refused; None: it is not.
        """
        asked = [""]
        raised: list[Raised] = []

        def work() -> None:
            hooks, arguments = service.hook.gofer_accept.get_hookimpls(), {"plugin": service.plugin, "request": request}
            began = time.monotonic()
            with service.entered():
                _, failed = call_each(hooks, arguments, calling=lambda name: asked.__setitem__(0, name))
            raised.extend(failed)
            if hooks:
                request.channel.counters.time(("hook", "gofer_accept"), time.monotonic() - began)

        def late() -> None:
            text = "plugin %s: hook %s has taken more than %g s for %r, which is therefore rejected"
            self._complain(logging.ERROR, text, service.name, asked[0], thread.limit, request)
            done(_refused(f"TimeoutError: {asked[0]} took longer than {thread.limit:g} s"))

        outcome = thread.limited(work, late)
        if outcome is Outcome.FULL:
            text = "plugin %s: %r is rejected: %d calls of gofer_accept hang"
            self._complain(logging.ERROR, text, service.name, request, thread.most)
            done(_refused(f"TimeoutError: {thread.most} calls of gofer_accept hang"))
        elif outcome is Outcome.DONE:
            done(_refused(f"{type(raised[0].error).__name__}: {_words(raised[0].error)}") if raised else None)

    def _listener(self, implementation: Any, present: list[Any]) -> _Listener:
        listener = self._listeners.get(implementation)
        if listener is None:
            with self._lock:
                for gone in [
                    one for one in self._listeners if one not in present and not self._listeners[one].thread.busy
                ]:
                    del self._listeners[gone]  # of code that is not loaded any more
                listener = self._listeners.setdefault(implementation, _Listener(implementation))
        return listener


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # noqa: BLE001 - a plugin's code, too
        return "(its text cannot be shown)"


def _refused(details: str) -> Refusal:
    details = details[:1000].encode("utf-8", "backslashreplace").decode()
    return Refusal("hook.refused", "refused by a hook of the agent", details)
