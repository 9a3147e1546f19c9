"""The .deb and the .rpm: what is in them, and that it runs where they put it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.repository import TOP, distributions
from support.units import command, read_unit
from support.wheels import build_wheels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1000),
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb to look into packages"),
]


def run(*words: str | Path, status: int = 0, **options: object) -> str:
    done = subprocess.run(
        [*map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=800,
        check=False,
        **options,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both packages, made of this tree. pip needs its index."""
    folder = tmp_path_factory.mktemp("dist")
    build_wheels(folder, (one.folder for one in distributions()))
    run("scripts/packages", sys.executable, folder, cwd=TOP)
    return folder


@pytest.fixture(scope="module")
def unpacked(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the .deb puts onto a machine."""
    folder = tmp_path_factory.mktemp("unpacked")
    (deb,) = dist.glob("*.deb")
    run("dpkg-deb", "--extract", deb, folder)
    return folder


def test_the_deb_says_what_it_is_and_what_it_needs(dist: Path) -> None:
    (deb,) = dist.glob("*.deb")
    fields = dict(re.findall(r"^([\w-]+): (.*)$", run("dpkg-deb", "--field", deb), re.MULTILINE))
    assert fields["Package"] == "gofer"
    version = next(one for one in distributions() if one.name == "gofer-core").declared["project"]["version"]
    assert fields["Version"] == re.sub(r"\.?(dev|a|b|rc)(\d+)", r"~\1\2", version)
    assert re.fullmatch(r"python3\.\d+", fields["Depends"])


def test_it_puts_commands_service_and_pages_where_they_belong(unpacked: Path) -> None:
    unit = read_unit(unpacked / "usr/lib/systemd/system/goferd.service")
    assert command(unit) == ["/opt/gofer/bin/goferd"]
    for name in ("gofer", "goferd"):
        assert os.readlink(unpacked / "usr/bin" / name) == f"/opt/gofer/bin/{name}"
        assert (unpacked / "opt/gofer/bin" / name).read_text().startswith("#!/opt/gofer/bin/python")
    wanted = ["etc/pam.d/gofer", "usr/lib/sysusers.d/gofer.conf", "usr/lib/tmpfiles.d/gofer.conf"]
    wanted += ["usr/share/man/man8/goferd.8.gz", "usr/share/man/man5/agent.conf.5.gz", "usr/share/man/man1/gofer.1.gz"]
    assert [name for name in wanted if not (unpacked / name).is_file()] == []
    modes = {name: (unpacked / name).stat().st_mode & 0o777 for name in ("etc/gofer", "var/lib/gofer", "var/log/gofer")}
    assert modes == {"etc/gofer": 0o755, "var/lib/gofer": 0o700, "var/log/gofer": 0o750}
    assert not [path for path in unpacked.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]


def test_nothing_tells_where_it_was_made(unpacked: Path, dist: Path) -> None:
    made_in = (b"/tmp/tmp.", str(dist).encode(), str(TOP).encode())
    files = [path for path in unpacked.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    assert [str(path) for path in files if any(place in path.read_bytes() for place in made_in)] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_it_runs_where_it_will_be(unpacked: Path) -> None:
    """In a mount namespace of its own, so that nothing of this machine changes."""
    mount = f'mount -t tmpfs tmpfs /opt && mkdir /opt/gofer && mount --bind "{unpacked}/opt/gofer" /opt/gofer'
    environ = {"PATH": "/usr/bin:/bin", "HOME": "/nowhere", "PYTHONDONTWRITEBYTECODE": "1"}
    said = run("unshare", "--mount", "sh", "-ec", f"{mount}; /opt/gofer/bin/gofer demo", env=environ)
    assert "Everything is removed again" in said
    listed = run("unshare", "--mount", "sh", "-ec", f"{mount}; /opt/gofer/bin/gofer plugins", env=environ)
    assert "broken" not in listed
    assert run("unshare", "--mount", "sh", "-ec", f"{mount}; /opt/gofer/bin/pip check", env=environ).startswith(
        "No broken"
    )


@pytest.mark.parametrize(
    ("script", "arguments"),
    [("postinst", ["configure", ""]), ("prerm", ["remove"]), ("prerm", ["upgrade", "9"]), ("postrm", ["remove"])],
)
def test_a_script_does_nothing_wrong_where_systemd_does_not_run(
    script: str, arguments: list[str], dist: Path, tmp_path: Path
) -> None:
    (deb,) = dist.glob("*.deb")
    run("dpkg-deb", "--control", deb, tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("systemd-sysusers", "systemd-tmpfiles", "systemctl"):
        (tmp_path / "bin" / tool).write_text(f'#!/bin/sh\necho {tool} "$@"\n')
        (tmp_path / "bin" / tool).chmod(0o755)
    environ = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    said = run(tmp_path / script, *arguments, env=environ).splitlines()
    running = os.path.isdir("/run/systemd/system")
    assert [line for line in said if not line.startswith("systemctl")] == (
        ["systemd-sysusers gofer.conf", "systemd-tmpfiles --create gofer.conf"] if script == "postinst" else []
    )
    assert running or not [line for line in said if line.startswith("systemctl")]


@pytest.mark.skipif(shutil.which("rpm") is None, reason="rpm is not installed")
def test_the_rpm_has_the_same_files_and_the_pam_service_of_its_systems(dist: Path, unpacked: Path) -> None:
    (rpm,) = dist.glob("*.rpm")
    listed = set(run("rpm", "-qpl", "--nosignature", rpm).split())
    ours = {f"/{path.relative_to(unpacked)}" for path in unpacked.rglob("*")}
    assert {path for path in ours - listed if not (unpacked / path[1:]).is_dir()} == set()
    assert re.search(r"^python3\.\d+$", run("rpm", "-qpR", "--nosignature", rpm), re.MULTILINE)
    config = run("rpm", "-qpc", "--nosignature", rpm).split()
    assert config == ["/etc/pam.d/gofer"]
    if shutil.which("rpm2cpio") and shutil.which("cpio"):
        text = run("sh", "-c", f'rpm2cpio "{rpm}" | cpio --quiet -i --to-stdout ./etc/pam.d/gofer')
        assert "system-auth" in text
        assert "common-auth" not in text


def test_without_wheels_it_says_what_to_type(tmp_path: Path) -> None:
    said = run("scripts/packages", sys.executable, tmp_path, cwd=TOP, status=1)
    assert "Type first: make dist" in said
