"""What tests of the agent's parts share."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import forkserver
from support.containers import Kennel


@pytest.fixture
def kennel(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kennel]:
    """A container of plugins, whose modules are forgotten at its end. The processes that it starts start quickly."""
    monkeypatch.setattr(subprocess, "Popen", forkserver.Popen)
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    before = set(sys.modules)
    kennel = Kennel(root, site)
    yield kennel
    kennel.container.stop(5)
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The error lines that were logged."""
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
