"""The public names of every distribution, pinned: nobody adds to or takes from them by accident.

A module is public when no part of its name begins with an underscore; its public names are its ``__all__``. Who
changes one on purpose copies what the failed test prints over the table below.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from support.repository import distributions

PUBLIC_NAMES = """
"""

MODULES = [
    name
    for distribution in distributions()
    for name, _ in distribution.modules()
    if name.rpartition(".")[2] != "__main__"  # a program, run by `python -m`, not imported
]

# Runs in a process of its own, so that no test of this one depends on what was imported here, or in which order.
LOOK = """
import importlib, json, sys, traceback

def look(name):
    try:
        module = importlib.import_module(name)
    except BaseException:
        return {"error": traceback.format_exc()}
    names = getattr(module, "__all__", None)
    missing = [each for each in names or () if not hasattr(module, each)]
    return {"error": None, "doc": module.__doc__, "names": None if names is None else list(names), "missing": missing}

json.dump({name: look(name) for name in sys.argv[1:]}, sys.stdout)
"""


@pytest.fixture(scope="module")
def seen() -> dict[str, dict[str, Any]]:
    """What an interpreter finds that imports every module: an error, or docstring, names, and names without object."""
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *MODULES], check=True, stdout=subprocess.PIPE, text=True, timeout=60
    )
    return dict(json.loads(done.stdout))


def table(seen: dict[str, dict[str, Any]]) -> str:
    """Write a line for every public module that offers something: its name, then its names in alphabetic order."""
    lines = [""]
    for name, module in sorted(seen.items()):
        names = sorted(module.get("names") or ())
        if names and not any(part.startswith("_") for part in name.split(".")):
            lines.append(textwrap.fill(f"{name}: {' '.join(names)}", width=116, subsequent_indent="    "))
    return "\n".join([*lines, ""])


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is_and_what_it_offers(name: str, seen: dict[str, dict[str, Any]]) -> None:
    module = seen[name]

    assert module["error"] is None, module["error"]
    assert (module["doc"] or "").strip(), f"{name} has no docstring"
    assert module["names"] is not None, f"{name} has no __all__"
    assert len(module["names"]) == len(set(module["names"])), f"{name}.__all__ names something twice"
    assert not module["missing"], f"{name}.__all__ names what is not there: {module['missing']}"


def test_public_names_are_those_pinned_here(seen: dict[str, dict[str, Any]]) -> None:
    now = table(seen)
    print(f'PUBLIC_NAMES = """{now}"""')  # shown when the next line fails, ready to be copied

    assert now == PUBLIC_NAMES, "the public names changed; if that is meant, the new table is in the captured output"
