"""The call of a request's method: found, allowed, limited in time, and called where its model says."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from gofer.errors import Cancelled, DispatchError, NotAuthorized
from gofer.rmi.context import Context
from gofer.rmi.model import DIRECT
from gofer.rmi.request import Received
from gofer.rmi.server import dispatch
from gofer.rmi.server.logins import Logins
from gofer.rmi.server.persistence import Persistence
from gofer.rmi.server.registry import Registry

if TYPE_CHECKING:
    from gofer.rmi.api import Target

__all__ = ["Execution", "Pending", "way_out"]

log = logging.getLogger(__name__)

_PLAIN = frozenset({type(None), bool, int, float, str, list, dict})


class Pending(Future[Any]):
    """A value that comes later, from a method of the agent's own: one thread answers all of these."""


class Execution:
    """Calls the methods of one agent's requests. In a worker, or in the thread for Admin.

    Args:
        returned: told once, by any thread, what a method has returned or raised, or why it was not called.
    """

    def __init__(
        self,
        registry: Registry,
        persistence: Persistence,
        logins: Logins,
        returned: Callable[[Received, Any, BaseException | None], object],
    ) -> None:
        self._registry = registry
        self._persistence = persistence
        self._logins = logins
        self._returned = returned

    def call(self, request: Received, target: Target | None) -> None:
        """Find the method, and call it; if that needs a password, once it is checked."""
        service = request.channel.service
        token = Context(request).enter()
        try:
            with service.entered():
                target = target or dispatch.find(service, request)
                if request.beside and not target.holds_no_thread:  # a hook has sent it elsewhere
                    request.beside = False
                    service.workers.put(_Continued(self._go_on, request, target, beside=False))
                    return
                login = dispatch.login_of(target, request)
                if login is not None:
                    self._logins.check(login, partial(self._logged_in, request, target))
                    return
                if target.mark.once:
                    self._once(request, target)
                self._limit(request, target)
                self._persistence.begin(request)
                value = dispatch.invoke(service, request, target)
                if type(value) not in _PLAIN:
                    if type(value) is Pending:
                        value.add_done_callback(lambda done: self._returned(request, *_outcome(done)))
                        return
                    if inspect.isawaitable(value):
                        self._await(request, value)
                        return
        except BaseException as raised:  # noqa: BLE001 - SystemExit, too, is a result; its caller waits for one
            self._returned(request, None, raised)
        else:
            self._returned(request, value, None)
        finally:
            Context.leave(token)

    def _go_on(self, request: Received, target: Target) -> None:
        """Go on with a request whose method is found, in a worker."""
        if request.cancelled:
            self._returned(request, None, Cancelled("cancelled before it was started"))
        else:
            self.call(request, target)

    def _logged_in(self, request: Received, target: Target, refused: NotAuthorized | None) -> None:
        if refused is not None:
            self._returned(request, None, refused)
            return
        request.authenticated = target
        request.channel.service.workers.put(_Continued(self._go_on, request, target, beside=request.beside))

    def _once(self, request: Received, target: Target) -> None:
        """Have it written that a method runs which must not run a second time."""
        if not request.channel.exclusive:
            raise DispatchError(
                f"{target.name}(): marked @once, which needs a queue that is read by this agent alone: "
                "set [model] exclusive=1 for the plugin whose queue this is. Over AMQP 1.0 no broker can do that: "
                "use another protocol for this plugin, such as amqp+amqp://"
            )
        self._persistence.claim(request, once=True)

    def _limit(self, request: Received, target: Target) -> None:
        """Have the call ended when it takes longer than the smallest of the limits that it has."""
        asked = (target.mark.timeout, request.channel.service.timeout, request.document.timeout)
        seconds = min((one for one in asked if one is not None), default=None)
        if seconds is not None:
            with self._registry.lock:
                request.late = None
                request.limit = seconds
                request.expires_at = time.monotonic() + max(0.0, seconds)
                request.due = 0.0

    def _await(self, request: Received, value: Awaitable[Any]) -> None:
        """Have the plugin's event loop go on with a coroutine."""
        if request.api is None or not request.api.is_async:
            raise _undeclared(request, value)

        def done(value: Any, raised: BaseException | None) -> None:
            self._returned(request, value, raised)

        def dropped() -> None:
            self._registry.returned(request)
            request.on_cancel = None

        coroutine = value if inspect.iscoroutine(value) else _awaiting(value)
        run = request.channel.service.loop.run(coroutine, done, dropped)
        if run is None:
            self._registry.returned(request)
            log.warning("%r: not run, its plugin has stopped; the broker delivers it again", request)
        elif request.limit is not None:
            # One that is only told to stop decides for itself; one that is overdue has been told.
            request.on_cancel = lambda: run.cancel() if request.overdue else None
            if request.returned:
                request.on_cancel = None  # it refers to the request


class _Continued:
    """A request that goes on in a worker: its password was checked, or its method needs one after all."""

    def __init__(
        self, go_on: Callable[[Received, Target], None], request: Received, target: Target, *, beside: bool
    ) -> None:
        self._go_on = go_on
        self._request = request
        self._target = target
        self.beside = beside

    def run(self) -> None:
        """Go on, as a worker's task."""
        self._go_on(self._request, self._target)


def _outcome(done: Future[Any]) -> tuple[Any, BaseException | None]:
    raised = done.exception()
    return (None, raised) if raised is not None else (done.result(), None)


async def _awaiting(value: Awaitable[Any]) -> Any:
    return await value


def _undeclared(request: Received, value: object) -> TypeError:
    """Make the error for a method that is no ``async def`` and returned an awaitable: nobody will await that now."""
    close = getattr(value, "close", None)
    if callable(close):
        close()
    return TypeError(f"{request.target}() returned a {type(value).__name__}: declare the method `async def`")


def way_out(request: Received) -> str:
    """Tell what can be done about a method that goes on for longer than it may."""
    if request.on_expire is not None or (request.api is not None and request.api.model != DIRECT):
        return "Its process is being ended."
    if request.api is not None and request.api.is_async:
        return f"It holds no thread; gofer mgt --cancel {request.key} ends it where it awaits something."
    return (
        "It holds one of the plugin's threads until it returns; nothing but a restart of goferd ends it. "
        "Mark the method @fork: a process of its own is ended when it takes too long."
    )
