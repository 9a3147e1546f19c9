"""The options of a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypedDict

from gofer.duration import parse_duration
from gofer.errors import ConfigError
from gofer.messaging.address import Address
from gofer.messaging.value import plain
from gofer.suggest import available, did_you_mean

__all__ = ["OPTION_NAMES", "CallOptions", "Options", "Report"]

Report = dict[str, Any]


class CallOptions(TypedDict, total=False):
    """The options as callers give them, for type checkers and editors: see :class:`Options` for what they mean.

    Times are seconds, or text like ``'30s'``; None means no limit.
    """

    wait: float | str | None
    ttl: float | str | None
    reply: str | None
    trigger: int
    data: Any
    progress: Callable[[Report], object] | None
    confirm: bool
    timeout: float | str | None
    exchange: str | None
    secret: Any
    user: str | None
    password: str | None
    pam: Mapping[str, Any] | None
    authenticator: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a call is made. Times are seconds as float, or text like ``'30s' '5m' '2h' '1d'`` where they are given.

    Attributes:
        wait: how long to wait for the result; 0: send and return the serial number; None: no limit.
        ttl: how long the agent may take to accept the request; None: as long as ``wait``, or no limit without waiting.
        reply: send the request, and all replies to this address; return the serial number.
        trigger: 1: return a Trigger that sends when it is called.
        data: any JSON value; comes back in every status and result.
        progress: called with each progress report, in the thread that waits.
        confirm: without waiting for the result, wait until the broker has the request.
        timeout: how long the method may run.
        exchange: the exchange that the reply queue of a waiting call is bound to.
        secret, user, password, pam: what the method may ask for.
        authenticator: signs the request and validates the replies: an object, or a name, as
            :func:`gofer.messaging.authenticators.caller_authenticator` takes it.
    """

    wait: float | None = 90.0
    ttl: float | None = None
    reply: str | None = None
    trigger: int = 0
    data: Any = None
    progress: Callable[[Report], object] | None = None
    confirm: bool = False
    timeout: float | None = None
    exchange: str | None = None
    secret: Any = field(default=None, repr=False)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    pam: Mapping[str, Any] | None = field(default=None, repr=False)
    authenticator: Any = None

    def having(self, given: Mapping[str, Any]) -> Options:
        """Return these options with others in place of some.

        Raises:
            TypeError: an unknown option (the text names the allowed ones), or a value of the wrong kind.
            ConfigError: a time or an address is invalid, or the settings of an authenticator cannot be read.
            PluginError: there is no authenticator of that name, or it cannot be made.
        """
        unknown = sorted(set(given) - OPTION_NAMES)
        if unknown:
            names = ", ".join(f"{name!r}{did_you_mean(name, OPTION_NAMES)}" for name in unknown)
            raise TypeError(f"unknown option {names}; allowed: {available(OPTION_NAMES)}")
        checked: dict[str, Any] = {name: _check(name, value) for name, value in given.items()}
        return replace(self, **checked)

    @property
    def login(self) -> dict[str, Any] | None:
        """The ``pam`` field of a request."""
        if self.pam is not None:
            return dict(self.pam)
        return None if self.user is None else {"user": self.user, "password": self.password}


#: The names of all options.
OPTION_NAMES = frozenset(f.name for f in fields(Options))


def _check(name: str, value: Any) -> Any:
    return None if value is None and name not in _SWITCHES else _CHECKS[name](name, value)


def _duration(name: str, value: Any) -> float | None:
    try:
        seconds = parse_duration(value)
    except (ConfigError, TypeError) as bad:
        raise type(bad)(f"{name}: {bad}") from None
    if seconds == 0 and name != "wait":
        raise TypeError(f"{name} must be more than 0 seconds, not {value!r}")
    return seconds


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, not {type(value).__name__}")
    return str(plain(value, name))


def _exchange(name: str, value: Any) -> str | None:
    text = _text(name, value)
    if "/" in text:
        raise ConfigError(f"{name} {text[:200]!r} has a '/' in it: an exchange's name has none")
    if text:
        Address.parse(f"{text}/queue")
    return text or None


def _address(_: str, value: Any) -> str:
    Address.parse(value)
    return str(value)


def _progress(name: str, value: Any) -> Any:
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {type(value).__name__}")
    return value


def _switch(name: str, value: Any) -> int:
    if not isinstance(value, int) or value not in (0, 1):
        raise TypeError(f"{name} must be 0 or 1, not {value!r}")
    return int(value)


def _mapping(name: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a mapping with user and password, not {type(value).__name__}")
    return plain(dict(value), name)


def _authenticator(name: str, value: Any) -> Any:
    if isinstance(value, str):
        from gofer.messaging.authenticators import caller_authenticator

        return caller_authenticator(value)
    if not (hasattr(value, "sign") and hasattr(value, "validate")):
        raise TypeError(f"{name} must be a name, or an object with sign() and validate(), not {type(value).__name__}")
    return value


_SWITCHES = frozenset({"trigger", "confirm"})
_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "wait": _duration,
    "ttl": _duration,
    "timeout": _duration,
    "reply": _address,
    "trigger": _switch,
    "data": lambda name, value: plain(value, name),
    "secret": lambda name, value: plain(value, name),
    "progress": _progress,
    "confirm": _switch,
    "exchange": _exchange,
    "user": _text,
    "password": _text,
    "pam": _mapping,
    "authenticator": _authenticator,
}
