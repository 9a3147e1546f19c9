"""The broker, the two machines and the caller of a module of tests of fleets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fleets import gofer, machines
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.waiting import eventually


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    with LocalBroker(str(tmp_path_factory.mktemp("fleet") / "broker.sock")) as broker:
        yield broker


@pytest.fixture(scope="module")
def agents(broker: LocalBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[AgentProcess]]:
    with machines(broker, tmp_path_factory.mktemp("machines")) as agents:
        yield agents


@pytest.fixture
def state(tmp_path: Path, broker: LocalBroker, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's caller remembers things; ``gofer fleet`` and ``Fleet`` use it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("GOFER_URL", broker.url)
    return tmp_path / "state/gofer"


@pytest.fixture
def web(state: Path, agents: list[AgentProcess]) -> None:
    """Both machines are remembered: whoever asks waits no longer than half a second for the last of them."""
    eventually(lambda: len(json.loads(gofer("ls", "--json").stdout)) == 2)
