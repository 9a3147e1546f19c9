"""Stubs: what is asked for, and that looking at one sends nothing."""

from __future__ import annotations

import copy
import inspect
import pickle
import pprint
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from gofer.proxy import Agent
from gofer.rmi.client.options import OPTION_NAMES, Options
from gofer.rmi.client.stub import Method, Stub, Trigger, new_request

Sent = list[tuple[str, str, list[Any] | None, tuple[Any, ...], dict[str, Any]]]


@pytest.fixture
def sent() -> Sent:
    return []


@pytest.fixture
def stub(sent: Sent) -> Stub:
    def invoke(*call: Any) -> int:
        sent.append(call)
        return len(sent)

    return Stub("Dog", invoke)


# -- what is asked for -------------------------------------------------------------------------------------------


def test_a_call_is_its_class_method_and_arguments(stub: Stub, sent: Sent) -> None:
    assert stub.bark("hello", times=2) == 1
    assert stub["bark"]("again") == 2
    assert sent == [("Dog", "bark", None, ("hello",), {"times": 2}), ("Dog", "bark", None, ("again",), {})]


def test_constructor_arguments_go_with_every_later_call_until_they_are_replaced(stub: Stub, sent: Sent) -> None:
    stub("rover", age=10)
    stub.bark()
    stub.wag()
    stub().bark()
    stub(name="max").bark()
    assert [cntr for _, _, cntr, _, _ in sent] == [[["rover"], {"age": 10}]] * 2 + [[[], {}], [[], {"name": "max"}]]


def test_constructor_arguments_are_taken_as_they_are_now(stub: Stub, sent: Sent) -> None:
    toys = ["ball"]
    bark = stub(toys, like={"a": toys}).bark
    toys.append("bone")
    stub("other")
    bark()
    assert sent[0][2] == [[["ball"]], {"like": {"a": ["ball"]}}]


@pytest.mark.parametrize("name", ["self", "name", "args", "kws", "of", "invoke", "classname"])
def test_a_keyword_may_have_any_name(stub: Stub, sent: Sent, name: str) -> None:
    stub(**{name: 1}).bark(**{name: 2})
    assert sent[0][2:] == ([[], {name: 1}], (), {name: 2})


def test_methods_keywords_may_be_called_as_options_are(stub: Stub, sent: Sent) -> None:
    """Only the constructor's place is where options used to go."""
    stub.bark(**dict.fromkeys(OPTION_NAMES, 1))
    assert set(sent[0][4]) == OPTION_NAMES


@pytest.mark.parametrize("name", sorted(OPTION_NAMES))
def test_an_option_among_constructor_arguments_shows_where_it_goes(stub: Stub, sent: Sent, name: str) -> None:
    example = "fn" if name == "progress" else "..."
    with pytest.raises(TypeError) as caught:
        stub("rover", **{name: 5})
    assert str(caught.value).endswith(f"Options go to the agent: agent({name}={example}).Dog()")
    stub.bark()
    assert sent[0][2] is None


@pytest.mark.parametrize(
    ("args", "kws"),
    [
        ((print,), {}),
        ((), {"callback": print}),
        ((1, lambda: None), {"age": 5}),
        ((), {"progress": print}),
        ((str,), {}),
        (("rover", print), {"progress": print}),
    ],
)
def test_a_callable_among_constructor_arguments_shows_where_it_goes(
    stub: Stub, args: tuple[Any, ...], kws: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=r"agent\(progress=fn\)\.Dog\(\)"):
        stub(*args, **kws)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda stub: stub(object()), r"constructor argument\[0\] is a builtins.object"),
        (lambda stub: stub(1, [print]), r"constructor argument\[1\]\[0\] is a"),
        (lambda stub: stub(age=b"x"), r"constructor argument\['age'\] is a builtins.bytes"),
    ],
)
def test_constructor_arguments_are_plain_json(stub: Stub, call: Callable[[Stub], object], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        call(stub)


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["_bark", "__bark__", "__wrapped__", "_ipython_display_", "_repr_html_", "_"])
def test_names_that_start_with_an_underscore_are_no_remote_names(stub: Stub, name: str) -> None:
    with pytest.raises(AttributeError, match="remote names do not start with '_'"):
        getattr(stub, name)
    with Agent("local:///nowhere", "q") as agent, pytest.raises(AttributeError, match="do not start with '_'"):
        getattr(agent, name)


@pytest.mark.parametrize("key", [0, 1, None, b"bark", ("a", "b"), slice(None), 1.5])
def test_items_are_names(stub: Stub, key: Any) -> None:
    with pytest.raises(TypeError, match="a remote name must be text"):
        stub[key]
    if key == ("a", "b"):
        return  # a class in a version
    with Agent("local:///nowhere", "q") as agent, pytest.raises(TypeError, match="a remote name must be text"):
        agent[key]


def test_a_name_is_text_that_can_be_sent(stub: Stub) -> None:
    with pytest.raises(TypeError, match="lone surrogate"):
        stub["bark\udc80"]


# -- looking at stubs --------------------------------------------------------------------------------------------

LOOKS: list[Callable[[Any], object]] = [
    repr, str, bool, id, hash, callable, dir, pprint.pformat,
    lambda it: it == 5,
    lambda it: f"{it}{it!r}",
    lambda it: [hasattr(it, name) for name in ("bark", "keys", "_private", "__len__", "__wrapped__", "shape", "dtype")],
    inspect.isfunction, inspect.ismethod, inspect.isclass, inspect.isawaitable, inspect.isgenerator,
    inspect.iscoroutinefunction, inspect.isabstract, inspect.unwrap, inspect.getdoc, inspect.getmembers,
    inspect.signature, copy.copy,
    lambda it: isinstance(it, Callable),  # type: ignore[arg-type]  # it may be asked
]  # fmt: skip
#: These cannot be done with a stub, and say so.
REFUSED: list[Callable[[Any], object]] = [
    list, tuple, len, next, reversed, float, int,
    lambda it: "bark" in it,
    lambda it: [*it],
    lambda it: it + 1,
    lambda it: it < 1,
]  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("look", LOOKS + REFUSED, ids=lambda look: getattr(look, "__name__", ""))
@pytest.mark.parametrize("what", ["stub", "method", "agent"])
def test_looking_sends_nothing(look: Callable[[Any], object], what: str, stub: Stub, sent: Sent) -> None:
    """There is no broker: what sends fails with a ConnectionLost, and what iterates would never end."""
    with Agent("local:///nowhere", "q") as agent:
        it: Any = {"stub": stub, "method": stub.bark, "agent": agent}[what]
        if look in REFUSED:
            with pytest.raises(TypeError):
                look(it)
        else:
            look(it)
    assert sent == []


def test_pickling_sends_nothing(stub: Stub, sent: Sent) -> None:
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(stub)
    assert sent == []


def test_a_copied_stub_has_constructor_arguments_of_its_own(stub: Stub, sent: Sent) -> None:
    other = copy.copy(stub("rover"))
    other("max")
    stub.bark()
    other.bark()
    assert [cntr for _, _, cntr, _, _ in sent] == [[["rover"], {}], [["max"], {}]]


def test_what_they_look_like(stub: Stub) -> None:
    assert (repr(stub), repr(stub.bark)) == ("<remote Dog>", "<remote Dog.bark>")
    assert isinstance(stub.bark, Method)
    assert repr(stub("a secret")) == "<remote Dog>"


# -- triggers ----------------------------------------------------------------------------------------------------


def test_a_trigger_is_pulled_once() -> None:
    pulled: list[int] = []
    trigger = Trigger("sn-1", lambda: pulled.append(1) or 7)  # type: ignore[func-returns-value]  # it is always None
    assert repr(trigger) == "<Trigger sn-1>"
    assert trigger() == 7
    assert repr(trigger) == "<Trigger sn-1 (pulled)>"
    with pytest.raises(RuntimeError, match="request sn-1 was sent already"):
        trigger()
    assert pulled == [1]


def test_a_trigger_that_fails_was_pulled() -> None:
    def fail() -> None:
        raise OSError("no")

    trigger = Trigger("sn-1", fail)
    with pytest.raises(OSError, match="no"):
        trigger()
    with pytest.raises(RuntimeError, match="was sent already"):
        trigger()


# -- requests ----------------------------------------------------------------------------------------------------


def test_each_request_has_a_serial_number_of_its_own() -> None:
    numbers = {new_request(("D", "m", None), (), {}, "q", Options())["sn"] for _ in range(100)}
    assert len(numbers) == 100
    assert all(uuid.UUID(number).version == 4 for number in numbers)


@pytest.mark.parametrize(
    ("args", "kws", "why"),
    [
        ((1, object()), {}, r"argument\[1\] is a builtins.object"),
        ((), {"x": {1, 2}}, r"argument\['x'\] is a builtins.set"),
        ((float("nan"),), {}, r"argument\[0\] is nan"),
        (("\udc80",), {}, "lone surrogate"),
    ],
)
def test_arguments_are_plain_json(args: tuple[Any, ...], kws: dict[str, Any], why: str) -> None:
    with pytest.raises(TypeError, match=why):
        new_request(("D", "m", None), args, kws, "q", Options())


# -- agents ------------------------------------------------------------------------------------------------------


def test_an_agent_shows_no_password() -> None:
    agent = Agent("amqp://me:s3cret@broker.example/zoo", "amq.direct/dogs", password="pa55", secret="garfield")
    for text in (repr(agent), str(agent), f"{agent}", repr(agent(wait=5)), repr(agent.Dog), repr(agent.Dog().bark)):
        assert not any(hidden in text for hidden in ("s3cret", "pa55", "garfield"))
    assert repr(agent) == "<Agent 'amq.direct/dogs' at amqp://me:***@broker.example:5672/zoo>"
    agent.close()


def test_an_agent_takes_options_and_nothing_else() -> None:
    makers: list[Callable[..., Agent]] = [partial(Agent, "local:///nowhere", "q"), Agent("local:///nowhere", "q")]
    for make in makers:
        with pytest.raises(TypeError, match=r"unknown option 'tll' \(did you mean 'ttl'\?\); allowed: authenticator"):
            make(tll=5)
        with pytest.raises(TypeError, match="progress must be callable"):
            make(progress=5)
        with pytest.raises(TypeError, match=r"^5: options are given by their names, as in .*wait=5\); arguments go to"):
            make(5)


def test_making_and_closing_an_agent_touches_no_broker() -> None:
    with Agent("local:///nowhere", "q") as agent:
        agent(wait=5, ttl="5m").Dog("rover")
    agent.close()
