"""The scripts that bring up more brokers for `make brokers`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.repository import TOP

SCRIPTS = TOP / "scripts" / "brokers"


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def run(*command: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "GOFER_RABBITMQ"}
    if path is not None:
        environment["PATH"] = f"{path}:{environment['PATH']}"
    return subprocess.run(
        [str(each) for each in command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """The script that runs a command, beside two that make brokers, or not."""
    scripts = tmp_path / "brokers"
    scripts.mkdir()
    shutil.copy(SCRIPTS / "run", scripts)
    program(scripts / "other", 'echo GOFER_OTHER="$1/bin"')
    program(scripts / "away", "echo away is not here >&2; exit 1")
    return scripts


@pytest.mark.parametrize("ci", [False, True])
def test_a_command_runs_once_with_all_brokers_and_who_is_missing_is_named(
    scripts: Path, monkeypatch: pytest.MonkeyPatch, ci: bool
) -> None:
    monkeypatch.setenv("CI", "true" if ci else "")
    done = run(scripts / "run", "/made", "other,away,rabbitmq", "sh", "-c", "echo $GOFER_BROKERS at $GOFER_OTHER")
    assert done.stdout.splitlines() == ["== with other,rabbitmq", "other,rabbitmq at /made/other/bin"]
    assert "away is not here" in done.stderr
    assert done.stderr.splitlines()[-1] == "Not tested, because they are not here (see above): away"
    assert done.returncode == int(ci)


def test_a_command_that_fails_has_failed(scripts: Path) -> None:
    assert run(scripts / "run", "/made", "rabbitmq", "true").returncode == 0
    assert run(scripts / "run", "/made", "rabbitmq,away", "sh", "-c", "exit 3").returncode == 3


def test_an_unknown_broker_is_named_before_anything_runs(scripts: Path) -> None:
    done = run(scripts / "run", "/made", "rabbitmq,nosuch", "echo", "ran")
    assert (done.returncode, done.stdout) == (2, "")
    assert "There is no broker 'nosuch'; scripts/brokers has: rabbitmq away other" in done.stderr


@pytest.mark.parametrize("script", ["brokerj", "artemis"])
def test_a_broker_that_maven_cannot_fetch_says_why_and_is_made_anew_the_next_time(script: str, tmp_path: Path) -> None:
    programs, home = tmp_path / "programs", tmp_path / "home"
    programs.mkdir()
    program(programs / "java", "echo 'openjdk version \"17.0.1\"' >&2")
    program(programs / "mvn", "echo '[ERROR] Unknown host registry.invalid'; exit 1")
    for _ in range(2):
        done = run(SCRIPTS / script, home, path=programs)
        assert (done.returncode, done.stdout) == (1, "")
        assert "[ERROR] Unknown host registry.invalid" in done.stderr
        assert f"Maven failed; is its registry reachable? All it said: {home}/maven.log" in done.stderr
        assert not (home / "made").exists()


@pytest.mark.parametrize(
    ("debootstrap", "said"),
    [
        ("echo E: Failed getting release file; exit 1", "debootstrap failed; is the Debian mirror"),
        (
            'while [ "${1%/root}" = "$1" ]; do shift; done; mkdir -p "$1/usr/lib/rabbitmq/lib/rabbitmq_server-3.12.1"',
            "3.12.1",
        ),
    ],
    ids=["no registry", "another version"],
)
def test_a_broker_that_cannot_be_made_says_why_and_is_made_anew_the_next_time(
    tmp_path: Path, debootstrap: str, said: str
) -> None:
    programs, home = tmp_path / "programs", tmp_path / "home"
    programs.mkdir()
    program(programs / "id", "echo 0")
    program(programs / "apt-get", "echo Debian main bookworm http://mirror.invalid/debian")
    program(programs / "unshare", 'while [ "$1" != debootstrap ]; do shift; done; exec "$@"')
    # It fails on what an interrupted one has left.
    program(programs / "debootstrap", f'for root; do [ ! -e "$root/half" ] || exit 9; done; {debootstrap}')
    for _ in range(2):
        (home / "root").mkdir(parents=True, exist_ok=True)
        (home / "root" / "half").touch()
        done = run(SCRIPTS / "rabbitmq4", home, path=programs)
        assert done.returncode == 1
        assert done.stdout == ""
        assert said in done.stderr
        assert "exit 9" not in done.stderr
        assert not (home / "made").exists()
        assert not (home / "root" / "half").exists()
