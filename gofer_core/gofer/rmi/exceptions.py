"""Exceptions as data, both ways.

An exception crosses as the names of its class and module, its ``args`` and its ``__dict__`` (values that are not plain
JSON as their repr), and its trace. At the caller a class is only ever *looked up*, among gofer's own errors, the
builtins and the modules already imported; nothing from the wire is imported or called.
"""

from __future__ import annotations

import builtins
import sys
import traceback
from collections.abc import Iterator
from types import ModuleType, TracebackType
from typing import Any, cast

import msgspec

from gofer import errors
from gofer.messaging.document import Result, encode
from gofer.messaging.value import plain

__all__ = ["encoded", "from_result", "sentence", "to_result", "trace_of"]

#: Where callers of gofer 2.x look for our classes; all others of ours are new names there.
_WIRE_MODULES = {"MemberNotFound": "gofer.collation", "InvalidOperator": "gofer.rmi.criteria"}
_DISPATCHER = "gofer.rmi.dispatcher"

_read_result = msgspec.json.Decoder(Result).decode

#: The module that calls methods, and packages that only lead to them: asyncio for ``async def``.
_CALL = "gofer.rmi.model.direct"
_LEADING = ("gofer", "pluggy", "asyncio")

# What a class may have put in their place is not asked: these are the real ones.
_ARGS = vars(BaseException)["args"]
_DICT = vars(BaseException)["__dict__"]


def to_result(raised: BaseException) -> dict[str, Any]:
    """Make the ``result`` of a reply from an exception; of one that would end a process, RuntimeError. Never raises."""
    trace = _trace(raised)
    if not issubclass(type(raised), Exception):
        # A caller of gofer 2.12 would raise it as it is, and be ended by a SystemExit of the agent's method.
        raised = RuntimeError(_text(f"the method raised {sentence(raised)}"))
    kind = type(raised)
    module = kind.__module__
    if getattr(errors, kind.__name__, None) is kind:
        module = _WIRE_MODULES.get(kind.__name__, _DISPATCHER if issubclass(kind, errors.DispatchError) else module)
    attributes = list(_DICT.__get__(raised).items())
    state = {_text(key): _plain_or_repr(value) for key, value in attributes if isinstance(key, str)}
    state.pop("__notes__", None)  # they are in the trace, where they belong
    state["trace"] = trace
    return {
        "exval": trace,
        "xmodule": _text(module) if isinstance(module, str) else None,
        "xclass": _text(kind.__qualname__),
        "xargs": [_plain_or_repr(value) for value in _arguments(raised)],
        "xstate": state,
    }


def encoded(raised: BaseException) -> bytes:
    """Write the ``result`` of a reply for an exception. Never raises."""
    try:
        return encode(to_result(raised))
    except Exception as worse:  # noqa: BLE001 - an integer of 5,000 digits among its arguments, for one
        return encode(to_result(TypeError(f"a {type(raised).__qualname__} that cannot be sent: {worse}")))


def from_result(result: Result, called: str | None = None) -> Exception:
    """Make the exception that a reply's result describes, to be raised at the caller. Never raises.

    It has its own class where that is known here, else it is a :class:`~gofer.errors.RemoteException`; the remote trace
    is its ``trace`` and a note on it.

    Args:
        called: the method and the address, for the note.
    """
    trace = result.exval or ""
    made = _make(result, called)
    if made is None:
        made = errors.RemoteException(trace, result.xmodule, result.xclass, result.xargs, result.xstate)
        if called is not None:
            made.add_note(f"Raised by {called}")
    return made


def sentence(raised: BaseException) -> str:
    """Tell an exception in one line, without control characters: its class and its message. Never raises."""
    name = type(raised).__qualname__
    try:
        if type(raised) is errors.RemoteException:  # it stands for one of a class that is not known here
            args = raised.xargs if isinstance(raised.xargs, list) else []
            name, text = str(raised.xclass), str(args[0] if len(args) == 1 else tuple(args) or "")
        else:
            text = str(raised)
        words = " ".join(text[:10_000].split())
    except BaseException:  # noqa: BLE001 - a __str__ may do anything; the class must do
        words = ""
    told = repr(f"{name}: {words}" if words else name)[1:-1]
    return told if len(told) <= 300 else f"{told[:297]}..."


def trace_of(result: bytes) -> str | None:
    """Return the traceback that an encoded result holds; None: it holds none, or the agent refused the call itself."""
    told = _read_result(result)
    refused = told.xmodule in (_DISPATCHER, *_WIRE_MODULES.values())
    return told.exval if told.exval is not None and "\n  File " in told.exval and not refused else None


def _make(result: Result, called: str | None) -> Exception | None:
    kind = _class(result.xmodule, result.xclass)
    if kind is None:
        return None
    # The builtin ancestor's own __new__ and __init__: code of the class itself never runs on data from the wire. It is
    # the ancestor whose layout the class has: KeyError of (LookupError), OSError of (ValueError, OSError).
    base: Any = kind
    while vars(builtins).get(base.__name__) is not base:
        base = base.__base__
    args = tuple(result.xargs or ())
    try:
        if base is UnicodeDecodeError and len(args) == 5:
            args = (args[0], args[1].encode("latin-1"), *args[2:])
        made: Exception = base.__new__(kind, *args)
        if issubclass(base, OSError) and _of_system(args):
            base.__init__(made, *args)  # it takes its file names out of the arguments by itself
        else:
            if not issubclass(base, OSError):
                base.__init__(made, *args)
            _ARGS.__set__(made, args)
        state = _DICT.__get__(made)
        state.update((k, v) for k, v in (result.xstate or {}).items() if not (k.startswith("__") and k.endswith("__")))
        if result.exval:
            of = "" if called is None else f" of {called}"
            state["__notes__"] = [f"Remote trace{of}:\n{result.exval}"]
        if kind.__module__ == errors.__name__:
            str(made)  # our own tell what is in their state, and that came over the wire
    except Exception:  # noqa: BLE001 - an ExceptionGroup refuses arguments that JSON cannot carry, for one
        return None
    return made


def _class(module: str | None, name: str | None) -> type[Exception] | None:
    if not name or not name.isidentifier():  # a class inside a function or another class cannot be looked up
        return None
    found: object = None
    if module in ("builtins", "exceptions"):  # Python 2 agents say "exceptions"
        found = vars(builtins).get(name)
    elif module is not None and (module == "gofer" or module.startswith("gofer.")):
        found = vars(errors).get(name) or _attribute(module, name)
    elif module is not None:
        found = _attribute(module, name)
    # Not isinstance: it would ask the object.
    known = issubclass(type(found), type) and issubclass(cast("type", found), Exception)
    return cast("type[Exception]", found) if known else None


def _attribute(module: str, name: str) -> object:
    found = sys.modules.get(module)
    if not issubclass(type(found), ModuleType):  # None stands there for what may not be imported
        return None
    # Not vars(): a lazy module would be loaded by it.
    return cast("dict[str, object]", object.__getattribute__(found, "__dict__")).get(name)


def _arguments(raised: BaseException) -> tuple[Any, ...]:
    kind = type(raised)
    if issubclass(kind, OSError):
        return cast("tuple[Any, ...]", OSError.__reduce__(cast("OSError", raised))[1])  # with the files' names
    args: tuple[Any, ...] = _ARGS.__get__(raised)
    if issubclass(kind, UnicodeError) and len(args) == 5:  # encoding, object, start, end, reason
        at = args[1]
        if isinstance(at, bytes):
            args = (args[0], at[:1000].decode("latin-1"), *args[2:])
        elif isinstance(at, str):  # a mark in place of each lone surrogate: positions stay right
            args = (args[0], at.encode("utf-8", "replace").decode(), *args[2:])
    return args


def _of_system(args: tuple[Any, ...]) -> bool:
    # As OSError reduces itself. A subclass with arguments of its own (RequestTimeout) may have any others.
    return len(args) in (2, 3) or (len(args) == 5 and args[3] is None)


def _plain_or_repr(value: Any) -> Any:
    try:
        return plain(value)
    except BaseException:  # noqa: BLE001 - what JSON cannot carry is told by its repr
        return _repr(value)


def _repr(value: Any) -> str:
    try:
        return _text(repr(value)[:1000])
    except BaseException:  # noqa: BLE001 - a repr may do anything; the exception itself must still cross
        return _text(f"<{type(value).__qualname__}>")


def _below(raised: BaseException) -> TracebackType | None:
    """Return the part of a traceback that is the plugin's, without the frames of gofer that lead to the method.

    None when nothing of the plugin has raised: arguments that do not fit, or an error of gofer itself.
    """
    frames = list(_walk(raised.__traceback__))
    names = [str(one.tb_frame.f_globals.get("__name__")) for one in frames]
    start = 1 + max((n for n, name in enumerate(names) if name == _CALL), default=-1)
    if start == len(frames):
        return None
    plugin = next((n for n in range(start, len(frames)) if names[n].partition(".")[0] not in _LEADING), None)
    if plugin is not None:
        return frames[plugin]
    return None if isinstance(raised, errors.GoferError) else frames[start]


def _walk(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode()


def _trace(raised: BaseException) -> str:
    try:
        text = "".join(traceback.TracebackException(type(raised), raised, _below(raised), compact=True).format())
    except BaseException:  # noqa: BLE001 - a __str__ may do anything; the class must still cross
        text = f"{type(raised).__module__}.{type(raised).__qualname__}"
    return _text(text.rstrip("\n"))
