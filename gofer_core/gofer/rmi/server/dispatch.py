"""From a request to its method: which one answers, whether its caller may, and the call."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from hmac import compare_digest, digest
from secrets import token_bytes
from typing import Any

from gofer.errors import Cancelled, DispatchError, NotAuthorized, SecretNotMatched, SecretRequired
from gofer.rmi.api import Target
from gofer.rmi.context import Context
from gofer.rmi.model import DIRECT
from gofer.rmi.model.direct import call
from gofer.rmi.request import Received
from gofer.rmi.server.in_flight import Registry
from gofer.rmi.server.logins import Attempt, Logins, attempt
from gofer.rmi.server.persistence import Persistence
from gofer.rmi.server.service import Service

__all__ = ["Dispatch", "Pending", "Unfit", "authorize", "way_out"]

log = logging.getLogger(__name__)

_PLAIN = frozenset({type(None), bool, int, float, str, list, dict})
_UNLIMITED = (None, None, None)


@dataclass(frozen=True)
class Dispatch:
    """Calls the methods of requests. In a worker; an ``async def`` goes on in its plugin's event loop.

    Args:
        returned: called with each request, and with what its method has returned, or raised. Any thread.
    """

    registry: Registry
    persistence: Persistence
    logins: Logins
    returned: Callable[[Received, Any, BaseException | None], object]

    def call(self, request: Received) -> None:
        """Find the method, and call it; if that needs a password, once it is checked."""
        service = request.channel.service
        token = Context(request).enter()
        try:
            with service.entered():
                if service.guarded:
                    service.authorize(request)  # first: who may not call it does not hear what there is
                target = request.api = request.api or _find(service, request)
                if service.guarded:
                    service.authorize(request, target)
                if request.beside and not target.holds_no_thread:  # a hook has sent it elsewhere
                    request.beside, request.resolved = False, True
                    service.workers.put(request)
                    return
                if target.mark.logins and (login := _login_of(target, request)) is not None:
                    self.logins.check(login, partial(self._logged_in, request, target))
                    return
                if target.mark.once:
                    _check_once(target, exclusive=request.channel.exclusive)
                    self.persistence.claim(request, once=True)
                self._limit(request, target)
                self.persistence.begin(request)
                value = _invoke(service, request, target)
                if type(value) not in _PLAIN:
                    if type(value) is Pending:
                        value.add_done_callback(lambda done: self.returned(request, *_outcome_of(done)))
                        return
                    if inspect.isawaitable(value):
                        self._await(request, value)
                        return
        except BaseException as raised:  # noqa: BLE001 - SystemExit, too, is a result; its caller waits for one
            self.returned(request, None, raised)
        else:
            self.returned(request, value, None)
        finally:
            Context.leave(token)

    def go_on(self, request: Received) -> None:
        """Go on with a request whose method is found: its password was checked, or it needs a worker after all."""
        request.resolved = False
        if request.cancelled:
            self.returned(request, None, Cancelled("cancelled before it was started"))
        else:
            self.call(request)

    def _logged_in(self, request: Received, target: Target, refused: NotAuthorized | None) -> None:
        if refused is not None:
            self.returned(request, None, refused)
            return
        request.authenticated, request.resolved = target, True
        request.channel.service.workers.put(request)

    def _limit(self, request: Received, target: Target) -> None:
        """Have the call ended when it takes longer than the smallest of the limits that it has."""
        limits = (target.mark.timeout, request.channel.service.timeout, request.document.timeout)
        if limits != _UNLIMITED:
            seconds = min(one for one in limits if one is not None)
            with self.registry.lock:
                request.late = None
                request.limit = seconds
                request.expires_at = time.monotonic() + max(0.0, seconds)
                request.due = 0.0

    def _await(self, request: Received, value: Awaitable[Any]) -> None:
        """Have the plugin's event loop go on with a coroutine."""
        assert request.api is not None  # noqa: S101 - it has returned the value
        coroutine = request.api.coroutine(value)

        def dropped() -> None:
            self.registry.returned(request)
            request.on_cancel = None

        run = request.channel.service.loop.run(coroutine, partial(self.returned, request), dropped)
        if run is None:
            self.registry.returned(request)
            log.warning("%r: not run, its plugin has stopped; the broker delivers it again", request)
        elif request.limit is not None:
            # One that is only told to stop decides for itself; one that is overdue has been told.
            request.on_cancel = lambda: run.cancel() if request.overdue else None
            if request.returned:
                request.on_cancel = None  # it refers to the request


def _find(service: Service, request: Received) -> Target:
    """Find the method that answers a request.

    Raises:
        NamespaceNotFound, MemberNotFound: the plugin that was asked has none, and nobody else answers for it.
        Exception: whatever a hook raised.
    """
    route = service.hook.gofer_route
    if _is_ours(route):  # what a plugin has, it answers itself
        found = service.api.look_up(request.classname, request.method)
        if found is not None:
            return found
    owner = route(plugin=service.plugin, request=request)
    return (service if owner is None else owner).api.find(request.classname, request.method)


def _invoke(service: Service, request: Received, target: Target) -> Any:
    """Call a method, if its caller may, and return its value.

    For ``async def`` that is an awaitable, to be run in the context that is current now.

    Raises:
        NotAuthorized: not for this caller.
        Unfit: not with these arguments.
        DispatchError: it cannot be run here.
        BaseException: whatever the method or a hook raised.
    """
    mark = target.mark
    if mark.secret is not None:
        authorize(target, request)
    if service.typed and not mark.untyped:
        _check_arguments(target, request)
    hook = service.hook.gofer_call
    if _is_ours(hook):  # it calls the method
        return _run(service, target, request)
    once = _Once(lambda: _run(service, target, request))
    began = time.monotonic()
    try:
        value = hook(plugin=service.plugin, request=request, invoke=once)
        # None may mean that no hook has called it: then this is the place.
        return once() if value is None else value
    finally:
        request.channel.counters.time(("hook", "gofer_call"), time.monotonic() - began - once.seconds)
        once.forget()


class Unfit(Exception):
    """Arguments do not fit the annotations of the method. The text says which one, and where in it."""


def _check_arguments(target: Target, request: Received) -> None:
    """Check that the arguments of a call fit the annotations of the method, and of its class's constructor.

    The method is given what was sent: nothing is converted.

    Raises:
        Unfit: one does not.
    """
    asked, contract = request.document.request, target.contract
    wrong = contract.fault(asked.args or (), asked.keywords) if contract.checks else None
    if wrong is None and asked.cntr is not None and any(asked.cntr) and (constructor := target.constructor) is not None:
        wrong = constructor.fault(asked.cntr[0] or (), asked.cntr[1] or {})
        wrong = wrong and f"constructor, {wrong}"
    if wrong is not None:
        raise Unfit(f"{target.name}(): {wrong}")


def _check_once(target: Target, *, exclusive: bool) -> None:
    """Check that a method which must not run twice may run here.

    Raises:
        DispatchError: another agent may read the queue, too.
    """
    if not exclusive:
        raise DispatchError(
            f"{target.name}(): marked @once, which needs a queue that is read by this agent alone: "
            "set [model] exclusive=1 for the plugin whose queue this is. Over AMQP 1.0 no broker can do that: "
            "use another protocol for this plugin, such as amqp+amqp://"
        )


def _is_ours(hook: Any) -> bool:
    """Tell whether no plugin implements a hook: the agent's own implementation, called last, is the only one."""
    found: Sequence[Any] = getattr(hook, "get_hookimpls", tuple)()
    return len(found) == 1 and bool(found[0].trylast)


def _run(service: Service, target: Target, request: Received) -> Any:
    """Run a method by its model."""
    if target.model == DIRECT:
        return call(target, request.document.request)
    forks = service.forks(target)
    if forks is None:
        raise DispatchError(f"{target.name}(): marked @{target.model}, and there is nothing that forks here")
    return forks.call(target, request, service.max_message)


class Pending(Future[Any]):
    """A value that comes later, from a method of the agent's own: one thread answers all of these."""


def _outcome_of(done: Future[Any]) -> tuple[Any, BaseException | None]:
    """Return the value that has come, and what was raised instead."""
    raised = done.exception()
    return (None, raised) if raised is not None else (done.result(), None)


class _Once:
    """The call of one method, for hooks: called again it returns, or raises, what it did the first time."""

    __slots__ = ("_called", "_raised", "_run", "_value", "seconds")

    def __init__(self, run: Callable[[], Any]) -> None:
        self._run = run
        self._called = False
        self.seconds = 0.0  # that it took
        self._value: Any = None
        self._raised: BaseException | None = None

    def __call__(self) -> Any:
        if self._called:
            if self._raised is not None:
                raise self._raised
            return self._value
        self._called = True
        began = time.monotonic()
        try:
            self._value = self._run()
        except BaseException as raised:
            self._raised = raised
            raise
        finally:
            self.seconds = time.monotonic() - began
        return self._value

    def forget(self) -> None:
        """Let go of the exception: its traceback refers to this object, and only the collector would free the two."""
        self._raised = None


def _login_of(target: Target, request: Received) -> Attempt | None:
    """Return the user and the password that a method asks for; None: they were checked, or a signature stands for them.

    Raises:
        NotAuthorized: what else it asks for is not given, or wrong; or they are not there, or of a user who may not.
    """
    mark = target.mark
    if request.authenticated is target:
        return None
    if request.identity is not None and any(login.identity for login in mark.logins):
        return None
    if mark.secret is not None:
        authorize(target, request)
    return attempt(target.name, mark.logins, request.document.pam)


def authorize(target: Target, request: Received) -> None:
    """Check the secret that a method asks its caller for.

    Raises:
        NotAuthorized: it is not given, or wrong. The text tells no secret.
    """
    wanted: Any = target.mark.secret
    given: Any = request.document.secret
    if callable(wanted):
        try:
            wanted = wanted()
        except BaseException as failed:  # noqa: BLE001 - told, and nobody is let in; SystemExit is no exception to that
            # The text of what it raised, and the line that raised it, may hold the secret.
            log.error("%s(): the secret cannot be had: it raised %s", target.name, type(failed).__name__)
            raise NotAuthorized(f"{target.name}(): the agent cannot check the secret; its log says why") from None
    candidates = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(candidates, (list, tuple)) or not all(isinstance(one, str) and one for one in candidates):
        log.error("%s(): its secret is not text, and so nobody may call it", target.name)
        raise NotAuthorized(f"{target.name}(): the agent cannot check the secret; its log says why")
    if given is None:
        raise SecretRequired(f"{target.name}(): a secret is required")
    offered = given if isinstance(given, str) else ""
    matched = False
    # Digests with a key of the moment: all of them are compared, and whole; the time taken tells no length either.
    key = token_bytes(32)
    mine = digest(key, offered.encode("utf-8", "surrogatepass"), "sha256")
    for one in candidates:
        matched |= compare_digest(digest(key, one.encode("utf-8", "surrogatepass"), "sha256"), mine)
    if not matched:
        raise SecretNotMatched(f"{target.name}(): wrong secret")


def way_out(request: Received) -> str:
    """Tell what can be done about a method that goes on for longer than it may."""
    if request.on_expire is not None or (request.api is not None and request.api.model != DIRECT):
        return "Its process is being ended."
    if request.api is not None and request.api.is_async:
        return f"It holds no thread; gofer agent cancel {request.key} ends it where it awaits something."
    return (
        "It holds one of the plugin's threads until it returns; nothing but a restart of goferd ends it. "
        "Mark the method @fork: a process of its own is ended when it takes too long."
    )
