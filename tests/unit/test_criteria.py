"""Criteria: which requests are meant, by what was put beside them."""

from __future__ import annotations

from typing import Any

import pytest
from gofer.errors import InvalidOperator
from gofer.rmi import criteria
from hypothesis import given
from hypothesis import strategies as st

ATOMS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0]) | st.sampled_from(["", "a", "b"])
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["k", "l"]), inner, max_size=2),
    max_leaves=5,
)
PATTERNS = st.dictionaries(st.sampled_from(["k", "l"]), VALUES, min_size=1, max_size=2)


def one(operator: str, wanted: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return wanted.map(lambda value: {operator: value})


CRITERIA = st.recursive(
    st.one_of(
        *(one(operator, VALUES) for operator in ("eq", "neq", "gt", "lt")),
        one("match", PATTERNS),
        one("in", st.lists(VALUES, min_size=1, max_size=3)),
        PATTERNS.map(lambda pattern: {"match": pattern, "neq": "a"}),
    ),
    lambda inner: st.one_of(*(one(operator, st.lists(inner, min_size=1, max_size=3)) for operator in ("and", "or"))),
    max_leaves=6,
)


def contains(data: Any, pattern: dict[str, Any]) -> bool:
    """Tell whether an object has all that another has."""
    if not isinstance(data, dict):
        return False
    for key, wanted in pattern.items():
        if key not in data:
            return False
        if isinstance(wanted, dict):
            if not contains(data[key], wanted):
                return False
        elif data[key] != wanted:
            return False
    return True


def ordered(low: Any, high: Any) -> bool:
    """Tell whether one value is less than another, by Python; false for two that have no order."""
    try:
        return bool(low < high)
    except TypeError:
        return False


def model(asked: dict[str, Any], data: Any) -> bool:
    """Say in plain Python what criteria mean."""
    for operator, wanted in asked.items():
        if operator in ("and", "or"):
            results = [model(each, data) for each in wanted]
            holds = False not in results if operator == "and" else True in results
        else:
            holds = {
                "match": lambda wanted: contains(data, wanted),
                "eq": lambda wanted: data == wanted,
                "neq": lambda wanted: not data == wanted,  # noqa: SIM201 - said in another way than what is tested
                "gt": lambda wanted: ordered(wanted, data),
                "lt": lambda wanted: ordered(data, wanted),
                "in": lambda wanted: any(data == each for each in wanted),
            }[operator](wanted)
        if not holds:
            return False
    return True


@given(CRITERIA, VALUES)
def test_criteria_agree_with_plain_python(asked: dict[str, Any], data: Any) -> None:
    criteria.check(asked)
    assert criteria.matches(asked, data) is model(asked, data)


@pytest.mark.parametrize(
    ("asked", "met", "not_met"),
    [
        ({"match": {"group": "a"}}, [{"group": "a"}, {"group": "a", "n": 1}], [{"group": "b"}, {}, None, "group", 5]),
        ({"match": {"a": {"b": 1}}}, [{"a": {"b": 1, "c": 2}}], [{"a": {"c": 2}}, {"a": 1}]),
        ({"eq": 5}, [5, 5.0], ["5", None]),
        ({"neq": 5}, ["5", None], [5]),
        ({"gt": 5}, [6], [5, 4, "6", None, {}]),
        ({"lt": "m"}, ["a"], ["z", 1, None]),
        ({"in": [1, [2], "x"]}, [1, [2], "x"], [2, "xx", None]),
        ({"and": [{"gt": 1}, {"lt": 5}]}, [2, 4], [1, 5]),
        ({"or": [{"eq": 1}, {"and": [{"match": {"x": 1}}, {"neq": {"x": 1}}]}]}, [1, {"x": 1, "y": 2}], [2, {"x": 1}]),
        ({"gt": 1, "lt": 5}, [3], [1, 5]),
    ],
)
def test_each_operator(asked: dict[str, Any], met: list[Any], not_met: list[Any]) -> None:
    criteria.check(asked)
    assert [data for data in met if not criteria.matches(asked, data)] == []
    assert [data for data in not_met if criteria.matches(asked, data)] == []


@pytest.mark.parametrize("asked", [{"nope": 1}, {"and": [{"eq": 1}, {"nope": 1}]}, {"eq": 1, "nope": 2}])
def test_an_unknown_operator_is_named(asked: dict[str, Any]) -> None:
    with pytest.raises(InvalidOperator, match="'nope' is not an operator"):
        criteria.check(asked)


@pytest.mark.parametrize(
    "asked",
    [
        *({}, {"match": {}}, {"and": []}, {"or": []}, {"in": []}, {"or": [{}]}),  # these would mean all, or none
        *("x", None, [], {"match": 5}, {"match": []}, {"in": "abc"}, {"and": {"eq": 1}}, {"or": [5]}),
    ],
)
def test_empty_and_misshapen_criteria_are_refused(asked: Any) -> None:
    with pytest.raises(ValueError, match=r"empty|not a"):
        criteria.check(asked)
