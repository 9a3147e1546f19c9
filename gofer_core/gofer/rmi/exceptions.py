"""Exceptions as data, both ways.

An exception crosses as the names of its class and module, its ``args`` and its ``__dict__`` (values that are not plain
JSON as their repr), and its trace. At the caller a class is only ever *looked up*, among gofer's own errors, the
builtins and the modules already imported; nothing from the wire is imported or called.
"""

from __future__ import annotations

import builtins
import sys
import traceback
from typing import Any

from gofer import errors
from gofer.messaging.document import Result
from gofer.messaging.value import plain

__all__ = ["from_result", "to_result"]

#: Where callers of gofer 2.x look for our classes; all others of ours are new names there.
_WIRE_MODULES = {"MemberNotFound": "gofer.collation"}
_DISPATCHER = "gofer.rmi.dispatcher"


def to_result(raised: BaseException) -> dict[str, Any]:
    """Make the ``result`` of a reply from an exception. Never raises."""
    trace = _trace(raised)
    kind = type(raised)
    module = kind.__module__
    if getattr(errors, kind.__name__, None) is kind:
        module = _WIRE_MODULES.get(kind.__name__, _DISPATCHER if issubclass(kind, errors.DispatchError) else module)
    args = OSError.__reduce__(raised)[1] if isinstance(raised, OSError) else raised.args  # with the file's name
    state = {key: _plain_or_repr(value) for key, value in list(vars(raised).items()) if isinstance(key, str)}
    state.pop("__notes__", None)  # they are in the trace, where they belong
    state["trace"] = trace
    return {
        "exval": trace,
        "xmodule": module,
        "xclass": kind.__qualname__,
        "xargs": [_plain_or_repr(value) for value in args],
        "xstate": state,
    }


def from_result(result: Result) -> Exception:
    """Make the exception that a reply's result describes, to be raised at the caller. Never raises.

    It has its own class where that is known here, else it is a :class:`~gofer.errors.RemoteException`; the remote trace
    is its ``trace`` and a note on it.
    """
    trace = result.exval or ""
    made = _make(result)
    if made is None:
        return errors.RemoteException(trace, result.xmodule, result.xclass, result.xargs, result.xstate)
    if trace:
        made.add_note(f"Remote trace:\n{trace}")
    return made


def _make(result: Result) -> Exception | None:
    kind = _class(result.xmodule, result.xclass)
    if kind is None:
        return None
    # The builtin ancestor's own __new__ and __init__: code of the class itself never runs on data from the wire.
    base = next(c for c in kind.__mro__ if c.__module__ == "builtins")
    args = tuple(result.xargs or ())
    try:
        made = base.__new__(kind, *args)
        base.__init__(made, *args)  # type: ignore[misc]  # unsound for unknown bases; these are the builtin exceptions
        if not isinstance(made, OSError):  # it takes its file name out of the arguments by itself
            made.args = args
    except Exception:  # noqa: BLE001 - builtins such as UnicodeDecodeError refuse arguments that JSON cannot carry
        return None
    if not isinstance(made, Exception):
        return None
    for key, value in (result.xstate or {}).items():
        if not (key.startswith("__") and key.endswith("__")) and isinstance(getattr(made, "__dict__", None), dict):
            made.__dict__[key] = value
    return made


def _class(module: str | None, name: str | None) -> type[Exception] | None:
    if not name or not name.isidentifier():  # a class inside a function or another class cannot be looked up
        return None
    found: object = None
    if module in ("builtins", "exceptions"):  # Python 2 agents say "exceptions"
        found = vars(builtins).get(name)
    elif module is not None and (module == "gofer" or module.startswith("gofer.")):
        found = vars(errors).get(name) or vars(sys.modules.get(module, builtins)).get(name)
    elif module is not None and module in sys.modules:
        found = vars(sys.modules[module]).get(name)
    return found if isinstance(found, type) and issubclass(found, Exception) else None


def _plain_or_repr(value: Any) -> Any:
    try:
        return plain(value)
    except (TypeError, RecursionError):
        pass  # what JSON cannot carry is told by its repr
    try:
        return repr(value)[:1000].encode("utf-8", "backslashreplace").decode()
    except Exception:  # noqa: BLE001 - a repr may do anything; the exception itself must still cross
        return f"<{type(value).__qualname__}>"


def _trace(raised: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(raised))
    except Exception:  # noqa: BLE001 - a __str__ may raise; the class must still cross
        text = f"{type(raised).__module__}.{type(raised).__qualname__}"
    return text.rstrip("\n").encode("utf-8", "backslashreplace").decode()
