"""Broken descriptors: each is one clear line that names file, section and key, and the plugin beside it answers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from gofer.proxy import Agent
from support import forkserver
from support.commands import check_goferd
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.plugins import describe, install
from support.presence import until_it_answers

pytestmark = pytest.mark.xdist_group("goferd-descriptors")  # one process makes what the module shares

_MAIN = "[main]\nenabled=1\nplugin=good\n"


@dataclass(frozen=True)
class Broken:
    """One descriptor that will not do: how it is made, and what its line says behind the file's name.

    ``loaded``: only a start can tell, so --check does not.
    """

    name: str
    make: Callable[[Path, Path], object]
    says: str
    loaded: bool = False


def text(content: str) -> Callable[[Path, Path], object]:
    return lambda file, site: file.write_text(content)


def module(name: str, code: str) -> Callable[[Path, Path], object]:
    def make(file: Path, site: Path) -> None:
        install(site, name, code)
        file.write_text("[main]\nenabled=1\n")

    return make


def twice(file: Path, site: Path) -> None:
    install(site, "twice", "", distribution="one")
    install(site, "twice", None, distribution="two")
    file.write_text("[main]\nenabled=1\n")


def writable(file: Path, site: Path) -> None:
    file.write_text(_MAIN)
    file.chmod(0o666)


BROKEN = [
    Broken("empty", text(""), ": [main]: "),
    Broken("nomain", text("[messaging]\nurl=local://\n"), ": [main]: "),
    Broken("noheader", text("enabled=1\n"), ": [main]: the file has no section"),
    Broken("junk", lambda file, site: file.write_bytes(bytes(range(128, 256)) * 8), ": has byte 0x80 at offset 0"),
    Broken("nul", text("[main]\nenabled=1\0\n"), ": has a NUL byte at offset 16"),
    Broken("utf16", lambda file, site: file.write_bytes("[main]\n".encode("utf-16")), ": is UTF-16 text"),
    Broken("dirs", lambda file, site: file.mkdir(), ": is a directory"),
    Broken("dangling", lambda file, site: file.symlink_to("nowhere.txt"), ": is a symbolic link to "),
    Broken("fifo", lambda file, site: os.mkfifo(file), ": is a FIFO"),
    Broken("writable", writable, ": mode 0666 lets its group and others write to it. Fix: chmod go-w "),
    Broken("large", text("#" * (2 << 20)), ": is too large"),
    Broken("sections", text(f"{_MAIN}admin=ops\n{_MAIN}"), ": [main]: the section is there twice, and the last one, "),
    Broken(
        "stray", text(f"{_MAIN}admin ops\n"), ": [main]: line 4 has no key, or no '=' after it, and it may be admin"
    ),
    Broken("comment", text(f"{_MAIN}[model]\nqueue=k # comment\n"), ": [model] queue: has a comment after its value"),
    Broken("flag", text("[main]\nenabled=maybe\n"), ": [main] enabled: 'maybe' is neither yes nor no; allowed: 0, 1"),
    Broken("threads", text(f"{_MAIN}threads=many\n"), ": [main] threads: 'many' is not a whole number; allowed: "),
    Broken("range", text(f"{_MAIN}[model]\nmanaged=3\n"), ": [model] managed: '3' is out of range; allowed: "),
    Broken("duration", text(f"{_MAIN}latency=soon\n"), ": [main] latency: 'soon' is not a duration; allowed: "),
    Broken("url", text(f"{_MAIN}[messaging]\nurl=carrier://pigeon\n"), ": [messaging] url: "),
    Broken("queue", text(f"{_MAIN}[model]\nqueue=a/b/c/\n[messaging]\nurl=what ever\n"), ": [messaging] url: "),
    Broken("shared", text(f"{_MAIN}[messaging]\nurl=local://\n[model]\nqueue=good\n"), ": [model] queue: 'good' "),
    Broken("choice", text(f"{_MAIN}[model]\ntype=wooden\n"), ": [model] type: invalid value 'wooden'; allowed: "),
    Broken("notjson.json", text("{"), ": is not JSON: "),
    Broken("list.json", text("[]"), ": is not a JSON object; allowed: "),
    Broken("zz-second", text(f"{_MAIN}name=good\n"), ": [main] name: plugin 'good' is described by "),
    Broken(
        "uninstalled",
        text("[main]\nenabled=1\n"),
        ": [main] plugin: no installed plugin is called 'uninstalled'; installed: ",
    ),
    Broken(
        "nomodule", text("[main]\nenabled=1\nplugin=no.such\n"), ": [main] plugin: 'no.such' is neither an installed"
    ),
    Broken("twice", twice, ": [main] plugin: 'twice' in gofer.plugins is claimed by one 1.0 and two 1.0"),
    Broken("extends", text(f"{_MAIN}extends=nobody\n"), ": [main] extends: "),
    Broken("adapter", text(f"{_MAIN}[messaging]\nurl=pigeon+amqp://h\n"), ": [messaging] url: "),
    Broken("auth", text(f"{_MAIN}[messaging]\nauthenticator=nope\n"), ": [messaging] authenticator: "),
    Broken("missing", module("missing", "import nowhere_at_all"), ": [main] plugin: module missing_module "),
    Broken("exits", module("exits", "raise SystemExit(0)"), ": [main] plugin: module exits_module "),
    Broken("syntax", module("syntax", "def ("), ": [main] plugin: module syntax_module "),
    Broken(
        "loads",
        module("loads", "from gofer.decorators import load\n@load\ndef begin():\n    raise OSError('no disk')"),
        ": [main] plugin: its @load or a gofer_load hook failed: OSError: no disk",
        True,
    ),
    Broken(
        "hook",
        module("hook", "from gofer.hooks import hookimpl\n@hookimpl\ndef gofer_laod(plugin): pass"),
        ": [main] plugin: module hook_module: unknown hook 'gofer_laod' in plugin ",
    ),
    Broken(
        "unstarted",
        text(f"{_MAIN}[messaging]\nauthenticator=hmac\n"),
        ": [messaging] authenticator: 'hmac' cannot be made of section [hmac]: ",
    ),
    Broken(
        "keyless",
        text(f"{_MAIN}[messaging]\nauthenticator=hmac\n[hmac]\nkeys=/nowhere/keys\n"),
        ": [messaging] authenticator: 'hmac' cannot be made of section [hmac]: ",
    ),
    Broken(
        "needs",
        module("needs", "from gofer.agent.plugin import Plugin\nclass Dog(Plugin.find('missing')['Dog']): pass"),
        ": [main] plugin: module needs_module cannot be imported: PluginError: plugin 'missing' has no 'Dog' to give",
    ),
]

GOOD = """
from gofer.decorators import remote

@remote
def hello():
    return "hello"
"""


class Home:
    """A root with a good plugin and all the broken ones."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.site = folder / "site"
        self.site.mkdir()
        self.environ = {**os.environ, "GOFER_ROOT": str(self.root), "PYTHONPATH": str(self.site)}
        self.process = AgentProcess(self.root, path=(self.site,))
        for directory in (self.root / "run/gofer", self.root / "var/lib/gofer"):
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o700)
        install(self.site, "good", GOOD)
        describe(self.root, "good", "[main]\nenabled=1\n[messaging]\nurl=local://\n[model]\nqueue=good\n")

    def file(self, one: Broken) -> Path:
        return self.root / "etc/gofer/plugins" / (one.name if "." in one.name else f"{one.name}.conf")

    def break_all(self) -> None:
        for one in BROKEN:
            file = self.file(one)
            one.make(file, self.site)
            if one.name != "writable" and file.is_file() and not file.is_symlink():
                file.chmod(0o644)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("broken"))
    home.break_all()
    return home


@pytest.fixture(scope="module")
def lines(home: Home) -> Iterator[list[str]]:
    """What goferd says, while its good plugin answers."""
    with LocalBroker(str(home.root / "run/gofer/broker.sock")) as broker, home.process as process:
        process.start()
        with Agent(broker.url, "good", wait=20) as agent:
            assert until_it_answers(agent, process.tail()).good.hello() == "hello"
        process.stop()
        yield process.log.read_text().splitlines()


@pytest.fixture(scope="module")
def checked(home: Home) -> subprocess.CompletedProcess[str]:
    """What ``goferd --check`` says."""
    before = set(sys.modules)
    done = check_goferd(home.root, home.site)
    assert not [name for name in set(sys.modules) - before if name.endswith("_module")], "a plugin was imported"
    return done


@pytest.mark.parametrize("one", BROKEN, ids=lambda one: one.name)
def test_it_is_one_clear_line_and_the_plugin_beside_it_answers(one: Broken, home: Home, lines: list[str]) -> None:
    about = [line for line in lines if f"ERROR gofer.agent.main: {home.file(one)}: " in line]
    about += [line for line in lines if f"ERROR gofer.agent.loader: {home.file(one)}: " in line]

    assert len(about) == 1, "\n".join(lines)
    assert f"{home.file(one)}{one.says}" in about[0]


def test_nothing_else_is_an_error(lines: list[str]) -> None:
    assert len([line for line in lines if " ERROR " in line]) == len(BROKEN)
    assert not [line for line in lines if "Traceback" in line]


@pytest.mark.parametrize("one", [one for one in BROKEN if not one.loaded], ids=lambda one: one.name)
def test_check_reports_it_and_imports_nothing_in_its_own_process(
    one: Broken, home: Home, checked: subprocess.CompletedProcess[str]
) -> None:
    about = [line for line in checked.stdout.splitlines() if line.startswith(f"error: {home.file(one)}: ")]

    assert len(about) == 1, checked.stdout
    assert f"{home.file(one)}{one.says}" in about[0]


def test_check_says_by_its_status_whether_anything_is_wrong(
    home: Home, checked: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    assert checked.returncode == 1, checked.stdout + checked.stderr
    assert checked.stderr == ""

    fine = Home(tmp_path)
    command = [sys.executable, "-m", "gofer.agent.main", "--check"]
    done = forkserver.run(command, env=fine.environ, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "enabled: good; errors: 0" in done.stdout

    with open("/dev/full", "w") as full:
        done = forkserver.run(
            command, env=fine.environ, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False
        )
    assert (done.returncode, done.stderr) == (74, "goferd: cannot write the output: No space left on device\n")


def test_check_waits_for_imports_where_those_who_start_it_wait_for_no_process(tmp_path: Path) -> None:
    """As some supervisors do, and what they start ignores SIGCHLD with them."""
    code = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
        "os.execv(sys.executable, [sys.executable, '-m', 'gofer.agent.main', '--check'])"
    )
    environ = Home(tmp_path).environ
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_check_needs_no_disk_that_can_be_written(tmp_path: Path) -> None:
    """A full one is when people look for what is wrong; and a plugin that is reloaded is tried in the same way."""
    home = Home(tmp_path)
    (home.site / "sitecustomize.py").write_text("import tempfile\ntempfile.tempdir = '/proc/nowhere'\n")
    command = [sys.executable, "-m", "gofer.agent.main", "--check"]
    done = subprocess.run(command, env=home.environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "importing it kills the process (SIGKILL)"),
        ("import os\nprint('bones', flush=True)\nos._exit(7)", "importing it ends the process with status 7: 'bones'"),
    ],
)
def test_check_outlives_what_an_import_does(tmp_path: Path, code: str, says: str) -> None:
    home = Home(tmp_path)
    install(home.site, "fatal", code)
    file = describe(home.root, "fatal")
    done = check_goferd(home.root, home.site)

    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.splitlines()[0] == f"error: {file}: [main] plugin: {says}"


def test_check_needs_neither_files_nor_signals_and_no_import_hurts_another(tmp_path: Path) -> None:
    home = Home(tmp_path)
    install(home.site, "forks", "import os, time\nif os.fork(): time.sleep(1)")
    install(home.site, "ends", "import os\nprint('woof ' * 200_000, 'bones', sep='\\n', flush=True)\nos._exit(7)")
    for name in ("forks", "ends"):
        describe(home.root, name)
    # A disk that is full, and a starter that has SIGCHLD ignored.
    limited = ["/bin/sh", "-c", "ulimit -f 0; trap '' CHLD; exec \"$@\"", "sh"]
    done = subprocess.run(
        [*limited, sys.executable, "-m", "gofer.agent.main", "--check"],
        env=home.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    ends, last = done.stdout.splitlines()
    assert ends.endswith("ends.conf: [main] plugin: importing it ends the process with status 7: 'bones'")
    assert last.endswith("enabled: ends, forks, good; errors: 1")


def test_check_tells_of_an_authenticator_whether_the_plugin_is_there_or_not(tmp_path: Path) -> None:
    home = Home(tmp_path)
    describe(home.root, "absent", "[main]\nenabled = 1\n[messaging]\nauthenticator = nobody\n")
    done = check_goferd(home.root, home.site)
    plugin, authenticator, _ = done.stdout.splitlines()
    assert "absent.conf: [main] plugin: " in plugin
    assert "absent.conf: [messaging] authenticator: no authenticator 'nobody' is installed" in authenticator


def test_check_loads_nothing_and_lets_plugins_find_each_other(tmp_path: Path) -> None:
    home = Home(tmp_path)
    trace = tmp_path / "trace"
    code = f"""
        from gofer.agent.plugin import Plugin
        from gofer.decorators import load
        from gofer.hooks import hookimpl

        animals = Plugin.find("zebra")
        class Dog(animals["Zebra"]): ...

        @load
        def loaded():
            open({str(trace)!r}, "w").close()

        @hookimpl
        def gofer_load(plugin):
            open({str(trace)!r}, "w").close()
    """
    install(home.site, "dog", code)
    install(
        home.site, "zebra", "from gofer.decorators import remote\nclass Zebra:\n    @remote\n    def run(self): ...\n"
    )
    describe(home.root, "dog")
    describe(home.root, "zebra")
    done = check_goferd(home.root, home.site)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "enabled: dog, good, zebra; errors: 0" in done.stdout
    assert not trace.exists()


def test_check_reports_what_is_wrong_in_the_agents_own_settings(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.process.configure("[main]\nshutdown_timeout=whenever\n[loging]\nroot=DEBUG\n")
    done = check_goferd(home.root, home.site)

    assert done.returncode == 1
    assert f"error: {home.root}/etc/gofer/agent.conf: [main] shutdown_timeout: 'whenever'" in done.stdout
    assert "warning: " in done.stdout
    assert "[loging]" in done.stdout
