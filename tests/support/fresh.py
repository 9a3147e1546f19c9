"""A fresh virtual environment, made without the network: what gofer requires is copied from that of the tests."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["Fresh"]

_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Fresh:
    """A virtual environment that has neither gofer nor anything of this one but ``distributions`` and all they require.

    ``environ`` is that of a reader's shell in it, but that pip asks nobody for anything.
    """

    def __init__(self, folder: Path, distributions: tuple[str, ...]) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, timeout=300)
        (site,) = folder.glob("lib/python3*/site-packages")
        for distribution in closure(distributions):
            copy(distribution, site)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GOFER", "PIP_", "PYTHON"))}
        self.environ = {
            **kept,
            "PATH": os.pathsep.join([str(folder / "bin"), os.environ["PATH"]]),
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say "do not isolate": the build backend is copied, too
            "PIP_NO_COMPILE": "0",  # likewise: do not compile what may never be imported
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_ROOT_USER_ACTION": "ignore",
            "PIP_PYTHON": str(folder / "bin/python"),
            "PYTEST_DEBUG_TEMPROOT": str(folder),  # several that tidy up one directory stumble
        }

    def pip_install(self, *what: str | Path, cwd: Path | None = None) -> None:
        """Install by the pip of the outer environment into this one."""
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", *map(str, what)],
            env=self.environ,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *command: str | Path, cwd: Path, environ: Mapping[str, str] | None = None, status: int = 0) -> str:
        """Run a command of this environment and return what it has printed; it must end with that status."""
        done = subprocess.run(
            [str(self.folder / "bin" / command[0]), *map(str, command[1:])],
            env={**self.environ, **(environ or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == status, f"status {done.returncode}:\n{done.stdout}"
        return done.stdout


def closure(names: tuple[str, ...]) -> Iterator[importlib.metadata.Distribution]:
    """Yield distributions and what they require, without extras, as they are installed here; but none of gofer's."""
    from packaging.requirements import Requirement

    seen: set[str] = set()
    wanted = list(names)
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        distribution = importlib.metadata.distribution(name)
        if not name.startswith("gofer-"):
            yield distribution
        for text in distribution.requires or ():
            required = Requirement(text)
            if required.marker is None or required.marker.evaluate({"extra": ""}):
                wanted.append(required.name)


def copy(distribution: importlib.metadata.Distribution, site: Path) -> None:
    """Copy a distribution's files, the compiled ones, too, but not its commands."""
    for file in distribution.files or ():
        source, target = Path(str(distribution.locate_file(file))), site / str(file)
        if ".." in file.parts or not source.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
