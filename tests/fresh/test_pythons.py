"""Callers on each Python of this machine that can run gofer. These environments are made by pip, with the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.exits import nothing_is_lost_at_the_end, what_was_lost_is_told_at_the_end
from support.repository import TOP
from support.wheels import build_wheels

# One process makes the environments.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pythons"), pytest.mark.timeout(900)]


def pythons() -> list[str]:
    """Find the Pythons of this machine, but for the one that runs the tests: that one has tests/flow."""
    done = subprocess.run([TOP / "scripts/pythons"], capture_output=True, text=True, check=True, timeout=60)
    mine = os.path.realpath(sys.executable)
    return [path for path in done.stdout.splitlines() if os.path.realpath(path) != mine]


def pip(*arguments: str | Path) -> None:
    """Run the pip of this environment, which can install into others."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"pip {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gofer-core as it stands here, built once for all Pythons."""
    (built,) = build_wheels(tmp_path_factory.mktemp("wheel"), [TOP / "gofer_core"])
    return built


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> str:
    """An environment of one of them, with gofer-core; its Python."""
    folder = tmp_path_factory.mktemp("python")
    subprocess.run([request.param, "-m", "venv", "--without-pip", folder], check=True, timeout=300)
    made = str(folder / "bin/python")
    pip("--python", made, "install", "--no-compile", wheel)
    return made


@pytest.mark.parametrize("python", pythons(), indirect=True)
@pytest.mark.parametrize("door", ["proxy", "aio"])
def test_a_process_that_ends_loses_no_request(python: str, door: str, tmp_path: Path) -> None:
    nothing_is_lost_at_the_end(tmp_path, python=python, door=door)


@pytest.mark.parametrize("python", pythons(), indirect=True)
def test_a_process_that_ends_says_what_was_not_taken(python: str, tmp_path: Path) -> None:
    what_was_lost_is_told_at_the_end(tmp_path, python=python)
