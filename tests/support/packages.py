"""Package databases of a test's own: real apt and dpkg, real dnf and rpm, and repositories of tiny packages.

None of them touches the machine's packages. Packages that wait do so until a file ``go`` is there; that they have
begun shows in a file ``begun``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

__all__ = ["AptRoot", "DnfRoot"]

_APT_CONF = """\
Dir::State "{root}/var/lib/apt";
Dir::State::status "{root}/var/lib/dpkg/status";
Dir::Cache "{root}/var/cache/apt";
Dir::Etc "{root}/etc/apt";
Dir::Log "{root}/var/log/apt";
APT::Sandbox::User "root";
"""

_WAIT = """\
#!/bin/sh
[ "$1" = configure ] || exit 0
touch "$DPKG_ROOT/begun"
echo waiting
until [ -e "$DPKG_ROOT/go" ]; do sleep 0.05; done
echo gone on
"""

_DNF_CONF = """\
[main]
reposdir=/nonexistent
cachedir={root}/cache
persistdir=/persist
logdir={root}/log
varsdir=/nonexistent
gpgcheck=0
releasever=1
[tiny]
name=tiny
baseurl=file://{repository}
"""

_SPEC = """\
Name: {name}
Version: {version}
Release: 1
Summary: tiny
License: MIT
BuildArch: noarch
{requires}
%description
tiny
%files
"""

_WAIT_LUA = """\
%post -p <lua>
io.open("/begun", "w"):close()
print("waiting")
while not posix.stat("/go") do posix.sleep(1) end
"""


def _need(*programs: str) -> None:
    if os.geteuid() != 0:
        pytest.fail("these tests install packages, into a directory of their own: they run as root")
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.fail(f"there is no {', '.join(missing)}: `make test` installs what is missing")


class AptRoot:
    """apt and dpkg below a directory. ``environ`` makes them, and whoever asks them, use that one."""

    def __init__(self, root: Path) -> None:
        _need("apt-get", "dpkg-deb")
        self.root = root
        self.database = root / "var/lib/dpkg"
        self.repository = root / "repository"
        for folder in (
            *("var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/lib/dpkg/alternatives"),
            *("var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "var/log/apt"),
            *("etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/sources.list.d", "repository"),
        ):
            (root / folder).mkdir(parents=True)
        (root / "apt.conf").write_text(_APT_CONF.format(root=root))
        (root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] file:{self.repository} ./\n")
        self.environ: Mapping[str, str] = {
            "APT_CONFIG": str(root / "apt.conf"),
            "DPKG_ROOT": str(root),
            # As by default; and the scripts of the packages have no system below that root.
            "DPKG_FORCE": "security-mac,downgrade,script-chrootless",
        }
        self._index: list[str] = []
        self.add("gofer-one", "1.0", conffile="old\n")
        self.add("gofer-one", "2.0", conffile="new\n")
        self.add("gofer-two", "1.0", fields="Depends: gofer-one\n")
        self.add("gofer-slow", "1.0", postinst=_WAIT)
        self.add("gofer-broken", "1.0", postinst="#!/bin/sh\necho cannot >&2; exit 1\n")
        self.reset()

    def add(self, name: str, version: str, *, fields: str = "", postinst: str = "", conffile: str = "") -> None:
        """Add a package to the repository. Its index is written anew."""
        folder = self.root / "build" / f"{name}-{version}"
        (folder / "DEBIAN").mkdir(parents=True)
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: T <t@example.com>\n{fields}"
        (folder / "DEBIAN/control").write_text(f"{control}Description: tiny\n")
        if postinst:
            (folder / "DEBIAN/postinst").write_text(postinst)
            (folder / "DEBIAN/postinst").chmod(0o755)
        if conffile:
            (folder / "etc").mkdir()
            (folder / f"etc/{name}.conf").write_text(conffile)
            (folder / "DEBIAN/conffiles").write_text(f"/etc/{name}.conf\n")
        file = self.repository / f"{name}_{version}_all.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", folder, file], check=True, capture_output=True)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        place = f"Filename: ./{file.name}\nSize: {file.stat().st_size}\nSHA256: {digest}\n"
        self._index.append(f"{control}{place}Description: tiny\n")
        (self.repository / "Packages").write_text("\n".join(self._index))

    def reset(self) -> None:
        """Forget all packages, and what they have left."""
        for file in (*self.database.glob("info/*"), *self.database.glob("updates/*"), *self.root.glob("etc/gofer-*")):
            file.unlink()
        for name in ("go", "begun"):
            (self.root / name).unlink(missing_ok=True)
        (self.database / "status").write_text("")
        self.run("apt-get", "-q", "update")

    def run(self, *command: str) -> str:
        """Run a command on this database, and return what it has written."""
        environ = {**os.environ, **self.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def states(self) -> dict[str, str]:
        """Return each package's version and state; ``ii`` is installed and set up."""
        said = self.run("dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Abbrev}\n")
        return {name: f"{version} {state}" for name, version, state in map(str.split, said.splitlines())}

    def is_consistent(self) -> bool:
        """Tell whether dpkg has nothing to complain of, and nothing in its journal."""
        return self.run("dpkg", "--audit") == "" and not any((self.database / "updates").iterdir())


class DnfRoot:
    """dnf and rpm below a directory: ``path`` has commands of these names, which use that one."""

    def __init__(self, root: Path) -> None:
        _need("dnf", "rpm", "rpmbuild", "createrepo_c")
        self.root = root / "system"
        self.path = root / "bin"
        repository = root / "repository"
        for folder in (self.root / "etc", self.path, repository, root / "build"):
            folder.mkdir(parents=True)
        (root / "dnf.conf").write_text(_DNF_CONF.format(root=root, repository=repository))
        options = {"dnf": f"--config={root}/dnf.conf --installroot={self.root}", "rpm": f"--root={self.root}"}
        for name, words in options.items():
            script = self.path / name
            script.write_text(f'#!/bin/sh\nexec {shutil.which(name)} {words} "$@"\n')
            script.chmod(0o755)
        for name, version, requires, script in (
            ("gofer-one", "1.0", "", ""),
            ("gofer-one", "2.0", "", ""),
            ("gofer-two", "1.0", "Requires: gofer-one", ""),
            ("gofer-slow", "1.0", "", _WAIT_LUA),
        ):
            spec = root / "build" / f"{name}-{version}.spec"
            spec.write_text(_SPEC.format(name=name, version=version, requires=requires) + script)
            defined = ["--define", f"_topdir {root}/build", "--define", f"_rpmdir {repository}"]
            subprocess.run(["rpmbuild", "-bb", *defined, spec], check=True, capture_output=True)
        subprocess.run(["createrepo_c", "--quiet", repository], check=True)

    def run(self, *command: str) -> str:
        """Run dnf or rpm on this database, and return what it has written."""
        environ = {**os.environ, "PATH": f"{self.path}:{os.environ['PATH']}", "LC_ALL": "C"}
        done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def reset(self) -> None:
        """Remove all packages."""
        for name in ("go", "begun"):
            (self.root / name).unlink(missing_ok=True)
        if self.installed():
            self.run("rpm", "-e", *self.installed())

    def installed(self) -> list[str]:
        """Return what is installed, with versions."""
        return sorted(self.run("rpm", "-qa", "--qf", "%{NAME}-%{VERSION}\\n").split())
