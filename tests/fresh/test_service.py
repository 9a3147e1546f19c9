"""A machine's whole life with gofer: wheels, service, calls, an update with requests under way, and the removal."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gofer.proxy import Agent
from support.fresh import Fresh
from support.localbroker import LocalBroker
from support.repository import TOP
from support.units import Started
from support.waiting import eventually
from support.wheels import build_wheels

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FOLDERS = ("gofer_core", "gofer_plugins_demo")
PLUGIN = """
import os, time
from gofer.decorators import remote


@remote
def note(trace, text):
    with open(trace, "a") as file:
        file.write(text + "\\n")
    return text


@remote
def hold(trace, go):
    note(trace, "hold")
    while not os.path.exists(go):
        time.sleep(0.01)
    return "held"
"""
PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "gofer-plugin-notes"
version = "1"
dependencies = ["gofer-core"]

[project.entry-points."gofer.plugins"]
notes = "gofer_plugin_notes"
"""


def before(folder: Path) -> Path:
    """The tree of the commit before this one; where history does not go that far, as it is."""
    folder.mkdir()
    archive = ["git", "-c", f"safe.directory={TOP}", "archive", "HEAD~1", *FOLDERS]
    done = subprocess.run(archive, cwd=TOP, capture_output=True, timeout=300, check=False)
    if done.returncode == 0:
        subprocess.run(["tar", "-x", "-C", folder], input=done.stdout, check=True, timeout=300)
        return folder
    assert b"HEAD~1" in done.stderr or b"not a git repository" in done.stderr, done.stderr
    return now(folder / "now")


def now(folder: Path) -> Path:
    """This tree as it stands."""
    for name in FOLDERS:
        shutil.copytree(TOP / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def wheels(tree: Path, version: str, target: Path) -> list[Path]:
    """Build the wheels of a tree, as those of a version of their own, so that pip knows them apart."""
    for name in FOLDERS:
        file = tree / name / "pyproject.toml"
        text = re.sub(r'^version = ".*"$', f'version = "{version}"', file.read_text(), count=1, flags=re.MULTILINE)
        file.write_text(re.sub(r'"gofer-core>=[^"]*"', f'"gofer-core>={version}"', text))
    return build_wheels(target, (tree / name for name in FOLDERS))


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path], list[Path]]:
    """The wheels of the commit before, of this one, and of a plugin."""
    folder = tmp_path_factory.mktemp("releases")
    (folder / "notes").mkdir()
    (folder / "notes/gofer_plugin_notes.py").write_text(PLUGIN)
    (folder / "notes/pyproject.toml").write_text(PYPROJECT)
    return (
        wheels(before(folder / "before"), "2.99.1", folder / "old"),
        wheels(now(folder / "now"), "2.99.2", folder / "new"),
        build_wheels(folder / "plugin", [folder / "notes"]),
    )


@pytest.fixture
def fresh(tmp_path: Path, releases: tuple[list[Path], list[Path], list[Path]]) -> Fresh:
    old, _, plugin = releases
    made = Fresh(tmp_path / "venv", ("gofer-core",))
    made.pip_install(*old, *plugin)
    return made


@pytest.fixture
def started(tmp_path: Path, fresh: Fresh) -> Iterator[Started]:
    """The service, under a root that is not there yet."""
    root = tmp_path / "machine"
    fresh.run("gofer", "service", "install", "--root", root, cwd=tmp_path)
    (root / "etc/gofer/agent.conf").write_text("[main]\nshutdown_timeout = 1\n")
    descriptor = root / "etc/gofer/plugins/notes.conf"
    descriptor.write_text("[main]\nenabled = 1\n[messaging]\nurl = local://\n[model]\nqueue = notes\n")
    descriptor.chmod(0o644)
    made = Started(root / "etc/systemd/system/goferd.service", tmp_path / "log", watchdog=1.0)
    yield made
    made.close()
    print(made.log.read_text())  # shown when the test fails


def states(root: Path) -> dict[str, int]:
    """Count the requests in the ledger, by their states. Nothing, while it is not made yet."""
    file = root / "var/lib/gofer/ledger/ledger.db"
    if not file.exists():
        return {}
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as ledger:
        if not ledger.execute("SELECT 1 FROM sqlite_master WHERE name = 'requests'").fetchall():
            return {}
        return dict(ledger.execute("SELECT state, count(*) FROM requests GROUP BY state"))


def test_nothing_is_lost_from_the_first_installation_to_the_last(
    tmp_path: Path, fresh: Fresh, started: Started, releases: tuple[list[Path], list[Path], list[Path]]
) -> None:
    root, trace, go = tmp_path / "machine", tmp_path / "trace", tmp_path / "go"
    (root / "run/gofer").mkdir(parents=True, mode=0o700)
    home = {"GOFER_ROOT": str(root)}

    def noted() -> list[str]:
        return trace.read_text().splitlines() if trace.exists() else []

    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker, ThreadPoolExecutor(1) as threads:
        started.start()
        started.until("WATCHDOG=1", times=3)
        assert fresh.run("goferd", "--version", cwd=tmp_path).split() == ["goferd", "2.99.1"]
        call = ("gofer", "rmi", "-a", "notes", "-t", "notes.note", str(trace), "first")
        assert fresh.run(*call, cwd=tmp_path, environ=home) == "first\n"

        # One request runs, five wait behind it in the ledger, and five come while no agent is there.
        with Agent(broker.url, "notes", wait=120) as agent:
            held = threads.submit(agent.notes.hold, str(trace), str(go))
            eventually(lambda: "hold" in noted(), what=started.log.read_text())
            for n in range(5):
                agent(wait=0, ttl=3600).notes.note(str(trace), f"queued {n}")
            agent.flush(30)
            eventually(lambda: states(root) == {"running": 1, "queued": 5}, what=started.log.read_text())
            assert started.stop() == 0
            assert noted() == ["first", "hold"]
            for n in range(5):
                agent(wait=0).notes.note(str(trace), f"away {n}")
            agent.flush(30)

            fresh.pip_install("--upgrade", *releases[1])
            said = fresh.run("gofer", "service", "install", "--root", root, cwd=tmp_path)
            assert not re.search("^(kept|written)", said, re.MULTILINE)
            go.touch()
            started.start()
            started.until("WATCHDOG=1", times=3)
            assert fresh.run("goferd", "--version", cwd=tmp_path).split() == ["goferd", "2.99.2"]
            assert held.result(60) == "held"
        wanted = ["first", "hold", "hold", *(f"queued {n}" for n in range(5)), *(f"away {n}" for n in range(5))]
        eventually(lambda: len(noted()) == len(wanted), what=started.log.read_text())
        assert sorted(noted()) == sorted(wanted)  # what had begun has begun again; all else ran once
        assert [line for line in noted() if line.startswith("queued")] == wanted[3:8]
        assert fresh.run(*call[:-1], "last", cwd=tmp_path, environ=home) == "last\n"

        refused = fresh.run("gofer", "service", "uninstall", "--root", root, cwd=tmp_path, status=1)
        assert "goferd is already running" in refused
        assert started.stop() == 0
    assert set(states(root)) <= {"done"}

    said = fresh.run("gofer", "service", "uninstall", "--root", root, cwd=tmp_path)
    kept = {line.split()[1] for line in said.splitlines() if line.startswith("kept ")}
    assert {f"{root}/etc/gofer", f"{root}/var/lib/gofer"} <= kept
    assert (root / "etc/gofer/plugins/notes.conf").exists()
    assert (root / "var/lib/gofer/ledger/ledger.db").exists()
    assert not (root / "etc/systemd").exists()
    names = ["gofer-core", "gofer-plugin-demo", "gofer-plugin-notes"]
    pip = [sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", *names]
    subprocess.run(pip, env=fresh.environ, check=True, capture_output=True, timeout=300)
    assert not list(fresh.folder.rglob("gofer*"))


def test_a_killed_service_starts_again_and_goes_on(tmp_path: Path, fresh: Fresh, started: Started) -> None:
    """systemd starts it again, says the unit; here the test does."""
    assert started.unit["Service"]["Restart"] == ["always"]
    root, trace, go = tmp_path / "machine", tmp_path / "trace", tmp_path / "go"
    (root / "run/gofer").mkdir(parents=True, mode=0o700)
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker, Agent(broker.url, "notes", wait=120) as agent:
        started.start()
        with ThreadPoolExecutor(1) as threads:
            held = threads.submit(agent.notes.hold, str(trace), str(go))
            eventually(trace.exists, what=started.log.read_text())
            agent(wait=0, ttl=3600).notes.note(str(trace), "queued")
            agent.flush(30)
            eventually(lambda: "queued" in states(root), what=started.log.read_text())
            started.close()
            go.touch()
            started.start()
            assert held.result(60) == "held"
        eventually(lambda: "queued" in trace.read_text().splitlines(), what=started.log.read_text())
