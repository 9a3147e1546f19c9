"""The root: which directories there are, and what makes one fit to be used."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gofer.errors import ConfigError
from gofer.root import Root


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_without_a_word_the_root_is_the_machines() -> None:
    root = Root.from_environ({})

    assert root == Root() == Root(Path("/"))
    assert [str(path) for path in (root.etc, root.agent_conf, root.conf_d, root.descriptors)] == [
        "/etc/gofer",
        "/etc/gofer/agent.conf",
        "/etc/gofer/conf.d",
        "/etc/gofer/plugins",
    ]
    assert [str(path) for path in (root.lib, root.log, root.run)] == ["/var/lib/gofer", "/var/log/gofer", "/run/gofer"]
    assert [str(path) for path in root.plugin_dirs] == [
        "/usr/share/gofer/plugins",
        "/usr/lib/gofer/plugins",
        "/usr/lib64/gofer/plugins",
        "/opt/gofer/plugins",
    ]


def test_every_directory_is_below_the_root() -> None:
    root = Root(Path("/srv/x"))

    for path in (root.etc, root.agent_conf, root.conf_d, root.descriptors, root.lib, root.log, root.run):
        assert path.is_relative_to("/srv/x")
    assert all(path.is_relative_to("/srv/x") for path in root.plugin_dirs)


@pytest.mark.parametrize(
    ("environ", "override", "path"),
    [
        ({"GOFER_ROOT": "/a"}, None, "/a"),
        ({"GOFER_ROOT": "/a"}, "/b", "/b"),
        ({"GOFER_ROOT": "/a"}, Path("/b"), "/b"),
        ({"GOFER_ROOT": "/a"}, "", "/a"),
        ({"GOFER_ROOT": ""}, None, "/"),
        ({"GOFER_ROOT": "/a/../b/"}, None, "/b"),
    ],
)
def test_the_command_line_wins_over_the_environment(
    environ: dict[str, str], override: str | Path | None, path: str
) -> None:
    assert Root.from_environ(environ, override).path == Path(path)


def test_a_relative_root_does_not_move_with_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = Root.from_environ({"GOFER_ROOT": "here"})
    monkeypatch.chdir("/")

    assert root.path == tmp_path / "here"


@pytest.mark.parametrize(("environ", "override"), [({"GOFER_ROOT": "a\0b"}, None), ({}, "a\0b")])
def test_a_root_that_cannot_be_a_path_is_an_error_that_names_its_source(
    environ: dict[str, str], override: str | None
) -> None:
    with pytest.raises(ConfigError, match=r"^(GOFER_ROOT|--root): 'a\\x00b' has a NUL character in it"):
        Root.from_environ(environ, override)


@pytest.mark.parametrize("mask", [0o000, 0o077, 0o002])
def test_ensure_makes_directories_of_the_right_mode_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    root = Root(tmp_path / "new")
    with umask(mask):
        made = [root.ensure(path) for path in (root.lib / "identity", root.run, root.log, root.descriptors)]
        made.append(root.ensure(root.path / "x", mode=0o750))

    assert [mode(path) for path in made] == [0o700, 0o700, 0o755, 0o755, 0o750]
    assert [mode(path) for path in (root.lib, root.lib.parent, root.path)] == [0o700, 0o755, 0o755]


def test_ensure_leaves_a_directory_that_is_there_as_it_is(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.ensure(root.run, mode=0o711)
    (root.run / "file").touch()

    assert root.ensure(root.run) == root.run
    assert mode(root.run) == 0o711
    assert (root.run / "file").exists()


def test_ensure_follows_a_link_to_a_directory(tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    root.ensure(root.run.parent)
    root.run.symlink_to(root.ensure(tmp_path / "elsewhere", mode=0o700))

    assert root.ensure(root.run) == root.run


def test_a_file_in_the_place_is_an_error(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.ensure(root.run.parent)
    root.run.touch()

    with pytest.raises(ConfigError, match=f"^directory {root.run}: is not a directory$"):
        root.ensure(root.run)
    with pytest.raises(ConfigError, match=f"^directory {root.run}/x: cannot be created by user [0-9]+: Not a direct"):
        root.ensure(root.run / "x")


def test_a_dangling_link_in_the_place_is_an_error(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.ensure(root.run.parent)
    root.run.symlink_to("nowhere")

    with pytest.raises(ConfigError, match=f"^directory {root.run}: cannot be used: No such file or directory$"):
        root.ensure(root.run)


@pytest.mark.parametrize(
    ("name", "unsafe", "safe", "who"),
    [("lib", 0o770, 0o755, "its group"), ("run", 0o707, 0o750, "others"), ("log", 0o777, 0o775, "others")],
)
def test_a_directory_that_others_may_write_to_is_refused(
    tmp_path: Path, name: str, unsafe: int, safe: int, who: str
) -> None:
    root = Root(tmp_path)
    directory: Path = getattr(root, name)
    root.ensure(directory).chmod(unsafe)

    with pytest.raises(ConfigError, match=f"^directory {directory}: mode {unsafe:04o} lets {who} write to it. Fix: "):
        root.ensure(directory)
    directory.chmod(safe)
    assert root.ensure(directory) == directory


@pytest.fixture
def as_somebody() -> Iterator[Path]:
    """A directory that is reached and read, not written, by the user that the test runs as: root is another for it."""
    me = os.geteuid()
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755 if me == 0 else 0o555)
        if me == 0:
            os.seteuid(65534)
        try:
            yield Path(top)
        finally:
            os.seteuid(me)
            os.chmod(top, 0o755)


def test_a_root_that_may_not_be_written_to_is_an_error_that_names_the_directory(as_somebody: Path) -> None:
    root = Root(as_somebody)

    with pytest.raises(
        ConfigError,
        match=rf"^directory {root.run}: cannot be created \(at {as_somebody}/run\) by user {os.geteuid()}: "
        "Permission denied; create it for that user, or set GOFER_ROOT",
    ):
        root.ensure(root.run)
    with pytest.raises(
        ConfigError, match=f"^directory {as_somebody}: not writable by user {os.geteuid()}; allowed: one that this user"
    ):
        root.ensure(as_somebody)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_private_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    root = Root(tmp_path)
    os.chown(root.ensure(root.lib), 54321, 0)

    with pytest.raises(ConfigError, match=f"^directory {root.lib}: belongs to uid 54321; allowed: root .*Fix: chown"):
        root.ensure(root.lib)
