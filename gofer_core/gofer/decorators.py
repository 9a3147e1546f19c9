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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from types import MappingProxyType
from typing import Any, Protocol, TypeVar, overload

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


def mark_of(fn: object) -> Mark | None:
    """Return the mark on a function, or None when it has none. Bound and class methods are looked through."""
    fn = getattr(fn, "__func__", fn)
    found = getattr(fn, "__dict__", {}).get(_ATTRIBUTE)
    return found if isinstance(found, Mark) else None


@overload
def remote(fn: _F, /) -> _F: ...
@overload
def remote(
    *, secret: Secret | None = None, model: str | None = None, timeout: float | None = None, typed: bool = True
) -> _Decorator: ...
def remote(
    fn: Any = None,
    /,
    *more: Any,
    secret: Secret | None = None,
    model: str | None = None,
    timeout: float | None = None,
    typed: bool = True,
    **unknown: Any,
) -> Any:
    """Expose a function or method to callers.

    Args:
        secret: what a caller must pass: text, several texts of which one must match, or a callable that returns them.
        model: DIRECT (in the agent's process) or FORK (in a child of its own).
        timeout: seconds that a call may run.
        typed: whether arguments that do not fit the annotations are refused before the call.
    """

    def check(name: str) -> Mark:
        if model not in (None, DIRECT, FORK):
            raise TypeError(f"@remote on {name}: model is {model!r}, allowed: {DIRECT!r}, {FORK!r}")
        if secret is not None and not _is_secret(secret):
            raise TypeError(f"@remote on {name}: secret is text, a list or tuple of texts (not empty), or a callable")
        if timeout is not None and not (_is_number(timeout) and timeout > 0):
            raise TypeError(f"@remote on {name}: timeout is a number of seconds above 0, not {timeout!r}")
        if not isinstance(typed, bool):
            raise TypeError(f"@remote on {name}: typed is True or False, not {typed!r}")
        return Mark(remote=True, secret=secret, model=model, timeout=timeout and float(timeout), untyped=not typed)

    return _decorate("remote", fn, check, more, unknown, ("secret", "model", "timeout", "typed"))


class _Bare(Protocol):
    """A decorator that takes no arguments."""

    @overload
    def __call__(self, fn: _F, /) -> _F: ...
    @overload
    def __call__(self) -> _Decorator: ...


def _bare(make: Callable[[], Mark]) -> _Bare:
    """Make a decorator without arguments of a function that returns its mark."""

    @wraps(make)
    def decorator(fn: Any = None, /, *more: Any, **unknown: Any) -> Any:
        return _decorate(make.__name__, fn, lambda _: make(), more, unknown)

    return decorator


@_bare
def direct() -> Mark:
    """Run the function within the agent's process (what is done without a decorator, too)."""
    return Mark(model=DIRECT)


@_bare
def fork() -> Mark:
    """Run each call in a child process: a leak or a crash is then its own, and a cancellation certain."""
    return Mark(model=FORK)


@_bare
def once() -> Mark:
    """Never run a request a second time, whatever happens to the agent: its caller gets Interrupted instead."""
    return Mark(once=True)


@_bare
def read_only() -> Mark:
    """Tell callers that the function changes nothing. Nobody checks that."""
    return Mark(read_only=True)


@_bare
def destructive() -> Mark:
    """Tell callers that the function destroys or stops something: ask a person first."""
    return Mark(destructive=True)


@_bare
def idempotent() -> Mark:
    """Tell callers that calling the function twice with the same arguments does no more than calling it once."""
    return Mark(idempotent=True)


@_bare
def unload() -> Mark:
    """Call the function before its plugin is unloaded: methods and ``async def`` as ``load`` does."""
    return Mark(unload=True)


@overload
def action(fn: _F, /) -> _F: ...
@overload
def action(
    *,
    seconds: float | str = 0,
    minutes: float | str = 0,
    hours: float | str = 0,
    days: float | str = 0,
    weeks: float | str = 0,
    cron: str | None = None,
    splay: float | None = None,
) -> _Decorator: ...
def action(
    fn: Any = None,
    /,
    *more: Any,
    seconds: float | str = 0,
    minutes: float | str = 0,
    hours: float | str = 0,
    days: float | str = 0,
    weeks: float | str = 0,
    cron: str | None = None,
    splay: float | None = None,
    **unknown: Any,
) -> Any:
    """Run the function again and again: on an interval (its parts add up), or by a cron line of five fields.

    A part may be text, as settings have it: ``minutes="240"``. With neither it runs once, when the plugin has started.
    ``splay`` spreads a fleet's agents over so many seconds; by default that is a tenth of the time between two runs,
    ten minutes at most.
    """

    def check(name: str) -> Mark:
        parts = {"seconds": seconds, "minutes": minutes, "hours": hours, "days": days, "weeks": weeks}
        interval = float(sum(_UNITS[part] * _part(name, part, value) for part, value in parts.items()))
        if interval and not _SHORTEST <= interval <= _LONGEST:
            raise TypeError(
                f"@action on {name}: an interval is {_SHORTEST} seconds to 10 years, not {interval:g} seconds"
            )
        if cron is not None:
            _check_cron(name, cron, interval)
        if splay is not None and not (_is_number(splay) and 0 <= splay <= _LONGEST):
            raise TypeError(f"@action on {name}: splay is a number of seconds, 0 or more, not {splay!r}")
        return Mark(action=Action(interval or None, cron, splay))

    return _decorate("action", fn, check, more, unknown, (*_UNITS, "cron", "splay"))


@overload
def load(fn: _F, /) -> _F: ...
@overload
def load(*, fork: bool = False) -> _Decorator: ...
def load(fn: Any = None, /, *more: Any, fork: bool = False, **unknown: Any) -> Any:
    """Call the function when its plugin has been loaded. With ``fork=True`` also in the process that forks calls.

    A method is called on a new instance, made without arguments; ``async def`` runs on the plugin's event loop, and is
    waited for.
    """
    return _decorate("load", fn, lambda _: Mark(load=True, load_in_fork=bool(fork)), more, unknown, ("fork",))


#: The original's older name of ``load``.
initializer = load


@overload
def pam(user: str, service: str | None = None, *, identity: bool = False) -> _Decorator: ...
@overload
def pam(*, user: str, service: str | None = None, identity: bool = False) -> _Decorator: ...
def pam(user: Any = None, service: str | None = None, *more: Any, identity: bool = False, **unknown: Any) -> Any:
    """Let the method be called only with this user's name and password, checked by PAM on the agent's machine.

    Args:
        user: the user's name.
        service: the PAM service to ask; by default the agent's own choice.
        identity: whether a caller whom the plugin's authenticator has identified needs no password.
    """
    return _login("pam", "user", (user, service, identity), more, unknown)


@overload
def user(name: str, service: str | None = None, *, identity: bool = False) -> _Decorator: ...
@overload
def user(*, name: str, service: str | None = None, identity: bool = False) -> _Decorator: ...
def user(name: Any = None, service: str | None = None, *more: Any, identity: bool = False, **unknown: Any) -> Any:
    """Do as ``pam(user=name)``."""
    return _login("user", "name", (name, service, identity), more, unknown)


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


def _login(
    decorator: str, argument: str, given: tuple[Any, Any, Any], more: Sequence[Any], unknown: Mapping[str, Any]
) -> _Decorator:
    name, service, identity = given

    def put(fn: _F, /) -> _F:
        _check_arguments(decorator, fn, more, unknown, (argument, "service", "identity"))
        if not isinstance(name, str) or not name:
            raise TypeError(f"@{decorator} on {_name(fn)}: {argument} is a user's name, not {name!r}")
        if service is not None and (not isinstance(service, str) or not service):
            raise TypeError(f"@{decorator} on {_name(fn)}: service is the name of a PAM service, not {service!r}")
        if not isinstance(identity, bool):
            raise TypeError(f"@{decorator} on {_name(fn)}: identity is True or False, not {identity!r}")
        return _mark(decorator, fn, Mark(logins=(Login(name, service, identity),)))

    if callable(name) or isinstance(name, (staticmethod, classmethod)):
        raise TypeError(f'@{decorator} on {_name(name)}: needs the user, like @{decorator}({argument}="root")')
    return put


def _decorate(  # noqa: PLR0917 - called by each decorator, from right above
    decorator: str,
    fn: Any,
    check: Callable[[str], Mark],
    more: Sequence[Any] = (),
    unknown: Mapping[str, Any] = MappingProxyType({}),
    allowed: Sequence[str] = (),
) -> Any:
    """Serve both ``@decorator`` and ``@decorator(...)``. What is wrong is told when the function is known."""

    def put(target: Any, /) -> Any:
        _check_arguments(decorator, target, more, unknown, allowed)
        return _mark(decorator, target, check(_name(target)))

    if fn is None:
        return put
    if isinstance(fn, (str, int, float, list, tuple)):  # an argument, and not what is decorated
        more = (fn, *more)
        return put
    return put(fn)


def _check_arguments(
    decorator: str, fn: Any, more: Sequence[Any], unknown: Mapping[str, Any], allowed: Sequence[str]
) -> None:
    takes = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
    if unknown:
        raise TypeError(f"@{decorator} on {_name(fn)}: there is no argument {next(iter(unknown))!r}; {takes}")
    if more:
        by_name = ", by name" if allowed else ""
        raise TypeError(f"@{decorator} on {_name(fn)}: {more[0]!r} is an argument too many; {takes}{by_name}")


def _part(name: str, part: str, value: float | str) -> float:
    """Read one part of an interval."""
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        number = -1
    if not (_is_number(number) and number >= 0):
        raise TypeError(f"@action on {name}: {part} is a number, 0 or more, not {value!r}")
    return number


def _mark(decorator: str, fn: _F, added: Mark) -> _F:
    target: Any = fn.__func__ if isinstance(fn, (staticmethod, classmethod)) else fn
    if not inspect.isfunction(target):
        raise TypeError(f"@{decorator} on {_name(fn)}: goes on a function or method, not on a {type(fn).__name__}")
    before: Mark = target.__dict__.get(_ATTRIBUTE) or Mark()
    if added.model is not None and before.model not in (None, added.model):
        raise TypeError(f"@{decorator} on {_name(fn)}: it is {before.model!r} already")
    for once_only in ("secret", "timeout", "action"):
        if getattr(added, once_only) is not None and getattr(before, once_only) is not None:
            raise TypeError(f"@{decorator} on {_name(fn)}: {once_only} is given twice")
    if (added.read_only or before.read_only) and (added.destructive or before.destructive):
        raise TypeError(f"@{decorator} on {_name(fn)}: what is read-only is not destructive")
    changes: dict[str, Any] = {
        name: value for name in Mark.__slots__ if (value := getattr(added, name)) not in (None, False, ())
    }
    if added.logins:
        changes["logins"] = before.logins + added.logins
    setattr(target, _ATTRIBUTE, replace(before, **changes))
    return fn


def _is_secret(secret: object) -> bool:
    if isinstance(secret, str) or callable(secret):
        return True
    return isinstance(secret, (list, tuple)) and bool(secret) and all(isinstance(one, str) for one in secret)


def _check_cron(name: str, cron: object, interval: float) -> None:
    if interval or not isinstance(cron, str):
        raise TypeError(f"@action on {name}: cron is a line of five fields, given without an interval, not {cron!r}")
    try:
        parse_crontab(cron)
    except ValueError as wrong:
        raise TypeError(f"@action on {name}: cron {cron!r} {wrong}") from None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf")


def _name(fn: object) -> str:
    return getattr(fn, "__qualname__", None) or getattr(getattr(fn, "__func__", None), "__qualname__", None) or repr(fn)
