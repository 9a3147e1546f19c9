"""Decorators for plugins. Each puts a mark on a function (``version``: on a class), and nothing else.

They go on functions, methods and ``async def``, bare or with arguments, in any order and stacked::

    @remote
    @fork
    @user(name="root")
    def reboot(self): ...

Wrong use raises at import, with the function's name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from types import NoneType
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from msgspec import Struct

from gofer.crontab import parse_crontab

__all__ = [
    "DIRECT", "FORK", "Action", "Login", "Mark", "Version", "action", "destructive", "direct", "fork", "idempotent",
    "initializer", "load", "mark_of", "once", "pam", "read_only", "remote", "unload", "user", "version", "version_of",
]  # fmt: skip

DIRECT = "direct"
FORK = "fork"

Secret = str | Sequence[str] | Callable[[], Any]
_F = TypeVar("_F", bound=Callable[..., Any])
_C = TypeVar("_C", bound=type)
_P = ParamSpec("_P")
_ATTRIBUTE = "__gofer__"
_SHORTEST, _LONGEST = 0.01, 10 * 365 * 86400.0  # seconds between two runs of an action
_UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400, "weeks": 7 * 86400}
_VERSION = "__gofer_version__"
_NUMBER = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


class Login(Struct, frozen=True):
    """A PAM user who may call; ``service`` None means the agent's own choice.

    ``identity``: a caller with a verified identity needs no password.
    """

    user: str
    service: str | None = None
    identity: bool = False


class Action(Struct, frozen=True):
    """When an action runs. ``interval`` in seconds, or ``cron``; neither: once, at start.

    ``splay`` is in seconds, None: by default.
    """

    interval: float | None = None
    cron: str | None = None
    splay: float | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """All that decorators have said about one function.

    ``untyped``: its annotations say nothing of what callers may pass.
    """

    remote: bool = False
    secret: Secret | None = field(default=None, repr=False)
    model: str | None = None
    timeout: float | None = None
    once: bool = False
    logins: tuple[Login, ...] = ()
    action: Action | None = None
    load: bool = False
    load_in_fork: bool = False
    unload: bool = False
    untyped: bool = False
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False


class Version(Struct, frozen=True):
    """What ``version`` said about a class: callers name it ``of``, and without a number if it is the ``default``."""

    number: str
    of: str
    default: bool = False

    @property
    def namespace(self) -> str:
        """``Dog@2``: as it goes over the wire."""
        return f"{self.of}@{self.number}"


class _Decorator(Protocol):
    def __call__(self, fn: _F, /) -> _F: ...


class _Optional(Protocol[_P]):
    """A decorator that takes arguments, or none at all: ``@remote`` is ``@remote()``."""

    @overload
    def __call__(self, fn: _F, /) -> _F: ...
    @overload
    def __call__(self, *args: _P.args, **kws: _P.kwargs) -> _Decorator: ...


def mark_of(fn: object) -> Mark | None:
    """Return the mark on a function, or None when it has none. Bound and class methods are looked through."""
    fn = getattr(fn, "__func__", fn)
    found = getattr(fn, "__dict__", {}).get(_ATTRIBUTE)
    return found if isinstance(found, Mark) else None


def _decorator(make: Callable[_P, Mark]) -> _Optional[_P]:
    """Make a decorator of a function that checks its arguments and returns the mark.

    What is wrong is told when the function that is decorated is known, with its name.
    """
    signature = inspect.signature(make)

    @wraps(make)
    def decorator(*given: Any, **kws: Any) -> Any:
        bare = bool(given) and not isinstance(given[0], (str, int, float, list, tuple, NoneType))
        args = given[1:] if bare else given

        def put(target: Any, /) -> Any:
            on = f"@{make.__name__} on {_name(target)}"
            try:
                signature.bind(*args, **kws)
            except TypeError as wrong:
                raise TypeError(f"{on}: {wrong}; it takes {', '.join(signature.parameters) or 'none'}") from None
            try:
                return _mark(target, make(*args, **kws))
            except TypeError as wrong:
                raise TypeError(f"{on}: {wrong}") from None

        return put(given[0]) if bare else put

    return decorator


def _mark(fn: _F, added: Mark) -> _F:
    target: Any = fn.__func__ if isinstance(fn, (staticmethod, classmethod)) else fn
    if not inspect.isfunction(target):
        raise TypeError(f"goes on a function or method, not on a {type(fn).__name__}")
    before: Mark = target.__dict__.get(_ATTRIBUTE) or Mark()
    if added.model is not None and before.model not in (None, added.model):
        raise TypeError(f"it is {before.model!r} already")
    for once_only in ("secret", "timeout", "action"):
        if getattr(added, once_only) is not None and getattr(before, once_only) is not None:
            raise TypeError(f"{once_only} is given twice")
    if (added.read_only or before.read_only) and (added.destructive or before.destructive):
        raise TypeError("what is read-only is not destructive")
    changes: dict[str, Any] = {
        name: value for name in Mark.__slots__ if (value := getattr(added, name)) not in (None, False, ())
    }
    if added.logins:
        changes["logins"] = before.logins + added.logins
    setattr(target, _ATTRIBUTE, replace(before, **changes))
    return fn


def _name(fn: object) -> str:
    return getattr(fn, "__qualname__", None) or getattr(getattr(fn, "__func__", None), "__qualname__", None) or repr(fn)


def _needing(make: Callable[_P, Mark]) -> Callable[_P, _Decorator]:
    """Make a decorator that is never bare, since it needs an argument."""
    return _decorator(make)


@_decorator
def remote(
    *, secret: Secret | None = None, model: str | None = None, timeout: float | None = None, typed: bool = True
) -> Mark:
    """Expose a function or method to callers.

    Args:
        secret: what a caller must pass: text, several texts of which one must match, or a callable that returns them.
        model: DIRECT (in the agent's process) or FORK (in a child of its own).
        timeout: seconds that a call may run.
        typed: whether arguments that do not fit the annotations are refused before the call.
    """
    if model not in (None, DIRECT, FORK):
        raise TypeError(f"model is {model!r}, allowed: {DIRECT!r}, {FORK!r}")
    if secret is not None and not _is_secret(secret):
        raise TypeError("secret is text, a list or tuple of texts (not empty), or a callable")
    if timeout is not None and not (_is_number(timeout) and timeout > 0):
        raise TypeError(f"timeout is a number of seconds above 0, not {timeout!r}")
    if not isinstance(typed, bool):
        raise TypeError(f"typed is True or False, not {typed!r}")
    return Mark(remote=True, secret=secret, model=model, timeout=timeout and float(timeout), untyped=not typed)


@_decorator
def direct() -> Mark:
    """Run the function within the agent's process (what is done without a decorator, too)."""
    return Mark(model=DIRECT)


@_decorator
def fork() -> Mark:
    """Run each call in a child process: a leak or a crash is then its own, and a cancellation certain."""
    return Mark(model=FORK)


@_decorator
def once() -> Mark:
    """Never run a request a second time, whatever happens to the agent: its caller gets Interrupted instead."""
    return Mark(once=True)


@_decorator
def read_only() -> Mark:
    """Tell callers that the function changes nothing. Nobody checks that."""
    return Mark(read_only=True)


@_decorator
def destructive() -> Mark:
    """Tell callers that the function destroys or stops something: ask a person first."""
    return Mark(destructive=True)


@_decorator
def idempotent() -> Mark:
    """Tell callers that calling the function twice with the same arguments does no more than calling it once."""
    return Mark(idempotent=True)


@_decorator
def load(*, fork: bool = False) -> Mark:
    """Call the function when its plugin has been loaded. With ``fork=True`` also in the process that forks calls.

    A method is called on a new instance, made without arguments; ``async def`` runs on the plugin's event loop, and is
    waited for.
    """
    return Mark(load=True, load_in_fork=bool(fork))


#: The original's older name of ``load``.
initializer = load


@_decorator
def unload() -> Mark:
    """Call the function before its plugin is unloaded: methods and ``async def`` as ``load`` does."""
    return Mark(unload=True)


@_decorator
def action(
    *,
    seconds: float | str = 0,
    minutes: float | str = 0,
    hours: float | str = 0,
    days: float | str = 0,
    weeks: float | str = 0,
    cron: str | None = None,
    splay: float | None = None,
) -> Mark:
    """Run the function again and again: on an interval (its parts add up), or by a cron line of five fields.

    A part may be text, as settings have it: ``minutes="240"``. With neither it runs once, when the plugin has started.
    ``splay`` spreads a fleet's agents over so many seconds; by default that is a tenth of the time between two runs,
    ten minutes at most.
    """
    parts = {"seconds": seconds, "minutes": minutes, "hours": hours, "days": days, "weeks": weeks}
    interval = float(sum(_UNITS[part] * _part(part, value) for part, value in parts.items()))
    if interval and not _SHORTEST <= interval <= _LONGEST:
        raise TypeError(f"an interval is {_SHORTEST} seconds to 10 years, not {interval:g} seconds")
    if cron is not None:
        _check_cron(cron, interval)
    if splay is not None and not (_is_number(splay) and 0 <= splay <= _LONGEST):
        raise TypeError(f"splay is a number of seconds, 0 or more, not {splay!r}")
    return Mark(action=Action(interval or None, cron, splay))


@_needing
def pam(user: str, service: str | None = None, *, identity: bool = False) -> Mark:
    """Let the method be called only with this user's name and password, checked by PAM on the agent's machine.

    Args:
        user: the user's name.
        service: the PAM service to ask; by default the agent's own choice.
        identity: whether a caller whom the plugin's authenticator has identified needs no password.
    """
    return _login(user, service, identity)


@_needing
def user(name: str, service: str | None = None, *, identity: bool = False) -> Mark:
    """Do as ``pam(user=name)``."""
    return _login(name, service, identity)


def version(number: str, *, of: str | None = None, default: bool = False) -> Callable[[_C], _C]:
    """Expose a class as one of several versions of a remote class, beside the others.

    Args:
        number: what callers ask for, like ``"2"`` or ``"2.1"``: letters, digits, ``_``, with dots between them.
        of: the remote class as callers name it; by default this class's own name.
        default: whether callers that ask for no version get this one.
    """

    def put(cls: _C, /) -> _C:
        if not isinstance(cls, type):
            raise TypeError(f"@version on {_name(cls)}: goes on a class, not on a {type(cls).__name__}")
        name = cls.__qualname__
        if not isinstance(number, str) or not _NUMBER.fullmatch(number):
            raise TypeError(f'@version on {name}: the version is text like "2" or "2.1", not {number!r}')
        if of is not None and (not isinstance(of, str) or not of.isidentifier() or of.startswith("_")):
            raise TypeError(f"@version on {name}: of is the name of a remote class, not {of!r}")
        if not isinstance(default, bool):
            raise TypeError(f"@version on {name}: default is True or False, not {default!r}")
        if version_of(cls) is not None:
            raise TypeError(f"@version on {name}: it has one already")
        setattr(cls, _VERSION, Version(number, cls.__name__ if of is None else of, default))
        return cls

    if isinstance(number, type):
        raise TypeError(f'@version on {number.__qualname__}: needs the version, like @version("2")')
    return put


def version_of(cls: type) -> Version | None:
    """Return the mark of ``version`` on a class, or None. One on a class that it inherits from is not its own."""
    found = vars(cls).get(_VERSION)
    return found if isinstance(found, Version) else None


def _login(user: str, service: str | None, identity: bool) -> Mark:
    if not isinstance(user, str) or not user:
        raise TypeError(f"the user is a user's name, not {user!r}")
    if service is not None and (not isinstance(service, str) or not service):
        raise TypeError(f"service is the name of a PAM service, not {service!r}")
    if not isinstance(identity, bool):
        raise TypeError(f"identity is True or False, not {identity!r}")
    return Mark(logins=(Login(user, service, identity),))


def _part(part: str, value: float | str) -> float:
    """Read one part of an interval."""
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        number = -1
    if not (_is_number(number) and number >= 0):
        raise TypeError(f"{part} is a number, 0 or more, not {value!r}")
    return number


def _is_secret(secret: object) -> bool:
    if isinstance(secret, str) or callable(secret):
        return True
    return isinstance(secret, (list, tuple)) and bool(secret) and all(isinstance(one, str) for one in secret)


def _check_cron(cron: object, interval: float) -> None:
    if interval or not isinstance(cron, str):
        raise TypeError(f"cron is a line of five fields, given without an interval, not {cron!r}")
    try:
        parse_crontab(cron)
    except ValueError as wrong:
        raise TypeError(f"cron {cron!r} {wrong}") from None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")
