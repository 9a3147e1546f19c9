"""Callers on each Python of this machine that can run gofer. These environments are made by pip, with the network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.exits import (
    daemon_threads_end_silently,
    nothing_is_lost_at_the_end,
    what_was_lost_is_told_at_the_end,
)
from support.repository import TOP
from support.wheels import build_wheels

# One process makes the environments. They are looked for by it alone, not by each that collects tests.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pythons"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The Python of an environment with gofer-core, for each other Python of this machine: tests/flow has this one."""
    done = subprocess.run([TOP / "scripts/pythons"], capture_output=True, text=True, check=True, timeout=60)
    mine = os.path.realpath(sys.executable)
    others = [path for path in done.stdout.splitlines() if os.path.realpath(path) != mine]
    if not others:
        pytest.skip("there is no other Python here")
    (wheel,) = build_wheels(tmp_path_factory.mktemp("wheel"), [TOP / "gofer_core"])
    return [environment(path, tmp_path_factory.mktemp("python"), wheel) for path in others]


def pip(*arguments: str | Path) -> None:
    """Run the pip of this environment, which can install into others."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, f"pip {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}"


def environment(python: str, folder: Path, wheel: Path) -> str:
    """Make an environment of a Python with gofer-core; return its Python."""
    subprocess.run([python, "-m", "venv", "--without-pip", folder], check=True, timeout=300)
    made = str(folder / "bin/python")
    pip("--python", made, "install", "--no-compile", wheel)
    return made


@pytest.mark.parametrize("door", ["proxy", "aio"])
def test_a_process_that_ends_loses_no_request(pythons: list[str], door: str, tmp_path: Path) -> None:
    for number, python in enumerate(pythons):
        folder = tmp_path / str(number)
        folder.mkdir()
        nothing_is_lost_at_the_end(folder, python=python, door=door)


def test_a_process_that_ends_says_what_was_not_taken(pythons: list[str], tmp_path: Path) -> None:
    for number, python in enumerate(pythons):
        folder = tmp_path / str(number)
        folder.mkdir()
        what_was_lost_is_told_at_the_end(folder, python=python)


@pytest.mark.parametrize("door", ["proxy", "aio"])
def test_daemon_threads_say_nothing_when_a_process_ends(pythons: list[str], door: str, tmp_path: Path) -> None:
    for number, python in enumerate(pythons):
        folder = tmp_path / str(number)
        folder.mkdir()
        daemon_threads_end_silently(folder, python=python, door=door)
