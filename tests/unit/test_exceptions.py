"""Exceptions as data: what was raised there is raised here, and nothing from the wire runs, or is imported."""

from __future__ import annotations

import builtins
import io
import json
import socket
import subprocess
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import LazyLoader, find_spec, module_from_spec
from pathlib import Path
from typing import Any

import pytest
from gofer import errors
from gofer.errors import RemoteException
from gofer.messaging.document import Result, decode_reply, encode
from gofer.messaging.value import plain
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
    assert all(text in made.trace for text in ("ValueError: inner", "Known: outer", "a hint"))  # type: ignore[attr-defined]  # state
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


def test_what_is_not_json_is_told_by_its_repr() -> None:
    error = Known(Thing(), b"raw", {1, 2} - {2}, float("nan"), "a\udc80", 10**5000, OddList([1]), Unspeakable())
    error.thing = Thing()  # type: ignore[attr-defined]  # state
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
def test_what_ends_processes_there_is_a_remote_exception_here(error: BaseException) -> None:
    made = crossed(error)

    assert isinstance(made, RemoteException)
    assert (made.xmodule, made.xclass) == ("builtins", type(error).__name__)


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


# -- data is never code ------------------------------------------------------------------------------------------


def loud(*bases: type, **attributes: Any) -> tuple[type[Exception], list[str]]:
    """Make an exception class of this module that says which of its code ran."""
    ran: list[str] = []

    def telling(name: str) -> Any:
        def method(self: Any, *args: Any, **kws: Any) -> Any:
            ran.append(name)
            raise AssertionError(f"{name} ran on data from the wire")

        return method

    names = [
        "__new__",
        "__init__",
        "__setattr__",
        "__getattribute__",
        "__setstate__",
        "__reduce__",
        "__init_subclass__",
    ]
    body: dict[str, Any] = {name: telling(name) for name in names} | {
        "prop": property(telling("prop"), telling("prop"))
    }
    body["__init_subclass__"] = classmethod(body["__init_subclass__"])
    kind = type("Loud", bases, body | {"__module__": __name__} | attributes)
    return kind, ran


@pytest.mark.parametrize(
    "bases",
    [(Exception,), (ValueError,), (OSError,), (KeyError, AttributeError), (ValueError, OSError), (errors.Rejected,)],
    ids=lambda bases: "+".join(base.__name__ for base in bases),
)
@pytest.mark.parametrize("module", [None, "builtins"])
def test_no_code_of_the_class_runs_here(
    bases: tuple[type, ...], module: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, ran = loud(*bases, **({"__module__": module} if module else {}))
    monkeypatch.setattr(sys.modules[__name__], "Loud", kind, raising=False)

    made = from_result(
        Result(
            exval="the trace",
            xmodule=__name__,
            xclass="Loud",
            xargs=["a", 2],
            xstate={"prop": 1, "own": 2, "__class__": "x", "__dict__": {}, "add_note": 5, "args": 6, "trace": "t"},
        )
    )
    assert type(made) is kind
    assert ran == []
    assert BaseException.args.__get__(made) == ("a", 2)  # type: ignore[attr-defined]  # it is a descriptor
    state = vars(BaseException)["__dict__"].__get__(made)
    assert state["own"] == 2
    assert state["__notes__"] == ["Remote trace:\nthe trace"]
    assert "__class__" not in state


class Meta(type):
    called: list[str] = []  # noqa: RUF012 - reset by the test

    def __call__(cls, *args: Any, **kws: Any) -> Any:
        cls.called.append("call")
        return super().__call__(*args, **kws)


class Watched(Exception, metaclass=Meta):
    pass


def test_the_class_is_never_called() -> None:
    Meta.called.clear()
    made = from_result(Result(xmodule=__name__, xclass="Watched", xargs=[1]))
    assert (type(made), made.args, Meta.called) == (Watched, (1,), [])


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that could be imported, and leaves a file when it is."""
    sprung = tmp_path / "sprung"
    package = tmp_path / "gofer_trap"
    package.mkdir()
    code = f"open({str(sprung)!r}, 'w').close()\nclass Error(Exception): pass\n"
    (tmp_path / "trap_module.py").write_text(code)
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    yield sprung
    for name in ("trap_module", "gofer_trap", "gofer_trap.inner"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("module", ["trap_module", "gofer_trap.inner", "gofer_trap", "gofer.collation"])
def test_a_module_that_was_not_imported_is_not_imported(module: str, trap: Path) -> None:
    assert find_spec("trap_module") is not None
    before = set(sys.modules)
    made = from_result(Result(exval="t", xmodule=module, xclass="Error", xargs=["x"]))

    assert isinstance(made, RemoteException)
    assert not trap.exists()
    assert set(sys.modules) - before <= {"gofer_trap"}  # what find_spec may import


def test_a_module_that_loads_itself_when_touched_is_not_touched(trap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = find_spec("trap_module")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = LazyLoader(spec.loader)
    lazy = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "trap_module", lazy)
    spec.loader.exec_module(lazy)

    assert isinstance(from_result(Result(xmodule="trap_module", xclass="Error")), RemoteException)
    assert not trap.exists()
    assert isinstance(lazy.Error(), Exception)  # touched by us, it loads
    assert trap.exists()


class Pretender:
    """No module, but in its place."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"was asked for {name}")


def test_what_stands_in_a_modules_place_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for stand_in in (None, Pretender(), 5):
        monkeypatch.setitem(sys.modules, "stand_in", stand_in)
        assert isinstance(from_result(Result(xmodule="stand_in", xclass="Error")), RemoteException)


def test_what_stands_in_a_classs_place_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("holder")
    vars(module).update(Error=Pretender(), Function=breakpoint, Instance=ValueError("x"))
    vars(module)["__getattr__"] = Pretender()
    monkeypatch.setitem(sys.modules, "holder", module)
    for name in ("Error", "Function", "Instance", "Missing"):
        assert isinstance(from_result(Result(xmodule="holder", xclass=name)), RemoteException)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"), ("builtins", "print"), ("builtins", "int"), ("builtins", "object"), ("builtins", "type"),
        ("builtins", "BaseException"), ("builtins", "SystemExit"), ("builtins", "KeyboardInterrupt"),
        ("builtins", "GeneratorExit"), ("builtins", "__build_class__"), ("builtins", "__loader__"),
        ("builtins", "__import__"), ("builtins", ""), ("builtins", None), (None, "ValueError"), ("", "ValueError"),
        ("os", "system"), ("os", "path"), ("os", "_exit"), ("subprocess", "Popen"), ("os.path", "ValueError"),
        ("builtins", "ValueError.__base__"), ("json", "decoder.JSONDecodeError"), ("json.decoder", "JSONDecodeError()"),
        ("gofer.errors", "_sentence"), ("gofer.errors", "annotations"), ("gofer", "errors"),
        ("gofer.made_up", "ValueError"), ("gofer.made_up", "eval"), ("gofer.", "ValueError"),
        ("goferx", "Rejected"), ("builtins\0", "ValueError"),
        ("\udc80", "x"), ("builtins", "\uff36alueError"), ("builtins", "ValueError "), ("sys", "modules"),
    ],
)  # fmt: skip
def test_what_is_no_exception_class_is_a_remote_exception(module: str | None, name: str | None) -> None:
    made = from_result(Result(exval="the trace", xmodule=module, xclass=name, xargs=["x"], xstate={"a": 1}))

    assert type(made) is RemoteException
    assert (made.xmodule, made.xclass, made.xargs, made.xstate) == (module, name, ["x"], {"a": 1})
    assert str(made) == "the trace"


def test_agents_on_python_2_say_exceptions() -> None:
    assert type(from_result(Result(xmodule="exceptions", xclass="ValueError", xargs=["x"]))) is ValueError


@pytest.mark.parametrize(
    ("name", "args", "state"),
    [
        ("RequestTimeout", ["sn"], {}),
        ("RequestTimeout", ["sn", 1, "s", "d", None], {"sn": 1, "wait": "x"}),
        ("RequestTimeout", [1, 2], None),
        ("NotTaken", [[]], {"reasons": 5}),
        ("NotTaken", [], {}),
        ("Rejected", [], {"sn": [1]}),
        ("DocumentError", ["x"], {"code": 1}),
        ("RemoteException", [], {}),
    ],
)
def test_our_own_are_whole_or_not_made(name: str, args: list[Any], state: dict[str, Any] | None) -> None:
    """Their texts are made of their state, and that came over the wire."""
    made = from_result(Result(exval="t", xmodule="gofer.errors", xclass=name, xargs=args, xstate=state))
    assert isinstance(str(made), str)
    assert type(made).__name__ in (name, "RemoteException")


@given(
    st.sampled_from([kind.__name__ for kind in BUILTIN] + errors.__all__),
    st.sampled_from(["builtins", "gofer.errors", "gofer.rmi.dispatcher"]),
    st.none() | st.lists(PLAIN, max_size=6),
    st.none()
    | st.dictionaries(
        TEXT | st.sampled_from(["args", "errno", "add_note", "__dict__", "sn", "wait"]), PLAIN, max_size=4
    ),
    st.none() | TEXT,
)
def test_any_reply_makes_an_exception_that_can_be_raised_and_shown(
    name: str, module: str, args: list[Any] | None, state: dict[str, Any] | None, trace: str | None
) -> None:
    made = from_result(Result(exval=trace, xmodule=module, xclass=name, xargs=args, xstate=state))
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is
        raise made
    assert caught.value is made
    assert isinstance(str(made), str)
    assert isinstance(repr(made), str)
    assert plain(to_result(made))["xclass"]  # and go on to another caller
