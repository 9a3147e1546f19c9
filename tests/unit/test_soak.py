"""The soak's own judgement: evidence that all is well, and evidence of each promise that was broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from soak.evidence import Request, collect
from soak.plan import Plan
from soak.verdict import judged, table

SN = "0c2b1f9e-6d5a-4f0e-9c1d-9a6b7f6a2b11"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def collected(runs: Path, journal: list[dict[str, Any]], *lines: str) -> dict[str, Request]:
    runs.write_text("".join(f"{line}\n" for line in lines))
    return collect(iter(journal), runs)


def asked(id: str, kind: str = "quick") -> dict[str, Any]:
    return {"at": 1.0, "event": "sent", "id": id, "kind": kind}


def heard(id: str, outcome: str, at: float = 9.0) -> dict[str, Any]:
    return {"at": at, "event": "end", "id": id, "outcome": outcome, "detail": "", "seconds": at - 1}


def told(id: str, outcome: str, at: float = 8.0, *, done: bool = True, by: int = 1) -> dict[str, Any]:
    return {"at": at, "event": "told", "id": id, "outcome": outcome, "detail": "", "done": done, "by": by}


def broken(requests: dict[str, Request], kills: tuple[float, ...] = (3.5,), least: int = 1) -> list[str]:
    return [line.promise for line in judged(requests, list(kills), [], {"listed"}, least) if not line.kept]


ONE = ("2.0 begun", "3.0 ended")


def ran(id: str, *what: str, sn: str = SN) -> Iterator[str]:
    return (f"{one} {sn} {id} 77" for one in what)


def test_what_went_well_breaks_no_promise(runs: Path) -> None:
    journal = [
        *(one for n in range(100) for one in (asked(f"q{n}"), heard(f"q{n}", "value"))),
        *(asked("e", "raising"), heard("e", "raised")),
        *(asked("o", "once"), heard("o", "interrupted")),
        *(asked("p", "posts"), heard("p", "taken")),
        *(asked("n", "posts"), heard("n", "not taken")),
        *(asked("l", "posts"), {**heard("l", "taken"), "sn": "listed"}),
        *(asked("r", "replies"), heard("r", "taken"), told("r", "started", 5.0, done=False), told("r", "value")),
        told("r", "value", 8.1, by=2),
        *(asked("t"), heard("t", "timeout: accepted")),
        asked("m", "mortal"),
    ]
    lines = [line for n in range(100) for line in ran(f"q{n}", *ONE)]
    lines += [*ran("e", *ONE), *ran("o", "2.0 begun"), *ran("p", *ONE), *ran("r", "1.5 begun", *ONE)]

    requests = collected(runs, journal, *lines)

    assert broken(requests) == []
    assert "| quick | 101 | 100 |  |  | 1 |" in table(requests)


@pytest.mark.parametrize(
    ("journal", "lines", "promise"),
    [
        ([asked("q")], [*ran("q", *ONE)], "exactly one outcome"),
        ([asked("q"), heard("q", "value"), heard("q", "value")], [*ran("q", *ONE)], "exactly one outcome"),
        ([], [*ran("q", *ONE)], "exactly one outcome"),
        ([asked("q"), heard("q", "error: NotFound")], [], "one that was promised"),
        ([asked("m", "mortal"), heard("m", "error: ConnectionLost")], [*ran("m", *ONE)], "one that was promised"),
        ([asked("r", "replies"), heard("r", "taken")], [*ran("r", *ONE)], "told one end"),
        (
            [asked("r", "replies"), heard("r", "taken"), told("r", "value"), told("r", "value", 8.1)],
            [*ran("r", *ONE)],
            "told one end",
        ),
        (
            [asked("r", "replies"), heard("r", "taken"), told("r", "value"), told("r", "started", 8.1, done=False)],
            [*ran("r", *ONE)],
            "no status after",
        ),
        (
            [asked("r", "replies"), heard("r", "taken"), told("r", "value"), told("r", "interrupted", 8.1, by=2)],
            [*ran("r", *ONE)],
            "told one end",
        ),
        ([asked("q"), heard("q", "raised")], [*ran("q", *ONE)], "95 %"),
        ([asked("q"), heard("q", "timeout: sent")], [*ran("q", *ONE)], "true state"),
        ([asked("q"), heard("q", "timeout: started")], [*ran("q", *ONE)], "true state"),
        ([asked("q"), heard("q", "value")], [*ran("q", *ONE, *ONE, *ONE)], "more than twice"),
        (
            [asked("c", "cancelled"), {**heard("c", "value"), "detail": "reported as cancelled"}],
            [*ran("c", *ONE)],
            "reported as cancelled",
        ),
        ([asked("o", "once"), heard("o", "value")], [*ran("o", *ONE, *ONE)], "@once"),
        ([asked("q"), heard("q", "value")], [*ran("q", *ONE), *ran("q", *ONE, sn="another")], "serial number"),
        ([asked("q"), heard("q", "value")], [*ran("q", "2.0 begun")], "a run that ended"),
        ([asked("p", "posts"), heard("p", "taken")], [], "reported as taken"),
        ([asked("q"), heard("q", "interrupted")], [*ran("q", "1.5 begun", "2.0 ended")], "a kill cut off"),
    ],
)
def test_each_broken_promise_is_seen(runs: Path, journal: list[dict[str, Any]], lines: list[str], promise: str) -> None:
    assert any(promise in one for one in broken(collected(runs, journal, *lines)))


def test_more_interrupted_than_kills_can_explain_are_seen(runs: Path) -> None:
    journal = [one for n in range(25) for one in (asked(f"q{n}"), heard(f"q{n}", "interrupted"))]

    requests = collected(runs, journal)

    assert "Interrupted at most kills x workers" in broken(requests, kills=(3.0,))
    assert "Interrupted at most kills x workers" not in broken(requests, kills=(3.0, 4.0))
    assert "there were enough requests" in broken(requests, least=26)


def test_a_plan_is_had_again_by_its_seed() -> None:
    plan = Plan.of(7, 600, 30, 3, 2)

    assert plan == Plan.of(7, 600, 30, 3, 2) != Plan.of(8, 600, 30, 3, 2)
    assert Counter(blow.how for blow in plan.agent) == {"kill": 30, "freeze": 2, "stop": 2, "reload": 4}
    assert [blow.how for blow in plan.broker if blow.how != "freeze"] == ["kill", "stop", "kill"]
    assert len(plan.frozen) == 2
    assert all(3 <= blow.moment <= 595 for blow in plan.agent + plan.broker)
