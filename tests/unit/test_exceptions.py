"""Exceptions as data: what was raised there is raised here, and nothing from the wire runs, or is imported."""

from __future__ import annotations

import builtins
import io
import json
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from gofer import errors
from gofer.errors import RemoteException
from gofer.messaging.document import Result, decode_reply, encode
from gofer.rmi.exceptions import from_result, to_result
from hypothesis import given
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
BUILTIN = sorted(
    {kind for kind in vars(builtins).values() if isinstance(kind, type) and issubclass(kind, Exception)},
    key=lambda kind: kind.__name__,
)
#: These take no free arguments; they are told of below.
PARTICULAR = (UnicodeDecodeError, UnicodeEncodeError, UnicodeTranslateError, ExceptionGroup)


class Known(Exception):
    """A class that both sides have."""


def raised(error: BaseException) -> BaseException:
    """Raise and catch, so that there is a trace."""
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001 - it is the test's own
        return caught


def over_the_wire(error: BaseException) -> Result:
    reply = decode_reply(encode({"sn": "a", "result": to_result(raised(error))}))
    assert reply.result is not None
    return reply.result


def crossed(error: BaseException) -> Exception:
    return from_result(over_the_wire(error))


def state_of(error: BaseException) -> dict[str, Any]:
    return {key: value for key, value in vars(error).items() if key not in ("trace", "__notes__")}


def same(one: BaseException, other: BaseException) -> None:
    assert type(one) is type(other)
    assert one.args == other.args
    assert str(one) == str(other)
    assert state_of(one) == state_of(other)


# -- classes known here ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in BUILTIN if kind not in PARTICULAR])
@pytest.mark.parametrize("args", [(), ("text",), ("grüße", 3), (5,), (None, [1, {"a": 2}], "x")], ids=repr)
def test_every_builtin_exception_crosses_as_itself(kind: type[Exception], args: tuple[Any, ...]) -> None:
    if issubclass(kind, SyntaxError) and len(args) > 1:
        args = (args[0], ["file.py", 3, 5, "a line\n"])  # it takes a place there, and nothing else
    error = kind(*args)
    error.code = 7  # type: ignore[attr-defined]  # any attribute is state
    made = crossed(error)

    same(made, error)
    assert made.trace.endswith(("text", "5", "3)", kind.__name__, "'x')", "a line")) or "Error" in made.trace  # type: ignore[attr-defined]  # it comes with the state
    assert made.__notes__ == [f"Remote trace:\n{made.trace}"]  # type: ignore[attr-defined]  # as above


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", "/etc/nothing"),
        OSError(18, "Invalid cross-device link", "/a", None, "/b"),
        PermissionError(13, "Permission denied"),
        OSError("only a text"),
        OSError(1, 2, 3, 4, 5, 6),
        BlockingIOError(11, "would block", 5),
        ConnectionRefusedError(111, "Connection refused"),
        socket.gaierror(-2, "Name or service not known"),
        io.UnsupportedOperation("not readable"),
        KeyError("a key"),
        StopIteration([1, 2]),
        StopAsyncIteration(5),
        SyntaxError("invalid syntax", ["file.py", 3, 5, "a line\n", 3, 9]),  # type: ignore[call-overload]  # or a list
        json.JSONDecodeError("Expecting value", "doc", 2),
        subprocess.CalledProcessError(3, ["false"], "out", "err"),
        subprocess.TimeoutExpired("sleep", 1.5),
        UnicodeDecodeError("utf-8", b"ab\xff\x00", 2, 3, "invalid start byte"),
        UnicodeEncodeError("ascii", "abü", 2, 3, "ordinal not in range(128)"),
        UnicodeTranslateError("abü", 2, 3, "no such character"),
        Known("This is", {"k": [1]}),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_a_class_keeps_in_its_own_way_crosses_too(error: Exception) -> None:
    made = crossed(error)

    same(made, error)
    for name in ("errno", "strerror", "filename", "filename2", "value", "lineno", "text", "object", "start", "reason"):
        assert getattr(made, name, None) == getattr(error, name, None), name
    assert getattr(made, "characters_written", None) == getattr(error, "characters_written", None)


def test_of_what_cannot_be_decoded_the_beginning_is_sent() -> None:
    long = crossed(UnicodeDecodeError("utf-8", b"a" * 70_000 + b"\xff", 70_000, 70_001, "invalid start byte"))
    assert type(long) is UnicodeDecodeError
    assert (long.object, long.start, long.end) == (b"a" * 1000, 70_000, 70_001)

    surrogate = crossed(UnicodeEncodeError("utf-8", "a\udc80b", 1, 2, "surrogates not allowed"))
    assert type(surrogate) is UnicodeEncodeError
    assert (surrogate.object, surrogate.start) == ("a?b", 1)


@pytest.mark.parametrize("name", errors.__all__)
def test_all_of_our_own_cross_as_themselves(name: str) -> None:
    kind = getattr(errors, name)
    arguments: dict[str, tuple[Any, ...]] = {
        "DocumentError": ("model.invalid", "not valid", {"a": 1}),
        "RequestTimeout": ("sn-1", 2.5, "started", "it was started", {"completed": 1}),
        "Rejected": ("sn-1", "hook.refused", "not today", None),
        "NotTaken": ({"sn-1": "nobody listens there"},),
        "RemoteException": ("the trace",),
    }
    same(crossed(kind(*arguments.get(name, ("a text",)))), kind(*arguments.get(name, ("a text",))))


def test_dispatch_errors_have_the_names_that_callers_of_2_12_look_for() -> None:
    found = {name: to_result(getattr(errors, name)("x"))["xmodule"] for name in ("NamespaceNotFound", "MemberNotFound")}

    assert found == {"NamespaceNotFound": "gofer.rmi.dispatcher", "MemberNotFound": "gofer.collation"}
    assert to_result(errors.SecretRequired("x"))["xmodule"] == "gofer.rmi.dispatcher"
    assert to_result(errors.Cancelled("x"))["xmodule"] == "gofer.errors"


@given(st.lists(PLAIN, max_size=4), st.dictionaries(TEXT.filter(lambda t: not t.startswith("__")), PLAIN, max_size=4))
def test_any_exception_made_of_plain_values_crosses_as_itself(args: list[Any], state: dict[str, Any]) -> None:
    for kind in (Known, ValueError, KeyError, RuntimeError):
        error = kind(*args)
        vars(error).update(state)
        made = crossed(error)
        same(made, error)
        assert isinstance(vars(made)["trace"], str)


def test_the_trace_has_its_notes_and_its_causes() -> None:
    error = Known("outer")
    error.__cause__ = ValueError("inner")
    error.add_note("a hint")
    made = crossed(error)

    assert state_of(made) == {}
    assert all(text in made.trace for text in ("ValueError: inner", "Known: outer", "a hint"))  # type: ignore[attr-defined]  # comes as state
    assert "a hint" in made.__notes__[0]


def test_without_a_trace_there_is_no_note() -> None:
    made = from_result(Result(xmodule="builtins", xclass="ValueError", xargs=["x"]))
    assert (type(made), made.args, vars(made)) == (ValueError, ("x",), {})


# -- what JSON cannot carry, and classes that misbehave ----------------------------------------------------------


class Thing:
    def __repr__(self) -> str:
        return "<thing \udc80>"


class Unspeakable:
    def __repr__(self) -> str:
        raise SystemExit("no repr for you")


class OddList(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("not now")


def test_what_is_not_json_is_reported_by_its_repr() -> None:
    error = Known(Thing(), b"raw", {1, 2} - {2}, float("nan"), "a\udc80", 10**5000, OddList([1]), Unspeakable())
    error.thing = Thing()  # type: ignore[attr-defined]  # comes as state
    vars(error)["a\udc80"] = 1
    made = crossed(error)

    assert type(made) is Known
    first, *more, number, odd, last = made.args
    assert first == "<thing \\udc80>"
    assert more == ["b'raw'", "{1}", "nan", "'a\\udc80'"]
    assert (number, odd, last) == ("<int>", "[1]", "<Unspeakable>")
    assert state_of(made) == {"thing": "<thing \\udc80>", "a\\udc80": 1}


def test_a_long_repr_is_cut() -> None:
    assert len(crossed(Known(b"x" * 100_000)).args[0]) == 1000


def test_a_value_that_contains_itself_crosses_as_a_repr() -> None:
    round_: list[Any] = []
    round_.append(round_)
    assert crossed(Known(round_)).args == ("[[...]]",)


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    __repr__ = __str__


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


class Masked(Exception):
    args = "not a tuple"  # type: ignore[assignment]  # what the test is about
    __module__ = 5  # type: ignore[assignment]  # as above


class Forbidding(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"no {name} for you")

    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError(f"no {name} for you")


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


@pytest.mark.parametrize("kind", [Silent, Leaving, Forbidding, Frozen])
def test_a_class_that_misbehaves_crosses_all_the_same(kind: type[Exception]) -> None:
    made = crossed(kind(5))

    assert type(made) is kind
    assert BaseException.args.__get__(made) == (5,)  # type: ignore[attr-defined]  # it is a descriptor


def test_a_class_that_hides_its_name_is_a_remote_exception() -> None:
    made = crossed(Masked("x"))

    assert isinstance(made, RemoteException)
    assert (made.xmodule, made.xclass, made.xargs) == (None, "Masked", ["x"])


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseExceptionGroup("g", [SystemExit()])]
)
def test_what_ends_processes_there_is_an_ordinary_exception_on_the_wire(error: BaseException) -> None:
    """A caller of gofer 2.12 raises whatever class a reply names."""
    made = crossed(error)

    assert type(made) is RuntimeError
    assert str(made).startswith(f"the method raised {type(error).__name__}")


def test_a_group_is_a_remote_exception_with_the_traces_of_all() -> None:
    made = crossed(ExceptionGroup("two", [ValueError("one"), OSError(2, "other")]))

    assert isinstance(made, RemoteException)
    assert all(text in str(made) for text in ("ExceptionGroup: two", "ValueError: one", "other"))


def test_a_class_in_a_function_is_a_remote_exception() -> None:
    class Local(Exception):
        pass

    made = crossed(Local("x"))
    assert isinstance(made, RemoteException)
    assert made.xclass == "test_a_class_in_a_function_is_a_remote_exception.<locals>.Local"
