"""``gofer broker`` as a child process."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gofer.messaging.url import URL
from support import forkserver
from support.commands import GOFER, gofer
from support.local_clients import connected


@contextmanager
def broker(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A broker that runs, and the URL that it has printed."""
    with forkserver.Popen([GOFER, "broker", *arguments], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield child, child.stdout.readline().strip()
        finally:
            child.kill()


def connects(url: str) -> bool:
    connected(URL.parse(url).path).close()
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_below_gofer_root_until_it_is_told_to_end(root: Path, number: signal.Signals) -> None:
    with broker() as (child, url):
        assert url == f"local://{root}/run/gofer/broker.sock"
        assert connects(url)
        assert connects("local://")
        assert stat.S_IMODE((root / "run/gofer/broker.sock").stat().st_mode) == 0o600
        child.send_signal(number)
        assert child.wait(10) == 0
    assert os.listdir(root / "run/gofer") == []


def test_it_makes_the_directories_of_another_root(tmp_path: Path) -> None:
    with broker("--root", str(tmp_path / "new")) as (_, url):
        assert url == f"local://{tmp_path}/new/run/gofer/broker.sock"
        assert connects(url)
        assert stat.S_IMODE((tmp_path / "new/run/gofer").stat().st_mode) == 0o700


def test_a_socket_may_be_anywhere(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 30) / "a b.sock"
    with broker("--socket", str(path)) as (_, url):
        assert url == f"local://{tmp_path}/{'long' * 30}/a%20b.sock"
        assert connects(url)


def test_a_second_one_says_who_is_first(root: Path) -> None:
    with broker() as (child, _):
        done = gofer("broker")
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert f"process {child.pid}" in line
        assert line.startswith("gofer broker: ")


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = gofer("broker", "--root", str(tmp_path / "file"))
    assert (done.returncode, done.stdout) == (1, "")
    assert str(tmp_path / "file/run/gofer") in done.stderr


def test_wrong_arguments(tmp_path: Path) -> None:
    assert gofer("broker", "--root", str(tmp_path), "--socket", "x").returncode == 2
    assert gofer("broker", "nonsense").returncode == 2
