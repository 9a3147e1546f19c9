"""``gofer new``: what it writes, what it refuses. (tests/fresh has what is written installed, called and tested.)"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import gofer, run_gofer
from support.plugins import install

KINDS = ("plugin", "adapter", "authenticator")
#: The shortest and the longest name, and one of several words.
NAMES = ("x", "my-dogs_2", "a" * 30)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_plugin_is_a_whole_distribution(here: Path) -> None:
    done = run_gofer("new", "plugin", "my-dogs")
    assert (done.returncode, done.stderr) == (0, "")
    assert files_of(here / "my-dogs") == [
        ".gitignore",
        "README.md",
        "gofer_plugin_my_dogs/__init__.py",
        "gofer_plugin_my_dogs/my-dogs.conf",
        "gofer_plugin_my_dogs/py.typed",
        "pyproject.toml",
        "tests/conftest.py",
        "tests/test_my_dogs.py",
    ]
    assert "pip install ./my-dogs" in done.stdout
    assert "-t MyDogs.greet" in done.stdout


@pytest.mark.slow
def test_what_is_written_is_clean_for_every_name(here: Path) -> None:
    """By the project's own rules of ruff, and by mypy --strict."""
    for kind in KINDS:
        for name in NAMES:
            assert run_gofer("new", kind, name, "-d", f"{kind}-{name}").returncode == 0
    # Tests may assert, and have fixed passwords.
    ruff = [sys.executable, "-m", "ruff"]
    rules = "E,F,W,I,B,UP,N,SIM,RUF,PL,C4,PT,RET,ASYNC,BLE,PERF,LOG,G,DTZ,ISC"
    allowed = "PLR0913,PLR2004,RUF022"
    for command in (
        [*ruff, "check", "--no-cache", "--extend-select", rules, "--ignore", allowed, "."],
        [*ruff, "format", "--no-cache", "--check", "."],
        *([sys.executable, "-m", "mypy", "--strict", f"{kind}-x"] for kind in KINDS),
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_no_word_of_the_templates_is_left_unfilled(here: Path) -> None:
    for kind in KINDS:
        assert run_gofer("new", kind, "ours", "-d", kind).returncode == 0
        for name in files_of(here / kind):
            text = (here / kind / name).read_text().replace("$GOFER_ROOT", "")
            assert "$" not in name + text
            assert "\t" not in text


def test_nothing_is_overwritten(here: Path) -> None:
    (here / "dogs").mkdir()
    (here / "dogs/kept").write_text("kept")
    for arguments in (["dogs"], ["other", "--directory", "dogs"], ["other", "-d", "dogs/kept"]):
        done = run_gofer("new", "plugin", *arguments)
        assert done.returncode == 1
        assert done.stderr == f"gofer new: plugin: {arguments[-1]!r} already exists; nothing was written\n"
    assert files_of(here) == ["dogs/kept"]


def test_a_directory_that_cannot_be_made_is_reported(here: Path) -> None:
    done = run_gofer("new", "plugin", "dogs", "-d", "no/such/parent")
    assert done.returncode == 1
    assert "'no/such/parent' cannot be made: No such file or directory" in done.stderr
    done = run_gofer("new", "plugin", "dogs", "-d", os.fsdecode(b"\xff"))
    assert done.returncode == 2
    assert r"Invalid value for DIR: '\udcff' is not UTF-8" in done.stderr
    assert files_of(here) == []


@pytest.mark.parametrize("name", ["", "A", "9lives", "two words", "a/b", "..", "dog.s", "a--b", "dogs-", "é", "a" * 31])
def test_a_name_that_is_none_is_refused(here: Path, name: str) -> None:
    done = run_gofer("new", "plugin", "--", name)
    assert done.returncode == 2
    assert "is no name for a plugin; allowed: at most 30 small letters and digits" in done.stderr
    assert os.listdir(here) == []


@pytest.mark.parametrize(
    ("name", "better"),
    [("My_Plugin", "my-plugin"), ("two words", "two-words"), ("a" * 31, "a" * 30), ("dogs-", "dogs")],
)
def test_a_name_that_would_do_is_reported(name: str, better: str) -> None:
    assert f"; try {better!r} (see gofer new plugin --help)" in run_gofer("new", "plugin", name).stderr


@pytest.mark.parametrize(
    ("kind", "name", "why"),
    [
        ("plugin", "demo", "a plugin of gofer itself"),
        ("plugin", "system", "a plugin of gofer itself"),
        ("adapter", "amqp", "an adapter of gofer itself"),
        ("authenticator", "x509", "an authenticator of gofer itself"),
        ("plugin", "admin", "a class Admin, which has a meaning already"),
        ("plugin", "none", "a class None, which has a meaning already"),
    ],
)
def test_a_name_that_is_taken_is_refused(here: Path, kind: str, name: str, why: str) -> None:
    done = run_gofer("new", kind, name)
    assert done.returncode == 2
    assert why in done.stderr
    assert os.listdir(here) == []


def test_a_name_that_is_installed_already_is_refused(here: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "dogs", "", distribution="acme-dogs", version="2.5")
    done = gofer("new", "plugin", "dogs", environ={"PYTHONPATH": str(site)})
    assert done.returncode == 2
    assert "'dogs' is installed already, by acme-dogs 2.5" in done.stderr
    assert gofer("new", "adapter", "dogs", environ={"PYTHONPATH": str(site)}).returncode == 0
