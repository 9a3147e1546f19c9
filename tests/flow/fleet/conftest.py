"""The broker, the two machines and the caller of a module of tests of fleets."""

from __future__ import annotations

import json
import shutil
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


@pytest.fixture(scope="module")
def remembered(broker: LocalBroker, agents: list[AgentProcess], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a caller remembers that has asked both machines."""
    top = tmp_path_factory.mktemp("remembered")
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("XDG_STATE_HOME", str(top))
        environ.setenv("GOFER_URL", broker.url)
        eventually(lambda: len(json.loads(gofer("ls", "-w", "1", "--json").stdout)) == 2)
    return top / "gofer"


@pytest.fixture
def web(state: Path, remembered: Path) -> None:
    """Both machines are remembered: whoever asks waits for both."""
    shutil.copytree(remembered, state)


@pytest.fixture
def awake(tmp_path: Path) -> Iterator[Path]:
    """A file that does not exist: ``Dog.sleep`` sleeps until it does."""
    path = tmp_path / "awake"
    yield path
    path.touch()  # whatever became of the test, both machines have their worker again
