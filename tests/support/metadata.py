"""What all distributions share: version, licence, Python and classifiers. Each has a copy of what one place says.

The place is ``[tool.gofer]`` in the top ``pyproject.toml``, and the top ``LICENSE``. The copies are there because each
sdist must build without the rest of the repository. ``make metadata`` runs this module; a test says when to do that.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import tomlkit

from support.repository import TOP, distributions, settings

__all__ = ["stale", "written"]


def written(text: str) -> str:
    """Return the text of a distribution's pyproject.toml with the shared metadata as it should be."""
    shared = settings()["tool"]["gofer"]
    document = tomlkit.parse(text)
    project = document["project"]
    for key, value in shared.items():
        if project.get(key) != value:
            project[key] = tomlkit.array() if isinstance(value, list) else value
            if isinstance(value, list):
                project[key].extend(value)
                project[key].multiline(True)
    lists = [project.get("dependencies", []), *project.get("optional-dependencies", {}).values()]
    for names in lists:
        for number, name in enumerate(names):
            # Ours are released together, so each requires the core of its own version or a newer one.
            found = re.match(r"(gofer-[a-z0-9-]+(?:\[[^\]]*\])?)", name)
            wanted = f"{found[1]}>={shared['version']}" if found else name
            if name != wanted:
                names[number] = wanted
    return tomlkit.dumps(document)


def stale() -> Iterator[tuple[Path, str]]:
    """Yield each file that is not as it should be, with the text that it should have."""
    licence = (TOP / "LICENSE").read_text("utf-8")
    for distribution in distributions():
        pyproject, copy = distribution.folder / "pyproject.toml", distribution.folder / "LICENSE"
        before = pyproject.read_text("utf-8")
        if (text := written(before)) != before:
            yield pyproject, text
        if not copy.is_file() or copy.read_text("utf-8") != licence:
            yield copy, licence


if __name__ == "__main__":
    for file, text in stale():
        file.write_text(text, "utf-8")
        print(f"{file.relative_to(TOP)}: written", file=sys.stderr)
