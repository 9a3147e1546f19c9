"""The repository as it stands: its distributions, their modules, and the files that git keeps."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOP = Path(__file__).parents[2]


@dataclass(frozen=True)
class Distribution:
    """One folder with a pyproject.toml: what its author declared there, and the one package it holds."""

    folder: Path
    declared: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.declared["project"]["name"])

    @property
    def package(self) -> str:
        (package,) = self.declared["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
        return str(package)

    def modules(self) -> Iterator[tuple[str, Path]]:
        """Yield the dotted name and the file of every module, the package itself first."""
        for path in sorted((self.folder / self.package).rglob("*.py")):
            parts = path.relative_to(self.folder).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def distributions() -> list[Distribution]:
    """List the distributions of this repository, the core among them."""
    files = sorted([*TOP.glob("gofer_*/pyproject.toml"), *TOP.glob("gofer_*/*/pyproject.toml")])
    return [Distribution(file.parent, tomllib.loads(file.read_text("utf-8"))) for file in files]


def settings() -> dict[str, Any]:
    """Read the pyproject.toml that all distributions share."""
    return tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))


def tracked() -> list[Path]:
    """List the files that git keeps, as far as they are in the work tree."""
    # In a container the clone may belong to somebody else, whom git trusts only when told to.
    command = ["git", "-c", f"safe.directory={TOP}", "ls-files", "-z"]
    done = subprocess.run(command, cwd=TOP, check=True, capture_output=True, text=True, timeout=30)
    return [path for name in done.stdout.split("\0") if name and (path := TOP / name).is_file()]
