"""Replies name exceptions; nothing that they name is imported, called or asked, and nothing they say makes us fail."""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Iterator
from importlib.util import LazyLoader, find_spec, module_from_spec
from pathlib import Path
from typing import Any

import pytest
from gofer import errors
from gofer.errors import RemoteException
from gofer.messaging.document import Result
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
    kind.__name__ for kind in vars(builtins).values() if isinstance(kind, type) and issubclass(kind, Exception)
)


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
    st.sampled_from(BUILTIN + errors.__all__),
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
