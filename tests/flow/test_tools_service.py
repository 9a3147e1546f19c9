"""``gofer service``: what it writes, what it leaves alone, and what systemd says of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from gofer.root import Root
from gofer.tools import service_files
from gofer.tools.service_files import Service
from support.commands import GOFER, gofer, run_gofer
from support.goferd import AgentProcess
from support.repository import TOP
from support.units import command, read_unit

UNIT = "etc/systemd/system/goferd.service"
PAGE = TOP / "docs/service.md"

#: The settings that units and drop-ins here may have, by section: those of systemd 250, older than any we support.
SERVICE = """
    Type ExecStart ExecReload Restart RestartSec RestartPreventExitStatus WatchdogSec TimeoutStartSec TimeoutStopSec
    KillMode OOMPolicy StateDirectory StateDirectoryMode LogsDirectory LogsDirectoryMode RuntimeDirectory
    RuntimeDirectoryMode RuntimeDirectoryPreserve KeyringMode LockPersonality RestrictRealtime RestrictAddressFamilies
    SystemCallArchitectures SystemCallFilter SystemCallErrorNumber CapabilityBoundingSet User NoNewPrivileges
    ProtectSystem ProtectHome PrivateTmp PrivateDevices ProtectClock ProtectControlGroups ProtectHostname
    ProtectKernelLogs ProtectKernelModules ProtectKernelTunables ProtectProc ProcSubset RestrictNamespaces
    RestrictSUIDSGID RemoveIPC UMask
"""
KNOWN = {
    "Unit": {"Description", "Documentation", "After", "StartLimitIntervalSec"},
    "Service": set(SERVICE.split()),
    "Install": {"WantedBy"},
}


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private root without anything in it."""
    monkeypatch.setenv("GOFER_ROOT", str(tmp_path / "top"))
    return tmp_path / "top"


def service(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = run_gofer("service", *arguments)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done


def refusal(*arguments: str, status: int = 1) -> str:
    """The one line of a refusal."""
    done = service(*arguments, status=status)
    assert done.stdout == ""
    assert done.stderr.startswith("gofer service")
    assert done.stderr.count("\n") == 1
    return done.stderr


def words(done: subprocess.CompletedProcess[str], top: Path) -> dict[str, str]:
    """What was done to each path, which is below ``top``."""
    lines = (line.partition(":")[0].rpartition(" ") for line in done.stdout.splitlines())
    return {str(Path(path).relative_to(top)): said.strip() for said, _, path in lines}


def everything(top: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(top)): (stat.S_IMODE(path.lstat().st_mode), path.read_bytes() if path.is_file() else b"")
        for path in top.rglob("*")
    }


class TestInstalling:
    def test_it_writes_the_unit_and_the_directories_with_their_modes(self, top: Path) -> None:
        before = os.umask(0o077)
        try:
            done = service("install")
        finally:
            os.umask(before)
        modes = {path: mode for path, (mode, _) in everything(top).items()}
        wanted = {"etc/gofer": 0o755, "etc/gofer/conf.d": 0o755, "etc/gofer/plugins": 0o755, "etc": 0o755}
        wanted |= {"var/lib/gofer": 0o700, "var/log/gofer": 0o750, "var/lib": 0o755, UNIT: 0o644}
        assert {path: modes[path] for path in wanted} == wanted
        assert words(done, top)[UNIT] == "written"
        assert f"systemctl enable --now {top / UNIT}" in done.stderr
        assert f"export GOFER_ROOT={top}" in done.stderr

    def test_the_unit_starts_the_goferd_beside_this_gofer_under_that_root(self, top: Path) -> None:
        service("install")
        unit = read_unit(top / UNIT)
        assert command(unit) == [str(Path(GOFER).with_name("goferd")), "--root", str(top)]
        assert unit["Service"]["Type"] == ["notify"]
        assert "StateDirectory" not in unit["Service"]  # which would be one of the machine

    def test_again_it_changes_nothing(self, top: Path) -> None:
        service("install")
        before = everything(top)
        assert set(words(service("install"), top).values()) == {"unchanged"}
        assert everything(top) == before

    def test_print_writes_nothing_and_shows_what_would_be_written(self, top: Path) -> None:
        said = service("install", "--print").stdout
        assert not top.exists()
        service("install")
        assert f"# file {top / UNIT}\n{(top / UNIT).read_text()}" in said

    def test_a_file_that_was_changed_by_hand_is_kept_and_named(self, top: Path) -> None:
        service("install")
        (top / UNIT).write_text("[Service]\n# mine\n")
        done = service("install")
        assert words(done, top)[UNIT] == "kept"
        assert "--replace" in done.stdout
        assert (top / UNIT).read_text() == "[Service]\n# mine\n"
        assert service("show").stdout.split()[-1] == "changed"
        assert words(service("install", "--replace"), top)[UNIT] == "replaced"
        assert "ExecStart" in (top / UNIT).read_text()

    def test_a_file_that_was_there_before_is_kept_too(self, top: Path) -> None:
        (top / UNIT).parent.mkdir(parents=True)
        (top / UNIT).symlink_to("/dev/null")  # as `systemctl mask` makes it
        assert words(service("install"), top)[UNIT] == "kept"
        assert os.readlink(top / UNIT) == "/dev/null"
        service("uninstall", "--purge")
        assert os.readlink(top / UNIT) == "/dev/null"

    def test_what_an_older_gofer_has_written_is_updated(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        files = Service.files
        with monkeypatch.context() as older:
            older.setattr(Service, "files", lambda self: {path: f"{text}# old\n" for path, text in files(self).items()})
            service("install")
        assert service("show", status=3).stdout.split()[-1] == "outdated"
        assert words(service("install"), top)[UNIT] == "updated"
        assert words(service("install"), top)[UNIT] == "unchanged"
        assert words(service("uninstall"), top)[UNIT] == "removed"

    @pytest.mark.parametrize("at", range(4))
    def test_what_a_crash_leaves_behind_is_known_as_ours(
        self, top: Path, at: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It dies at its first write, its second one ..."""
        writes = 0
        write = service_files._write

        def dying(*arguments: object, **given: object) -> None:
            nonlocal writes
            writes += 1
            if writes > at:
                raise OSError(28, "No space left on device", str(arguments[0]))
            write(*arguments, **given)

        with monkeypatch.context() as full:
            full.setattr(service_files, "_write", dying)
            status = 0 if at > 2 else 1
            done = service("install", status=status)
            assert ("No space left" in done.stderr) == bool(status)
        if at > 0:
            service("uninstall")
            assert not top.exists()
        service("install")
        service("uninstall")
        assert at == 0 or not top.exists()

    def test_a_path_that_needs_quotes_is_one_word_to_systemd(self, tmp_path: Path) -> None:
        odd = tmp_path / 'a b"c%h$HOME\\'
        made = Service(Root(odd), odd / "goferd")
        text = made.files()[made.unit]
        (tmp_path / "goferd.service").write_text(text)
        (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
        assert "%%h" in line
        assert "$$HOME" in line
        assert command(read_unit(tmp_path / "goferd.service")) == [str(odd / "goferd"), "--root", str(odd)]

    def test_a_user_has_a_unit_of_their_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("GOFER_ROOT", raising=False)
        monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        done = service("install", "--user")
        unit = tmp_path / ".config/systemd/user/goferd.service"
        read = read_unit(unit)
        assert command(read)[1:] == ["--root", str(tmp_path / "gofer")]
        assert read["Install"]["WantedBy"] == ["default.target"]
        assert not set(read["Service"]) - KNOWN["Service"]
        assert "systemctl --user" in done.stderr
        assert not [*tmp_path.rglob("pam.d"), *tmp_path.rglob("sysusers.d")]
        service("uninstall", "--user")
        assert not list(tmp_path.iterdir())

    def test_what_cannot_be_done_is_reported_in_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("GOFER_ROOT", str(tmp_path / "file"))
        assert str(tmp_path / "file") in refusal("install")
        monkeypatch.setenv("GOFER_ROOT", str(tmp_path / "top"))
        (tmp_path / "top" / UNIT).mkdir(parents=True)
        assert f"{tmp_path / 'top' / UNIT} is a directory" in refusal("install")
        monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
        assert f"there is no {tmp_path / 'goferd'}" in refusal("install")
        assert "private root" in refusal("install", "--destdir", str(tmp_path), status=2)

    def test_two_at_once_do_not_mix(self, top: Path) -> None:
        service("install")
        with service_files._locked(top / "var/lib/gofer"):
            for what in ("install", "uninstall"):
                assert "another gofer service command is at work" in refusal(what)

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"files": 1, "directories": []}', '{"files": {"a": 1}}'])
    def test_a_damaged_record_is_reported(self, top: Path, text: str) -> None:
        service("install")
        (top / "var/lib/gofer/service.json").write_text(text)
        for what in ("install", "uninstall", "show"):
            assert "service.json is damaged" in refusal(what)
        (top / "var/lib/gofer/service.json").unlink()
        assert words(service("install"), top)[UNIT] == "unchanged"  # it knows its own text
        assert words(service("uninstall"), top)[UNIT] == "removed"


class TestRemoving:
    def test_nothing_is_left_of_an_unused_service(self, top: Path) -> None:
        service("install")
        assert words(service("uninstall"), top)[UNIT] == "removed"
        assert not top.exists()

    def test_directories_that_were_there_before_stay(self, top: Path) -> None:
        (top / "etc/systemd/system").mkdir(parents=True)
        (top / "var/log/gofer").mkdir(parents=True)
        before = everything(top)
        service("install")
        service("uninstall")
        assert everything(top) == before

    def test_configuration_ledger_and_logs_are_kept_and_named(self, top: Path) -> None:
        service("install")
        mine = ["etc/gofer/agent.conf", "var/lib/gofer/ledger/ledger.db", "var/log/gofer/agent.log"]
        for name in mine:
            (top / name).parent.mkdir(exist_ok=True)
            (top / name).write_text("mine")
        looked = words(service("uninstall", "--print"), top)
        assert (top / UNIT).exists()
        done = service("uninstall")
        assert words(done, top) == looked
        assert looked == {UNIT: "removed", "etc/gofer": "kept", "var/lib/gofer": "kept", "var/log/gofer": "kept"}
        assert "--purge" in done.stderr
        assert sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()) == sorted(mine)
        assert "nothing was installed" in refusal("uninstall")
        service("install")
        assert [(top / name).read_text() for name in mine] == ["mine"] * 3
        assert set(words(service("uninstall", "--purge"), top).values()) == {"removed"}
        assert not [path for path in top.rglob("*") if path.is_file() or path.name == "gofer"]

    def test_a_file_that_was_changed_by_hand_stays(self, top: Path) -> None:
        service("install")
        (top / UNIT).write_text("mine")
        assert words(service("uninstall"), top)[UNIT] == "kept"
        assert (top / UNIT).read_text() == "mine"

    def test_a_file_that_is_gone_is_no_trouble(self, top: Path) -> None:
        service("install")
        (top / UNIT).unlink()
        assert service("show", status=3).stdout.split()[-1] == "missing"
        assert words(service("uninstall"), top)[UNIT] == "was gone"
        assert not top.exists()

    def test_a_service_that_runs_or_is_enabled_is_not_removed(self, top: Path) -> None:
        service("install")
        with AgentProcess(top) as goferd:
            goferd.start()
            for options in ((), ("--purge",)):
                assert f"process {goferd.pid} holds" in refusal("uninstall", *options)
            goferd.kill()
        wants = top / "etc/systemd/system/multi-user.target.wants"
        wants.mkdir()
        (wants / "goferd.service").symlink_to(top / UNIT)
        assert "systemctl disable --now goferd" in refusal("uninstall")
        (wants / "goferd.service").unlink()
        service("uninstall")

    def test_show_tells_as_json(self, top: Path) -> None:
        assert set(json.loads(service("show", "--json", status=3).stdout)["files"].values()) == {"missing"}
        service("install")
        assert json.loads(service("show", "--json").stdout) == {
            "command": str(Path(GOFER).with_name("goferd")),
            "root": str(top),
            "files": {str(top / UNIT): "installed"},
        }


class TestOfTheWholeMachine:
    """What is written for the root ``/``, by way of --destdir."""

    @pytest.fixture(scope="class")
    @classmethod
    def staged(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("destdir")
        done = gofer("service", "install", "--destdir", str(folder), environ={"GOFER_ROOT": ""})
        assert (done.returncode, done.stderr) == (0, "")
        return folder

    def test_the_files_are_where_packages_put_them(self, staged: Path) -> None:
        found = sorted(str(path.relative_to(staged)) for path in staged.rglob("*") if path.is_file())
        assert found == [
            "etc/pam.d/gofer",
            "usr/lib/systemd/system/goferd.service",
            "usr/lib/sysusers.d/gofer.conf",
            "usr/lib/tmpfiles.d/gofer.conf",
        ]
        assert command(read_unit(staged / "usr/lib/systemd/system/goferd.service")) == [
            str(Path(GOFER).with_name("goferd"))
        ]

    def test_an_administrator_has_them_in_etc(self) -> None:
        said = gofer("service", "install", "--print", environ={"GOFER_ROOT": ""}).stdout
        assert re.findall("^# file (.*)", said, re.MULTILINE) == [
            "/etc/systemd/system/goferd.service",
            "/etc/sysusers.d/gofer.conf",
            "/etc/tmpfiles.d/gofer.conf",
            "/etc/pam.d/gofer",
        ]

    def test_the_unit_has_known_settings_and_lets_running_calls_end(self, staged: Path) -> None:
        unit = read_unit(staged / "usr/lib/systemd/system/goferd.service")
        assert set(unit) == set(KNOWN)
        for section, keys in unit.items():
            assert not set(keys) - KNOWN[section]
        settings = {key: values[0] for key, values in unit["Service"].items()}
        assert settings["Type"] == "notify"
        assert settings["KillMode"] == "mixed"  # else the commands of running calls get SIGTERM, too
        assert int(settings["TimeoutStopSec"]) > 30 + 5  # [main] shutdown_timeout, and the interpreter's end
        assert int(settings["WatchdogSec"]) >= 30
        assert settings["Restart"] == "always"

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
    @pytest.mark.parametrize("drop_in", ["", "user.conf", "loose.conf", "stop.conf"])
    def test_systemd_understands_it_with_each_drop_in_of_the_documentation(
        self, staged: Path, tmp_path: Path, drop_in: str
    ) -> None:
        shutil.copy(staged / "usr/lib/systemd/system/goferd.service", tmp_path)
        if drop_in:
            place = f"/etc/systemd/system/goferd.service.d/{drop_in}"
            (text,) = re.findall(rf"`{re.escape(place)}`.*?```systemd\n(.*?)```", PAGE.read_text(), re.DOTALL)
            (tmp_path / "goferd.service.d").mkdir()
            (tmp_path / "goferd.service.d" / drop_in).write_text(text)
            assert not set(read_unit(tmp_path / "goferd.service.d" / drop_in)["Service"]) - KNOWN["Service"]
        unit = str(tmp_path / "goferd.service")
        assert analyze("verify", "--man=no", unit) == ""
        exposure = analyze("security", "--offline=true", "--no-pager", unit)
        (found,) = re.findall(r"Overall exposure level for goferd.service: ([\d.]+)", exposure)
        if drop_in in ("", "user.conf"):
            rated = re.findall(r"exposure (\d+\.\d)", PAGE.read_text())
            assert abs(float(found) - float(rated[1 if drop_in else 0])) < 0.6  # each systemd rates a little otherwise

    @pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
    def test_systemd_would_tell_of_a_slip(self, staged: Path, tmp_path: Path) -> None:
        """What the test above relies on."""
        text = (staged / "usr/lib/systemd/system/goferd.service").read_text()
        (tmp_path / "goferd.service").write_text(text.replace("WatchdogSec", "WatchdogsSec"))
        assert "WatchdogsSec" in analyze("verify", "--man=no", str(tmp_path / "goferd.service"))

    @pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="systemd is not installed")
    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
    def test_systemd_makes_the_user_and_the_directories(self, staged: Path, tmp_path: Path) -> None:
        (tmp_path / "etc").mkdir()
        (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
        (tmp_path / "etc/group").write_text("root:x:0:\n")
        for tool, name in (("sysusers", "sysusers.d"), ("tmpfiles", "tmpfiles.d")):
            options = ["--create"] if tool == "tmpfiles" else []
            file = staged / "usr/lib" / name / "gofer.conf"
            done = subprocess.run(
                [f"systemd-{tool}", f"--root={tmp_path}", *options, file],
                check=False, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert "Invalid" not in done.stderr
        assert "gofer:x:" in (tmp_path / "etc/passwd").read_text()
        modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("run/gofer", "var/lib/gofer")}
        assert modes == {"run/gofer": 0o700, "var/lib/gofer": 0o700}

    def test_a_package_that_has_installed_the_service_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GOFER_ROOT", "")
        (tmp_path / "goferd.service").write_text("")
        monkeypatch.setattr("gofer.tools.service._PACKAGED", (tmp_path / "goferd.service",))
        assert f"a package has installed the service: {tmp_path / 'goferd.service'}" in refusal("install")


def analyze(*arguments: str) -> str:
    done = subprocess.run(
        ["systemd-analyze", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout
