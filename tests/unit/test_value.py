"""Values: plain JSON goes through unchanged, and what is none is refused where it was made."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict, UserDict, namedtuple
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from gofer.messaging.document import Request, decode_reply, decode_request, encode
from gofer.messaging.value import MAX_DEPTH, plain
from hypothesis import example, given
from hypothesis import strategies as st

#: Any value that may be sent and comes back equal: what JSON has (a tuple would come back as a list).
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


class Colour(enum.StrEnum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()


class Float(float):
    pass


Pair = namedtuple("Pair", "a b")


def nested(depth: int, inner: Any = 1) -> Any:
    value = inner
    for n in range(depth):
        value = [value] if n % 2 else {"k": value}
    return value


def request(**more: Any) -> dict[str, Any]:
    return {"sn": "a", "version": "2.0", "request": {"classname": "A", "method": "b"}, **more}


def call(**more: Any) -> dict[str, Any]:
    return request(request={"classname": "A", "method": "b", **more})


def through_a_request(document: dict[str, Any]) -> Request:
    return decode_request(encode(document))


@given(VALUES)
@example(10**4300 - 1)
@example(-(2**63))
@example(2**64)
@example(-0.0)
@example(5e-324)
@example(1.7976931348623157e308)
@example({"\0": "\x7f\u2028\ufeff"})
def test_a_plain_value_comes_back_as_it_was(value: Any) -> None:
    made = plain(value)
    assert made == value

    assert through_a_request(request(data=made)).data == value
    assert through_a_request(call(args=[made, made])).request.args == [value, value]
    assert through_a_request(call(kws={"x": made})).request.keywords == {"x": value}
    assert through_a_request(call(cntr=[[made], {"x": made}])).request.cntr == ([value], {"x": value})
    reply = decode_reply(encode({"data": made, "result": {"retval": made}}))
    assert reply.result is not None
    assert (reply.data, reply.result.retval) == (value, value)
    assert repr(reply.result.retval) == repr(made)  # 1 is not 1.0, nor -0.0 0.0


def test_what_is_nested_as_deep_as_it_may_arrives_wherever_it_stands() -> None:
    value = plain(nested(MAX_DEPTH))
    arguments = plain([nested(MAX_DEPTH - 1)])  # the list of them counts too

    assert through_a_request(request(data=value)).data == value
    assert through_a_request(call(args=arguments)).request.args == arguments
    assert through_a_request(call(cntr=[arguments, {}])).request.cntr == (arguments, {})
    result = decode_reply(encode({"result": {"retval": value, "xstate": {"x": value}, "xargs": [value]}})).result
    assert result is not None
    assert (result.retval, result.xstate, result.xargs) == (value, {"x": value}, [value])


@pytest.mark.parametrize(
    ("value", "same"),
    [
        ((1, (2,)), [1, [2]]),
        (Pair(1, "x"), [1, "x"]),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (Colour.RED, "red"),
        (Number.ONE, 1),
        (Text("é"), "é"),
        (Text("e"), "e"),
        (Float(1.5), 1.5),
        ({Colour.RED: [Number.ONE]}, {"red": [1]}),
    ],
)
def test_subclasses_are_made_plain(value: Any, same: Any) -> None:
    made = plain(value)

    assert made == same
    assert type(made) is type(same)
    if isinstance(made, dict):
        assert all(type(key) is str for key in made)
    assert encode({"v": made}) == encode({"v": same})


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (math.nan, "result is nan: only finite numbers"),
        ([1, math.inf], r"result\[1\] is inf"),
        ({"a": [-math.inf]}, r"result\['a'\]\[0\] is -inf"),
        (b"x", "result is a builtins.bytes"),
        ({1, 2}, "result is a builtins.set"),
        (object(), "result is a builtins.object"),
        (Decimal(1), "result is a decimal.Decimal"),
        (datetime.now(UTC), "result is a datetime.datetime"),
        (UserDict(a=1), "result is a collections.UserDict"),
        ({"a": {1: "x"}}, r"result\['a'\] has the key 1: the keys of a dict must be text"),
        ({None: 1}, "the keys of a dict must be text"),
        ("a\udc80", "result is text with a lone surrogate at 1"),
        ([{"\ud800": 1}], r"result\[0\] is text with a lone surrogate at 0"),
        (10**4300, "an integer of more than 4,300 digits"),
        ([-(10**5000)], r"result\[0\] is an integer of more than 4,300 digits"),
        (nested(MAX_DEPTH + 1), "result is nested deeper than 100"),
        (nested(5000), "result is nested deeper than 100"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_what_is_not_plain_is_refused_by_its_place(value: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        plain(value, "result")


def test_a_value_that_contains_itself_is_refused() -> None:
    round_: list[Any] = []
    round_.append(round_)
    with pytest.raises(TypeError, match="nested deeper"):
        plain(round_)


def test_the_value_is_copied_so_later_changes_do_not_reach_it() -> None:
    value: dict[str, Any] = {"a": [1]}
    made = plain(value)
    value["a"].append(2)
    assert made == {"a": [1]}
