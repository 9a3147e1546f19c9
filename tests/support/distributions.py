"""The distributions of ``tests/distributions``, really installed by pip into a directory of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

__all__ = ["pip_install"]

_HERE = Path(__file__).parents[1] / "distributions"


def pip_install(target: Path, *names: str) -> None:
    """Install some of them; nothing is fetched."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += [
        "--no-compile",
        "--no-deps",
        "--no-build-isolation",
        "--root-user-action",
        "ignore",
        "--target",
        str(target),
    ]
    done = subprocess.run(
        [*command, *(str(_HERE / name) for name in names)], capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
