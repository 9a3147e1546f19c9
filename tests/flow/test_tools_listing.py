"""``gofer plugins``, ``gofer adapters`` and ``gofer authenticators``, with distributions on a path of their own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import forkserver
from support.commands import GOFER, gofer, left_behind, run_gofer
from support.plugins import describe, install
from support.waiting import eventually

# What is installed is tried in forked processes, and the one that runs these tests has threads.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

GOOD = """
from gofer.decorators import remote

@remote
def hello():
    return "hello"
"""


@pytest.fixture
def site(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    installed_in(site, monkeypatch)
    return site


def installed_in(site: Path, patch: pytest.MonkeyPatch) -> None:
    """Have this process, and those that it starts, find what is installed there."""
    patch.syspath_prepend(str(site))
    patch.setenv("PYTHONPATH", str(site))


def listed(command: str, *arguments: str) -> dict[str, dict[str, Any]]:
    done = run_gofer(command, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return {one["name"]: one for one in json.loads(done.stdout)}


CAREFUL = """
from pathlib import Path
from gofer.agent.plugin import Plugin
from gofer.decorators import load
from gofer.hooks import hookimpl

plugin = Plugin.find(__name__)
assert plugin.cfg.mine.colour == "red"

@load
def start():
    Path("{top}/loaded").touch()

@hookimpl
def gofer_load(plugin):
    Path("{top}/hooked").touch()
"""


class Listed(NamedTuple):
    """What is listed of plugins that one root describes, and what `gofer plugins --json` has printed."""

    top: Path
    plugins: list[dict[str, Any]]
    errors: list[str]

    def __getitem__(self, name: str) -> dict[str, Any]:
        """Return what is said of the plugin of this name."""
        (one,) = (one for one in self.plugins if one["name"] == name)
        return one


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Listed:
    """What is listed of many plugins, in one go."""
    top = tmp_path_factory.mktemp("shown")
    site, root = top / "site", top / "root"
    site.mkdir()
    (root / "etc/gofer/plugins").mkdir(parents=True, mode=0o755)
    install(site, "good", GOOD, version="2.5", distribution="acme-good")
    for name in ("by_name", "named", "off", "undescribed"):
        install(site, name, GOOD)
    install(site, "careful", CAREFUL.format(top=top))
    install(site, "twin", GOOD, distribution="first")
    install(site, "twin", None, distribution="second")
    describe(root, "by_name")
    describe(root, "other", "[main]\nenabled = 1\nplugin = named\n")
    describe(root, "off", "[main]\nenabled = 0\n")
    describe(root, "careful", "[main]\nenabled = 1\n[mine]\ncolour = red\n")
    describe(root, "absent")
    describe(root, "wrong", "[main]\nenabled = perhaps\n")
    with pytest.MonkeyPatch.context() as patch:
        installed_in(site, patch)
        done = run_gofer("plugins", "--json", "--root", str(root))
    assert done.returncode == 0, done.stderr
    return Listed(top, json.loads(done.stdout), done.stderr.splitlines())


def test_a_plugin_is_shown_with_what_provides_it(shown: Listed) -> None:
    assert shown["good"] == {
        "name": "good",
        "version": "2.5",
        "distribution": "acme-good",
        "value": "good_module",
        "broken": None,
        "enabled": False,
        "descriptors": [],
    }


@pytest.mark.parametrize(
    ("name", "enabled", "file"),
    [("by_name", True, "by_name"), ("named", True, "other"), ("off", False, "off"), ("undescribed", False, None)],
)
def test_a_plugin_is_enabled_by_a_descriptor_of_its_name_or_one_that_names_it(
    shown: Listed, name: str, enabled: bool, file: str | None
) -> None:
    files = [] if file is None else [str(shown.top / f"root/etc/gofer/plugins/{file}.conf")]
    assert (shown[name]["enabled"], shown[name]["descriptors"]) == (enabled, files)


def test_the_root_may_be_given(root: Path, tmp_path: Path) -> None:
    (tmp_path / "second/etc/gofer/plugins").mkdir(parents=True, mode=0o755)
    describe(tmp_path / "second", "demo")
    assert not listed("plugins")["demo"]["enabled"]
    assert listed("plugins", "--root", str(tmp_path / "second"))["demo"]["enabled"]


def test_nothing_a_plugin_does_when_it_is_loaded_is_done(shown: Listed) -> None:
    assert shown["careful"]["broken"] is None
    assert not (shown.top / "loaded").exists()
    assert not (shown.top / "hooked").exists()


def test_one_name_claimed_twice(shown: Listed) -> None:
    twins = [one for one in shown.plugins if one["name"] == "twin"]
    assert [one["distribution"] for one in twins] == ["first", "second"]
    assert all("first 1.0 and second 1.0" in one["broken"] for one in twins)


def test_what_is_wrong_with_descriptors_is_reported_on_standard_error(shown: Listed) -> None:
    assert any(
        "absent.conf" in line and "no installed plugin is called 'absent'; installed: " in line for line in shown.errors
    )
    assert any("wrong.conf: [main] enabled" in line for line in shown.errors)
    assert all(line.startswith("gofer plugins: ") for line in shown.errors)
    assert shown.plugins


BROKEN = {
    "imports": ("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
    "raises": ("1 / 0", "ZeroDivisionError"),
    "syntax": ("def broken(:", "SyntaxError"),
    "exits": ("import sys; sys.exit(3)", "exit status 3"),
    "ends": ("import os; os._exit(0)", "ends the process with status 0"),
    "ends-7": ("import os; os._exit(7)", "ends the process with status 7"),
    "kills": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "kills the process (SIGKILL)"),
    "hangs": ("import threading; threading.Event().wait()", "takes longer than 12 s"),
    "hook": ("from gofer.hooks import hookimpl\n@hookimpl\ndef gofer_lood(plugin): ...", "did you mean gofer_load"),
    "model": ("from gofer.decorators import remote\n@remote(model='spoon')\ndef f(): ...", "'spoon'"),
    "finds": ("from gofer.agent.plugin import Plugin\nPlugin.find('nobody')['Dog']", "'nobody'"),
    "absent": (None, "No module named 'absent_module'"),
}


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What is said of them all, and of a good one, in one go."""
    site, root = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("root")
    install(site, "good", GOOD)
    for name, (code, _) in BROKEN.items():
        install(site, name, code)
    with pytest.MonkeyPatch.context() as patch:
        installed_in(site, patch)
        return listed("plugins", "--timeout", "12", "--root", str(root))


@pytest.mark.slow
@pytest.mark.xdist_group("listing")  # one process has them tried
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_says_why(tried: dict[str, dict[str, Any]], name: str) -> None:
    assert BROKEN[name][1] in tried[name]["broken"]


@pytest.mark.slow
@pytest.mark.xdist_group("listing")
@pytest.mark.parametrize("name", ["good", "demo"])
def test_broken_plugins_hurt_nobody_else(tried: dict[str, dict[str, Any]], name: str) -> None:
    assert tried[name]["broken"] is None


def test_what_a_plugin_starts_while_it_is_tried_is_ended(site: Path, tmp_path: Path) -> None:
    code = f"""
        import subprocess, time
        subprocess.Popen(["sleep", "600"], env={{"MARK": {str(tmp_path / "mark/x")!r}, "PATH": "/usr/bin:/bin"}})
        time.sleep(600)
    """
    install(site, "starter", code)
    start = time.monotonic()
    assert "takes longer" in listed("plugins", "--timeout", "1.5")["starter"]["broken"]
    assert time.monotonic() - start < 20
    eventually(lambda: not left_behind(tmp_path / "mark"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_a_plugin_starts_while_it_is_tried_is_ended_by_an_interrupt(
    site: Path, tmp_path: Path, number: signal.Signals
) -> None:
    mark = tmp_path / "mark"
    code = f"""
        import subprocess
        subprocess.run(["sleep", "600"], env={{"MARK": {str(mark / "x")!r}, "PATH": "/usr/bin:/bin"}})
    """
    install(site, "starter", code)
    with forkserver.Popen([GOFER, "plugins", "--timeout", "60"], stdout=subprocess.DEVNULL) as gofer_plugins:
        eventually(lambda: left_behind(mark))
        gofer_plugins.send_signal(number)
    eventually(lambda: not left_behind(mark))


def test_a_table_is_plain_where_it_is_read_by_a_program(site: Path, root: Path) -> None:
    install(site, "bad", "1 / 0")
    describe(root, "demo")
    lines = run_gofer("plugins").stdout.splitlines()
    assert lines[0].split() == ["NAME", "VERSION", "DISTRIBUTION", "MODULE", "ENABLED", "DESCRIPTORS", "STATE"]
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert rows["bad"][1:6] == ["1.0", "gofer-plugin-bad", "bad_module", "no", "broken:"]
    assert rows["demo"][2:] == [
        "gofer-plugin-demo",
        "gofer_plugin_demo",
        "yes",
        str(root / "etc/gofer/plugins/demo.conf"),
        "ok",
    ]


def test_a_table_is_framed_on_a_terminal(root: Path) -> None:
    ours, theirs = pty.openpty()
    with forkserver.Popen([GOFER, "adapters"], stdout=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "120"}):
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
    os.close(ours)
    assert "━" in shown.decode() or "─" in shown.decode()
    assert "gofer.messaging.local.adapter:LocalAdapter" in shown.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # how Linux tells that nobody has the other end any more
        return b""


def test_adapters(site: Path) -> None:
    install(site, "odd", "Adapter = 3", group="gofer.adapters", entry="odd_module:Adapter")
    install(site, "gone", "", group="gofer.adapters", entry="gone_module:Adapter")
    found = listed("adapters")
    assert found["local"]["broken"] is None
    assert (found["amqp"]["distribution"], found["amqp"]["broken"]) == ("gofer-adapter-amqp", None)
    assert "not a subclass" in found["odd"]["broken"]
    assert "gone_module" in found["gone"]["broken"]
    assert set(found["local"]) == {"name", "version", "distribution", "value", "broken"}


def test_authenticators(site: Path) -> None:
    code = """
        class Signer:
            def sign(self, digest): ...
            def validate(self, document, digest, signature): ...
        class Half:
            def sign(self, digest): ...
    """
    install(site, "signer", code, group="gofer.authenticators", entry="signer_module:Signer")
    install(site, "half", code, group="gofer.authenticators", entry="half_module:Half")
    found = listed("authenticators")
    assert {name: (one["distribution"], one["broken"]) for name, one in found.items() if name != "half"} == {
        "hmac": ("gofer-authenticator-hmac", None),
        "signer": ("gofer-plugin-signer", None),
        "x509": ("gofer-authenticator-x509", None),
    }
    assert "no method validate" in found["half"]["broken"]


@pytest.mark.parametrize("text", ["0", "nan", "inf", "1e300", "-1", "9" * 400])
def test_a_timeout_that_is_none_is_refused(root: Path, text: str) -> None:
    done = gofer("plugins", f"--timeout={text}")
    assert done.returncode == 2
    assert done.stderr.startswith("gofer plugins: Invalid value for '--timeout': ")
    assert done.stderr.count("\n") == 1


def test_output_that_cannot_be_written_is_reported_in_one_line(root: Path) -> None:
    with open("/dev/full", "w") as full:
        done = forkserver.run([GOFER, "adapters"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (74, "gofer: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("group", ["agent", "audit", "certs", "fleet", "new", "service"])
def test_a_group_without_a_command_shows_its_help(root: Path, group: str) -> None:
    done = gofer(group)
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, lines[0]) == (2, "", f"Usage: gofer {group} [OPTIONS] COMMAND [ARGS]...")
    assert "Commands:" in lines


def test_of_an_endless_argument_the_ends_are_shown(root: Path) -> None:
    done = gofer("adapters", "x" * 100_000)
    assert (done.returncode, len(done.stderr) < 2000) == (2, True), len(done.stderr)
    assert done.stderr.startswith("gofer adapters: Got unexpected extra argument (xx")
    assert done.stderr.endswith("xx) (see gofer adapters --help)\n")


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_as_one_that_nobody_reads(root: Path, closed: str) -> None:
    done = subprocess.run(["sh", "-c", f'"$0" adapters {closed}', GOFER], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("gofer-core" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))
