"""Wheels of folders as they stand, built without the network, by the build backend that is installed here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

__all__ = ["build_wheels"]

# One process for all of them: pip would start three for each.
_PROGRAM = """
import os, sys
from hatchling.build import build_wheel
for folder in sys.argv[2:]:
    os.chdir(folder)
    build_wheel(sys.argv[1])
"""


def build_wheels(target: Path, folders: Iterable[Path]) -> list[Path]:
    """Build the wheel of each folder that has a pyproject.toml into ``target``; return all that are there."""
    target.mkdir(exist_ok=True)
    command = [sys.executable, "-c", _PROGRAM, str(target), *map(str, folders)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(target.glob("*.whl"))
