"""Arguments that do not fit a method's annotations are refused before it runs; else it is given what was sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import Cancelled, Rejected, SecretRequired
from gofer.proxy import Agent
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.waiting import eventually

SHOP = """
from __future__ import annotations
from pathlib import Path
from typing import Any, TypedDict
from gofer.decorators import fork, once, remote

TRACE = Path({trace!r})


class Item(TypedDict):
    name: str
    count: int


class Shop:
    def __init__(self, floor: int = 0, name=None):
        self.floor = floor

    @remote
    def sell(self, items: list[Item], price: float = 1.0, note: str = None) -> list[Any]:
        with TRACE.open("a") as file:
            file.write("sell\\n")
        return [type(items).__name__, items, type(price).__name__, price, note, self.floor]

    @remote
    @fork
    def pack(self, pair: tuple[int, str]) -> Any:
        return [type(pair).__name__, pair]

    @remote
    async def later(self, count: int) -> int:
        return count

    @remote
    @once
    def single(self, count: int) -> int:
        with TRACE.open("a") as file:
            file.write("single\\n")
        return count

    @remote(secret="sesame")
    def vault(self, count: int) -> int:
        return count

    @remote(typed=False)
    def loose(self, count: int) -> Any:
        return count

    @remote
    def old(self, a, b=2, **more):
        return [a, b, more]


@remote
def count(number: int, *more: int) -> int:
    return number + sum(more)
"""

DESCRIPTOR = "[main]\nenabled=1\n{main}\n[messaging]\nurl={url}\n[model]\nqueue=shop\n"


@pytest.fixture
def process(root: Path, tmp_path: Path) -> Iterator[tuple[AgentProcess, str, Path]]:
    with LocalBroker(str(tmp_path / "broker.sock")) as broker, AgentProcess(root) as goferd:
        yield goferd, broker.url, tmp_path / "trace"


@pytest.fixture
def shop(process: tuple[AgentProcess, str, Path]) -> Iterator[Agent]:
    goferd, url, trace = process
    trace.touch()
    goferd.plugin("shop", SHOP.format(trace=str(trace)), DESCRIPTOR.format(main="", url=url))
    goferd.start()
    with Agent(url, "shop", wait=30) as agent:
        yield until_it_answers(agent, goferd.tail())


def test_what_fits_arrives_as_it_was_sent(shop: Agent) -> None:
    item = {"name": "a", "count": 1, "more": None}
    assert shop.Shop().sell([item]) == ["list", [item], "float", 1.0, None, 0]
    assert shop.Shop(3).sell((item,), 2, note="x") == ["list", [item], "int", 2, "x", 3]
    assert shop.Shop(name=object.__name__).pack([1, "x"]) == ["list", [1, "x"]]
    assert [shop.Shop().later(1), shop.Shop().single(2), shop.shop.count(1, 2, 3)] == [1, 2, 6]
    assert shop.Shop().loose("anything") == "anything"
    assert shop.Shop().old("x", [1], c=None) == ["x", [1], {"c": None}]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda shop: shop.Shop().sell([{"name": "a", "count": "1"}]),
            "Shop.sell(): items[0].count: expected int, got str",
        ),
        (lambda shop: shop.Shop().sell([], price="1"), "Shop.sell(): price: expected float, got str"),
        (lambda shop: shop.Shop().sell([], 1, 2), "Shop.sell(): note: expected str | null, got int"),
        (lambda shop: shop.Shop("3").sell([]), "Shop.sell(): constructor, floor: expected int, got str"),
        (lambda shop: shop.Shop().pack([1]), "Shop.pack(): pair: expected array of length 2, got 1"),
        (lambda shop: shop.Shop().later(1.0), "Shop.later(): count: expected int, got float"),
        (lambda shop: shop.Shop().single(None), "Shop.single(): count: expected int, got null"),
        (lambda shop: shop.shop.count(1, 2, "3"), "shop.count(): more[1]: expected int, got str"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_path(
    shop: Agent, process: tuple[AgentProcess, str, Path], call: Any, says: str
) -> None:
    with pytest.raises(Rejected) as refused:
        call(shop)
    assert (refused.value.code, refused.value.details) == ("arguments.invalid", says)
    assert process[2].read_text() == ""
    assert shop.Shop().later(7) == 7


def test_what_lacks_is_python_s_own_error_and_a_secret_comes_first(shop: Agent) -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'count'"):
        shop.Shop().later()
    with pytest.raises(SecretRequired):
        shop.Shop().vault("x")
    with pytest.raises(Rejected, match=r"vault\(\): count: expected int"):
        shop(secret="sesame").Shop().vault("x")


def test_a_request_that_does_not_fit_is_refused_after_a_restart_too(
    shop: Agent, process: tuple[AgentProcess, str, Path]
) -> None:
    """It was accepted and written to the ledger before anybody looked at its arguments."""
    goferd = process[0]
    with pytest.raises((Rejected, Cancelled), match="count: expected int, got str"):
        shop(ttl=30).Shop().single("x")
    goferd.kill()
    goferd.start()
    assert until_it_answers(shop, goferd.tail()).Shop().single(1) == 1
    assert process[2].read_text() == "single\n"


def test_a_descriptor_switches_it_off(process: tuple[AgentProcess, str, Path]) -> None:
    goferd, url, trace = process
    goferd.plugin("shop", SHOP.format(trace=str(trace)), DESCRIPTOR.format(main="typed = 0", url=url))
    goferd.start()
    with Agent(url, "shop", wait=30) as agent:
        until_it_answers(agent, goferd.tail())
        assert agent.Shop("3").sell("abc", note=5) == ["str", "abc", "float", 1.0, 5, "3"]
        (cls,) = agent.Admin().describe()["plugins"][0]["classes"]
        assert cls["methods"][0]["typed"] is True  # what its author says


def test_admin_is_held_to_its_own_annotations(shop: Agent, process: tuple[AgentProcess, str, Path]) -> None:
    with pytest.raises(Rejected, match=r"hello\(\): who: expected bool, got str"):
        shop.Admin().hello("yes")
    eventually(lambda: "arguments.invalid" in process[0].log.read_text())
