"""Whose requests Admin.cancel cancels, where requests are signed: one's own, unless the descriptor says more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.errors import Cancelled, ExecutionTimeout, NotAuthorized
from gofer.proxy import Agent
from support.probe import runs
from support.signing import Serving, hmac_scheme, serving
from support.waiting import eventually


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("owners")
    with serving(folder, hmac_scheme(folder), main="") as one:
        yield one


@pytest.fixture
def ops(served: Serving) -> Iterator[Agent]:
    with served.agent("ops", wait=60) as agent:
        yield agent


@pytest.fixture
def guest(served: Serving) -> Iterator[Agent]:
    with served.agent("guest", wait=60) as agent:
        yield agent


def test_another_ones_request_is_not_cancelled_by_its_number(ops: Agent, guest: Agent, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    sn = ops(wait=0).Probe().note(str(trace), "ran", 0, str(tmp_path / "go"))
    eventually(lambda: runs(trace))
    with pytest.raises(NotAuthorized, match=r"not signed by you; \[main\] admin"):
        guest.Admin().cancel(sn)
    assert ops.Admin().cancel(sn) == [sn]
    (tmp_path / "go").touch()


def test_another_ones_request_that_is_overdue_is_not_cancelled_either(ops: Agent, guest: Agent, tmp_path: Path) -> None:
    """Its caller has heard that it takes too long, and its method still runs."""
    call = ops(trigger=1, timeout=0.3, data={"job": str(tmp_path)}).Probe().until(str(tmp_path / "go"))
    with pytest.raises(ExecutionTimeout):
        call()
    with pytest.raises(NotAuthorized, match=r"not signed by you; \[main\] admin"):
        guest.Admin().cancel(call.sn)
    assert guest.Admin().cancel(criteria={"match": {"job": str(tmp_path)}}) == []
    assert ops.Admin().cancel(call.sn) == [call.sn]
    (tmp_path / "go").touch()


def test_criteria_mean_only_ones_own(ops: Agent, guest: Agent, tmp_path: Path) -> None:
    trace, group = tmp_path / "trace", {"group": str(tmp_path)}
    sns = {
        name: agent(wait=0, data=group).Probe().note(str(trace), name, 0, str(tmp_path / "go"))
        for name, agent in (("ops", ops), ("guest", guest))
    }
    eventually(lambda: len(runs(trace)) == 2)
    assert guest.Admin().cancel(criteria={"eq": group}) == [sns["guest"]]
    assert guest.Admin().cancel(criteria={"eq": group}) == []
    assert ops.Admin().cancel(criteria={"neq": 1}) == [sns["ops"]]
    (tmp_path / "go").touch()


@pytest.mark.parametrize("restarted", [False, True])
def test_what_has_not_come_yet_is_cancelled_by_its_own_signer_alone(
    served: Serving, ops: Agent, guest: Agent, tmp_path: Path, restarted: bool
) -> None:
    trace = tmp_path / "trace"
    triggers = [ops(trigger=1).Probe().note(str(trace), name) for name in ("mine", "cancelled")]
    assert guest.Admin().cancel(triggers[0].sn) == []
    assert ops.Admin().cancel(triggers[1].sn) == []
    if restarted:
        served.process.kill()
        served.process.start()
    assert triggers[0]() == "mine"
    with pytest.raises(Cancelled):
        triggers[1]()
    assert runs(trace) == {"mine": 1}


def test_who_is_named_cancels_everybodys(tmp_path: Path) -> None:
    with (
        serving(tmp_path, hmac_scheme(tmp_path)) as served,
        served.agent("ops", wait=60) as ops,
        served.agent("guest", wait=60) as guest,
    ):
        trace = tmp_path / "trace"
        sn = guest(wait=0).Probe().note(str(trace), "ran", 0, str(tmp_path / "go"))
        eventually(lambda: runs(trace))
        with pytest.raises(NotAuthorized, match="Admin is for the identities"):
            guest.Admin().cancel(sn)
        assert ops.Admin().cancel(sn) == [sn]
        (tmp_path / "go").touch()
