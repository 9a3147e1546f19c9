"""What the plugin package reads: names from callers, and the output of apt-get, dnf, yum, dpkg and rpm.

Those of apt-get 2.6 and of dnf 4.14 have the layout that was recorded from them. That of yum is written as yum 3.4 lays
it out: none runs here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import PluginError
from gofer_plugin_package import settings, transactions
from gofer_plugin_package.apt import Apt
from gofer_plugin_package.changes import Installed, change, difference, rollback
from gofer_plugin_package.dnf import Dnf, read_installed
from gofer_plugin_package.managers import Wanted, parse_names


def installed(**versions: str) -> Installed:
    return Installed({name.replace("_", "-"): frozenset(text.split()) for name, text in versions.items()})


class TestNames:
    @pytest.mark.parametrize(
        ("names", "wanted"),
        [
            ("vim", [Wanted("vim")]),
            (["vim", "g++", "vim"], [Wanted("vim"), Wanted("g++")]),
            ("libc6:i386", [Wanted("libc6:i386")]),
            ("glibc.i686", [Wanted("glibc.i686")]),
            ("git=1:2.39.5-0+deb12u1", [Wanted("git", "1:2.39.5-0+deb12u1")]),
            ("a=1.0~rc1", [Wanted("a", "1.0~rc1")]),
            ("_a=1", [Wanted("_a", "1")]),
        ],
    )
    def test_a_name(self, names: Any, wanted: list[Wanted]) -> None:
        assert parse_names(names) == wanted

    @pytest.mark.parametrize(
        "names",
        [
            *(
                "",
                "-y",
                "--reinstall",
                "+a",
                ".a",
                "a b",
                "a\tb",
                "a\n",
                "a;b",
                "a&b",
                "a|b",
                "$(id)",
                "`id`",
                "a'b",
                'a"b',
            ),
            *("/tmp/x.deb", "./x.deb", "../x", "a/stable", "*", "gofer-*", "a?", "[a]", "^a", "a$", "?installed", "~i"),
            *(
                "@core",
                "perl(Foo)",
                "a>=1",
                "a=",
                "=1",
                "a=-o",
                "a=1=2",
                "a=1 2",
                "a=1\n",
                "a=1;b",
                "a=$(id)",
                "a:",
                "a:b:c",
            ),
            *("é", "a\u2028", "a\0", "x" * 300, "a=" + "1" * 300),
            *([], [""], ["vim", "-o"]),
        ],
    )
    def test_what_is_none(self, names: Any) -> None:
        with pytest.raises(ValueError, match=r"name|version"):
            parse_names(names)

    @pytest.mark.parametrize("names", [None, 5, True, {"a": 1}, ("a",), [5], [["a"]], ["a", None], b"a"])
    def test_what_is_no_text(self, names: Any) -> None:
        with pytest.raises(TypeError, match="names is a text or a list of texts"):
            parse_names(names)


class TestChanges:
    def test_what_differs(self) -> None:
        before = installed(kept="1", newer="1", gone="1", kernel="5 6")
        after = installed(kept="1", newer="2", come="1", kernel="6 7")
        assert difference(before, after) == [
            change("come", None, "1"),
            change("gone", "1", None),
            change("kernel", "5", "7"),
            change("newer", "1", "2"),
        ]

    def test_the_way_back(self) -> None:
        before, after = installed(newer="1", gone="1"), installed(newer="2", come="1")
        back = rollback(difference(before, after), after)
        assert back == {"remove": ["come"], "install": ["gone=1", "newer=1"]}

    def test_one_of_several_kernels_is_not_all_of_them(self) -> None:
        before, after = installed(kernel="5"), installed(kernel="5 6")
        assert rollback(difference(before, after), after) == {"remove": ["kernel=6"], "install": []}


APT_SIMULATION = """\
Reading package lists...
Building dependency tree...
The following packages will be REMOVED:
  exim4
The following NEW packages will be installed:
  postfix
The following packages will be upgraded:
  libc6 libc6:i386
2 upgraded, 1 newly installed, 1 to remove and 3 not upgraded.
Remv exim4 [4.96-15]
Inst libc6 [2.36-9] (2.36-10 Debian:12.1/stable [amd64]) [libc6:i386 libc6:amd64 on libc6:i386]
Inst libc6:i386 [2.36-9] (2.36-10 Debian:12.1/stable [i386])
Inst postfix (3.7.6-0 Debian:12.1/stable [amd64])
Conf libc6 (2.36-10 Debian:12.1/stable [amd64])
"""
APT_LIST = """\
Listing...
git/stable,stable-security 1:2.39.5-0 amd64 [upgradable from: 1:2.39.2-1]
gofer-one/unknown 2.0 all [upgradable from: 1.0]
"""


class TestApt:
    def test_a_dry_run(self) -> None:
        assert Apt("keep").planned((0, APT_SIMULATION, ""), installed()) == (
            0,
            [
                change("exim4", "4.96-15", None),
                change("libc6", "2.36-9", "2.36-10"),
                change("libc6:i386", "2.36-9", "2.36-10"),
                change("postfix", None, "3.7.6-0"),
            ],
        )

    def test_the_list(self) -> None:
        assert Apt("keep").listed((0, APT_LIST, ""), installed()) == [
            change("git", "1:2.39.2-1", "1:2.39.5-0"),
            change("gofer-one", "1.0", "2.0"),
        ]
        assert Apt("keep").listed((100, "", "E: broken"), installed()) is None

    @pytest.mark.parametrize(
        ("stderr", "who"),
        [
            (
                "E: Could not get lock /var/lib/dpkg/lock. It is held by process 30098 (python3)",
                "process 30098 (python3)",
            ),
            ("E: Unable to acquire the dpkg frontend lock (/x), is another process using it?", "another process"),
            ("dpkg: error: dpkg frontend lock was locked by another process with pid 30098", "process 30098"),
            ("E: Could not get lock /var/lib/apt/lists/lock - open (11: Resource not available)", "another process"),
            ("E: Unable to locate package nosuch", None),
        ],
    )
    def test_who_has_locked(self, stderr: str, who: str | None) -> None:
        assert Apt("keep").locked(100, stderr) == who
        assert Apt("keep").locked(0, stderr) is None

    def test_names_come_behind_all_options(self) -> None:
        command = Apt("keep").change("install", [Wanted("vim"), Wanted("git", "1:2")], dry_run=True)
        assert command[command.index("--") :] == ["--", "vim", "git=1:2"]
        assert {"-y", "--simulate", "--allow-downgrades", "Dpkg::Options::=--force-confold"} <= set(command)
        assert "--allow-downgrades" not in Apt("keep").change("update", [], dry_run=False)


DNF_TABLE = """\
Last metadata expiration check: 0:00:26 ago on Sun Nov 29 03:50:33 2026.
Dependencies resolved.
================================================================================
 Package              Architecture      Version           Repository       Size
================================================================================
Installing:
 gofer-two            noarch            1.0-1             tiny            5.4 k
 kernel               x86_64            6.1-2             base             12 M
Upgrading:
 gofer-one            noarch            2.0-1             tiny            5.4 k
 glibc                i686              2.34-2            base            2.0 M
     replacing  old-glibc.i686 2.33-1
 a-package-whose-name-is-too-long-for-its-column
                      x86_64            1:3.0-1           updates          66 k
Installing dependencies:
 gofer-dep            x86_64            1.0-1             tiny            800  
Downgrading:
 downgraded           noarch            1.0-1             tiny            5.4 k
Removing:
 gofer-gone           noarch            1.0-1             @tiny              0  
Removing dependent packages:
 gofer-user           noarch            1.0-1             @tiny            12 k

Transaction Summary
================================================================================
Install  2 Packages
"""  # noqa: W291 - as dnf writes it
YUM_TABLE = """\
Loaded plugins: fastestmirror
Resolving Dependencies
--> Running transaction check
---> Package gofer-one.noarch 0:1.0-1 will be updated

Dependencies Resolved

================================================================================
 Package          Arch          Version            Repository              Size
================================================================================
Updating:
 gofer-one        noarch        2.0-1              tiny                   5.4 k
Installing for dependencies:
 gofer-dep        x86_64        1.0-1              tiny                   5.4 k
Removing for dependencies:
 gofer-user       noarch        1.0-1              @tiny                  0.0  

Transaction Summary
================================================================================
Upgrade  1 Package
"""  # noqa: W291 - as yum writes it
DNF_UPDATES = """\

gofer-one.noarch                           2.0-1                            tiny
glibc.i686                                 2.34-2                           base
a-package-whose-name-is-too-long-for-its-column.x86_64
                                           1:3.0-1                          updates
Obsoleting Packages
new.noarch                                 1.0-1                            tiny
    old.noarch                             1.0-1                            @tiny
"""


class TestDnf:
    before = Installed(
        {
            "gofer-one": frozenset(("1.0-1",)),
            "kernel": frozenset(("6.1-1",)),
            "glibc.i686": frozenset(("2.34-1",)),
            "glibc.x86_64": frozenset(("2.34-1",)),
            "a-package-whose-name-is-too-long-for-its-column": frozenset(("1:2.0-1",)),
            "downgraded": frozenset(("2.0-1",)),
            "gofer-gone": frozenset(("1.0-1",)),
            "gofer-user": frozenset(("1.0-1",)),
        }
    )

    def test_a_dry_run(self) -> None:
        assert Dnf("dnf").planned((1, DNF_TABLE, "Operation aborted."), self.before) == (
            0,
            [
                change("gofer-two", None, "1.0-1"),
                change("kernel", None, "6.1-2"),
                change("gofer-one", "1.0-1", "2.0-1"),
                change("glibc.i686", "2.34-1", "2.34-2"),
                change("a-package-whose-name-is-too-long-for-its-column", "1:2.0-1", "1:3.0-1"),
                change("gofer-dep", None, "1.0-1"),
                change("downgraded", "2.0-1", "1.0-1"),
                change("gofer-gone", "1.0-1", None),
                change("gofer-user", "1.0-1", None),
            ],
        )

    def test_a_dry_run_of_yum(self) -> None:
        assert Dnf("yum").planned((1, YUM_TABLE, "Exiting on user command"), self.before) == (
            0,
            [
                change("gofer-one", "1.0-1", "2.0-1"),
                change("gofer-dep", None, "1.0-1"),
                change("gofer-user", "1.0-1", None),
            ],
        )

    def test_a_dry_run_that_fails_and_one_without_work(self) -> None:
        nothing = "Dependencies resolved.\nNothing to do.\nComplete!\n"
        assert Dnf("dnf").planned((1, "", "Error: Unable to find a match: nosuch"), self.before) == (1, [])
        assert Dnf("dnf").planned((0, nothing, ""), self.before) == (0, [])

    def test_the_list(self) -> None:
        assert Dnf("dnf").listed((100, DNF_UPDATES, ""), self.before) == [
            change("gofer-one", "1.0-1", "2.0-1"),
            change("glibc.i686", "2.34-1", "2.34-2"),
            change("a-package-whose-name-is-too-long-for-its-column", "1:2.0-1", "1:3.0-1"),
        ]
        assert Dnf("dnf").listed((0, "", ""), self.before) == []
        assert Dnf("dnf").listed((1, "", "Error: no repository"), self.before) is None

    def test_what_rpm_has(self) -> None:
        said = (
            "bash\t(none)\t5.1-1\tx86_64\nglibc\t(none)\t2.34-1\tx86_64\nglibc\t(none)\t2.34-1\ti686\n"
            "git\t1\t2.3-1\tx86_64\nkernel\t0\t5-1\tx86_64\nkernel\t0\t6-1\tx86_64\n"
        )
        assert read_installed(said).versions == {
            "bash": {"5.1-1"},
            "glibc.x86_64": {"2.34-1"},
            "glibc.i686": {"2.34-1"},
            "git": {"1:2.3-1"},
            "kernel": {"5-1", "6-1"},
        }

    def test_a_version_stands_before_the_architecture(self) -> None:
        wanted = [
            Wanted("vim"),
            Wanted("git", "1:2.3-1"),
            Wanted("glibc.i686", "2.34-1"),
            Wanted("python3.11", "3.11-1"),
        ]
        assert Dnf("dnf").change("install", wanted, dry_run=False)[-4:] == [
            *("vim", "git-1:2.3-1", "glibc-2.34-1.i686", "python3.11-3.11-1")
        ]

    def test_who_has_locked(self) -> None:
        said = "RPMDB already locked by 5205\n  The application with PID 5205 is: dnf\n    Memory :  53 M RSS\n"
        assert Dnf("dnf").locked(200, said) == "process 5205 (dnf)"
        assert Dnf("dnf").locked(200, "") == "another process"
        assert Dnf("dnf").locked(1, said) is None


class TestManagers:
    @pytest.mark.parametrize(
        ("programs", "found"),
        [(("apt-get",), "apt"), (("dnf", "yum"), "dnf"), (("yum",), "yum"), (("apt-get", "dnf"), "apt")],
    )
    def test_the_one_that_is_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: tuple[str, ...], found: str
    ) -> None:
        for program in programs:
            (tmp_path / program).write_text("#!/bin/sh\n")
            (tmp_path / program).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        if programs == ("apt-get", "dnf") and not os.path.exists("/etc/debian_version"):
            found = "dnf"
        assert settings.find_manager() == found

    def test_none_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nonexistent")
        with pytest.raises(PluginError, match="neither apt-get, dnf nor yum"):
            settings.find_manager()


def test_under_systemd_a_change_has_a_scope_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd runs on no machine that tests this: its command is one of that name, which notes its words."""
    if os.geteuid() != 0:
        pytest.skip("only root can make scopes of the system's")
    fake = tmp_path / "systemd-run"
    fake.write_text('#!/bin/sh\necho "$1 $2 $3"; shift 3; exec "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(transactions, "_SYSTEMD", str(tmp_path))
    told: list[str] = []
    ended = transactions.run_transaction(["echo", "done"], told.append, stop_wait=1.0, stoppable=True)
    assert ended == (0, "--scope --quiet --\ndone\n", "")
    monkeypatch.setattr(transactions, "_SYSTEMD", str(tmp_path / "none"))
    assert transactions.run_transaction(["echo", "done"], told.append, stop_wait=1.0, stoppable=True) == (
        0,
        "done\n",
        "",
    )


@pytest.mark.parametrize("script", ["yes | head -c 3000000; echo end", "echo lost > /dev/stdout; echo end"])
def test_of_output_the_end_is_kept(script: str) -> None:
    told: list[str] = []
    status, out, err = transactions.run_transaction(["sh", "-c", script], told.append, stop_wait=1.0, stoppable=True)
    assert (status, err) == (0, "")
    assert out.endswith("end\n")
    assert len(out) < (1 << 20) + 100
    assert "".join(told).endswith("end\n")
