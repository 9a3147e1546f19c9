"""What annotations say of arguments: what fits, what does not, and what is told about it."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypedDict

import pytest
from gofer.decorators import destructive, fork, idempotent, mark_of, read_only, remote
from gofer.rmi.api import API
from gofer.rmi.contract import constructor_of, contract_of
from gofer.rmi.description import of_api
from msgspec import Meta

if TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found]  # as plugins do


class Point(TypedDict):
    """A place."""

    x: int
    y: int
    name: NotRequired[str]


class Node(TypedDict):
    """A tree."""

    nodes: list[Node]


class Shop:
    """Sells."""

    def __init__(self, name: str, floor: int = 0) -> None:
        self.name = name

    def sell(
        self,
        count: int,
        price: float = 1.0,
        names: list[str] | None = None,
        *places: Point,
        kind: Literal["a", "b", 1] = "a",
        note: str = None,  # type: ignore[assignment]  # noqa: RUF013 - as many write it
        by: dict[str, list[int]] | None = None,
        pair: tuple[int, str] | None = None,
        **more: bool,
    ) -> list[Point]:
        """Sell something.

        More about it.
        """
        raise NotImplementedError


def free(a, b=1, *c, d, **e):  # type: ignore[no-untyped-def]  # as methods of gofer 2.12 are
    """Do anything."""


def odd(  # noqa: PLR0917 - one of each kind
    path: Path,
    when: datetime.datetime,
    missing: Missing,
    call: Callable[[], int],
    data: bytes,
    numbers: set[int],
    keys: dict[int, str],
    paths: list[Path],
    both: list[int] | tuple[str, ...],
    anything: Any,
    thing: object,
) -> Missing:
    """Take what is no JSON."""


FITS: list[tuple[list[Any], dict[str, Any]]] = [
    ([1], {}),
    ([1, 2], {}),
    ([1, 2.5, ["a"]], {}),
    ([1, 1, None, {"x": 1, "y": 2}, {"x": 1, "y": 2, "name": "n", "more": 3}], {}),
    ([1], {"kind": 1, "note": None, "by": {"a": [1]}, "extra": True, "pair": [1, "x"]}),
    ([10**30], {}),
    ([], {}),  # that one lacks, Python says itself
    ([1, 2, None], {"count": 1}),
]

WRONG: list[tuple[list[Any], dict[str, Any], str]] = [
    (["1"], {}, "count: expected int, got str"),
    ([1.0], {}, "count: expected int, got float"),
    ([True], {}, "count: expected int, got bool"),
    ([None], {}, "count: expected int, got null"),
    ([1, "2"], {}, "price: expected float, got str"),
    ([1, 2, ["a", 3]], {}, "names[1]: expected str, got int"),
    ([1, 2, "abc"], {}, "names: expected array | null, got str"),
    ([1, 2, None, {"x": 1}], {}, "places[0]: object missing required field y"),
    ([1, 2, None, {"x": 1, "y": 2}, {"x": 1, "y": "2"}], {}, "places[1].y: expected int, got str"),
    ([1], {"kind": "c"}, "kind: invalid enum value 'c'"),
    ([1], {"note": 3}, "note: expected str | null, got int"),
    ([1], {"by": {"a": [1, "2"]}}, "by['a'][1]: expected int, got str"),
    ([1], {"by": {"a": [1], "b ": {}}}, "by['b ']: expected array, got object"),
    ([1], {"extra": 1}, "extra: expected bool, got int"),
    ([1], {"pair": [1]}, "pair: expected array of length 2, got 1"),
    ([1], {"count": "x"}, "count: expected int, got str"),
]


@pytest.mark.parametrize(("args", "kws"), FITS)
def test_what_fits_is_passed(args: list[Any], kws: dict[str, Any]) -> None:
    assert contract_of(Shop.sell, bound=True).fault(args, kws) is None


@pytest.mark.parametrize(("args", "kws", "wrong"), WRONG)
def test_what_does_not_fit_is_named_by_its_path(args: list[Any], kws: dict[str, Any], wrong: str) -> None:
    assert contract_of(Shop.sell, bound=True).fault(args, kws) == wrong


def test_without_annotations_anything_fits() -> None:
    contract = contract_of(free, bound=False)
    assert not contract.checks
    assert contract.fault([object()] * 9, {"x": object()}) is None
    schema = {"type": "object", "properties": {"a": {}, "b": {"default": 1}, "d": {}}, "required": ["a", "d"]}
    assert contract.schema() == schema


def test_annotations_that_are_no_json_allow_anything() -> None:
    contract = contract_of(odd, bound=False)
    assert not contract.checks
    assert contract.fault(["x"] * 11, {}) is None
    assert set(map(str, contract.schema()["properties"].values())) == {"{}"}
    assert contract.schemas()[1] == {}


def test_a_wrapper_is_not_held_to_what_it_wraps() -> None:
    def wrapped(number: int) -> int:
        return number

    @functools.wraps(wrapped)
    def wrapper(*args: Any) -> int:
        return wrapped(len(args))

    assert contract_of(wrapper, bound=False).fault(["many", "words"], {}) is None


def test_recursion_protocols_constraints_and_constructors() -> None:
    def take(
        node: Node, more: Sequence[int], named: Mapping[str, object], few: Annotated[list[int], Meta(max_length=2)]
    ) -> None:
        raise NotImplementedError

    fault = contract_of(take, bound=False).fault
    assert fault([{"nodes": [{"nodes": []}]}, [1], {"a": object()}, [1, 2]], {}) is None
    assert fault([{"nodes": [{"nodes": 1}]}], {}) == "node.nodes[0].nodes: expected array, got int"
    assert fault([{"nodes": []}, [1], {}, [1, 2, 3]], {}) == "few: expected array of length <= 2"
    deep: dict[str, Any] = {"nodes": []}
    for _ in range(100_000):
        deep = {"nodes": [deep]}
    assert fault([deep], {}) == "node: is nested too deeply"
    assert constructor_of(Shop).fault(["x", "y"], {}) == "floor: expected int, got str"
    assert not constructor_of(Any.__class__).checks
    assert constructor_of(Node).parameters is not None


def test_a_default_that_cannot_be_looked_at_is_not_told() -> None:
    class Key:
        def __repr__(self) -> str:
            raise ValueError("not here")

    class Late(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("not now")

    def call(a: Any = {Key(): 1}, b: Any = Late(a=1), c: Any = (1, 2)) -> None:  # noqa: B006, B008 - what plugins do
        ...

    assert contract_of(call, bound=False).schema()["properties"] == {"a": {}, "b": {}, "c": {"default": [1, 2]}}


def test_it_is_reported_as_json_schema() -> None:
    contract = contract_of(Shop.sell, bound=True)
    schema = contract.schema()
    assert schema["properties"]["count"] == {"type": "integer"}
    assert schema["properties"]["price"] == {"type": "number", "default": 1.0}
    assert schema["properties"]["kind"] == {"enum": [1, "a", "b"], "default": "a"}
    assert (schema["required"], "additionalProperties" in schema) == (["count"], False)
    _, returns, definitions = contract.schemas()
    assert returns == {"type": "array", "items": {"$ref": "#/$defs/Point"}}
    assert definitions["Point"]["required"] == ["x", "y"]


def test_a_description_tells_all_of_it() -> None:
    class Vault:
        """Holds."""

        @remote(timeout=5)
        @read_only
        @idempotent
        def look(self, at: int = 0) -> str:
            """Look.

            Closely.
            """
            raise NotImplementedError

        @remote(typed=False)
        @destructive
        @fork
        def burn(self, at: int) -> None:
            raise NotImplementedError

    api = API("vault")
    api.add(Vault)
    (cls,) = of_api(api)["classes"]
    look, burn = cls["methods"]
    assert (cls["documentation"], cls["parameters"], cls["schema"]["properties"]) == ("Holds.", [], {})
    assert (look["doc"], look["documentation"]) == ("Look.", "Look.\n\nClosely.")
    assert (look["returns"], look["timeout"], look["typed"]) == ({"type": "string"}, 5.0, True)
    assert [look[mark] for mark in ("read_only", "destructive", "idempotent")] == [True, False, True]
    assert [burn[mark] for mark in ("read_only", "destructive", "idempotent", "typed")] == [False, True, False, False]
    assert look["parameters"] == [
        {"name": "at", "kind": "positional_or_keyword", "type": "int", "schema": {"type": "integer"}, "default": "0"}
    ]


def test_marks_that_contradict_each_other_are_refused() -> None:
    for first, second in ((read_only, destructive), (destructive, read_only)):
        with pytest.raises(TypeError, match="what is read-only is not destructive"):

            @first
            @second
            def burn() -> None:
                raise NotImplementedError

    @read_only()
    @idempotent
    def look() -> None:
        raise NotImplementedError

    mark = mark_of(look)
    assert mark is not None
    assert (mark.read_only, mark.idempotent, mark.destructive) == (True, True, False)
    with pytest.raises(TypeError, match="typed is True or False"):
        remote(typed="no")(look)  # type: ignore[call-overload]  # that is what is tested
