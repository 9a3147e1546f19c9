"""Admin.cancel by every criterion, over the wire: which of those that wait are meant."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.proxy import Agent
from support.danger import DANGER
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import descriptor, runs
from support.waiting import eventually

DATA: list[Any] = [
    {"n": 1, "kind": "dog", "home": {"city": "Ulm", "zip": 1}},
    {"n": 2, "kind": "cat", "home": {"city": "Bonn"}},
    {"n": 3},
    "text",
    7,
    7.5,
    None,
    [1, 2],
    True,
    {"large": "x" * 2000, "kind": "dog"},
]

CASES: list[tuple[dict[str, Any], set[int]]] = [
    ({"match": {"kind": "dog"}}, {0, 9}),
    ({"match": {"kind": "dog", "n": 1}}, {0}),
    ({"match": {"home": {"city": "Ulm"}}}, {0}),
    ({"eq": "text"}, {3}),
    ({"eq": None}, {6}),
    ({"neq": None}, set(range(10)) - {6}),
    ({"gt": 7}, {5}),
    ({"lt": 7.5}, {4, 8}),
    ({"in": [7, "text", [1, 2]]}, {3, 4, 7}),
    ({"and": [{"neq": "text"}, {"match": {"n": 2}}]}, {1}),
    ({"or": [{"eq": 7}, {"and": [{"match": {"kind": "cat"}}, {"match": {"home": {"city": "Bonn"}}}]}]}, {1, 4}),
    ({"gt": 1, "lt": 8}, {4, 5}),
    ({"match": {"kind": "bird"}}, set()),
]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    folder = tmp_path_factory.mktemp("criteria")
    with LocalBroker(str(folder / "broker.sock")) as broker, AgentProcess(folder / "root") as process:
        process.plugin("danger", DANGER, descriptor(broker.url, "criteria"))
        process.start()
        with Agent(broker.url, "criteria", wait=60) as agent:
            yield until_it_answers(agent, process.tail())


@pytest.mark.parametrize(("criteria", "meant"), CASES, ids=[str(criteria) for criteria, _ in CASES])
def test_those_that_are_meant_are_cancelled_and_no_others(
    agent: Agent, tmp_path: Path, criteria: dict[str, Any], meant: set[int]
) -> None:
    """One runs; behind it wait the others, and what cancels them comes after all of these."""
    trace, first = tmp_path / "trace", tmp_path / "first"
    agent(wait=0, data={"first": 1}).Probe().note(str(first), "first", until=str(tmp_path / "go"))
    eventually(first.exists)  # else the end of this one, cancelled while it waits, would let the next start
    sns = [agent(wait=0, data=data).Probe().note(str(trace), f"n{n}") for n, data in enumerate(DATA)]
    found = agent.Admin().cancel(criteria=criteria)
    (tmp_path / "go").touch()
    assert [sns.index(sn) for sn in found if sn in sns] == sorted(meant)
    assert agent.Probe().echo("behind all") == "behind all"
    assert set(runs(trace)) == {f"n{n}" for n in range(len(DATA)) if n not in meant}
