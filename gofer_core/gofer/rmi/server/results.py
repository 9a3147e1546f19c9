"""What a method has returned or raised, as the result in its reply. Pure."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from gofer.messaging.document import encode
from gofer.messaging.value import plain
from gofer.rmi.exceptions import to_result

__all__ = ["of_error", "of_value"]

#: Where methods are called from: the frames below are the plugin's own.
_CALLING = ("gofer.rmi.model.direct", "gofer.rmi.model.coroutines", "gofer.rmi.server.lifecycle")

# An exception is not asked about itself, as its class may have an answer of its own: this is the real one.
_TRACEBACK = vars(BaseException)["__traceback__"]


def of_value(value: Any) -> bytes:
    """Write a value.

    Raises:
        BaseException: it is not plain JSON, or raises when it is looked at.
    """
    return encode({"retval": plain(value, "result")})


def of_error(raised: BaseException, crossed: tuple[BaseException, bytes] | None = None) -> bytes:
    """Write an exception, and take its traceback off: its frames refer to it.

    Args:
        crossed: what a method in a process of its own has raised, and how that process has written it.
    """
    _TRACEBACK.__set__(raised, _below(_TRACEBACK.__get__(raised)))
    try:
        return crossed[1] if crossed is not None and crossed[0] is raised else encode(to_result(raised))
    except Exception as worse:  # noqa: BLE001 - an integer of 5,000 digits among its arguments, for one
        return encode(to_result(TypeError(f"a {type(raised).__qualname__} that cannot be sent: {worse}")))
    finally:
        _TRACEBACK.__set__(raised, None)


def _below(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback below our own frames and those of hooks; all of it when that is nothing."""
    below, at = trace, trace
    while at is not None:
        if at.tb_frame.f_globals.get("__name__", "") in _CALLING:
            below = at.tb_next
        at = at.tb_next
    return below or trace
