"""``gofer demo`` from beginning to end, interrupted, and with nothing left behind."""

from __future__ import annotations

import ast
import os
import pty
import re
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gofer.tools.demo import read_steps
from support import forkserver
from support.commands import GOFER, left_behind
from support.waiting import eventually

STEPS = read_steps()


@contextmanager
def a_place(folder: Path) -> Iterator[Path]:
    """The directory in which a demo makes its own. Nothing is in it at the end, and no process knows of it."""
    place = folder / "nowhere"
    place.mkdir()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TMPDIR", str(place))
        environment.setenv("COLUMNS", "120")
        yield place
    assert os.listdir(place) == []
    assert left_behind(place) == []


@pytest.fixture
def nowhere(tmp_path: Path) -> Iterator[Path]:
    with a_place(tmp_path) as place:
        yield place


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a demo says from its beginning to its end."""
    with a_place(tmp_path_factory.mktemp("shown")):
        done = forkserver.run([GOFER, "demo"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def sections(output: str) -> dict[str, str]:
    """Return what is printed behind each step's code, by the step's sentence."""
    found = {}
    for part in output.split("\n# ")[1:]:
        says, *lines = part.splitlines()
        found[says] = "\n".join(line for line in lines if not line.startswith((">>>", "...")))
    return found


def outcome(output: str, code: str) -> str:
    """Return what the step with this piece of code printed."""
    (step,) = [step for step in STEPS if code in step.code]
    return sections(output)[step.says].split("\n\n")[0].strip()


@pytest.mark.xdist_group("demo")  # one process has it shown
def test_it_shows_each_outcome(shown: str) -> None:
    assert outcome(shown, "echo({") == "{'name': 'Fido', 'friends': ['Rex', None]}"
    assert outcome(shown, "age=5") == "'Fido (5) barks: woof'"
    assert outcome(shown, "loud=True") == "'Rover (3) barks: WOOF WOOF WOOF!'"
    assert outcome(shown, "demo.hello") == "'Hello, you!'"
    assert outcome(shown, ".rest(") == "'Fido has rested for 0.3 s'"
    assert outcome(shown, "TooTired") == "Fido is too tired to bark 9 times; caught as TooTired, barks=9"
    late = outcome(shown, "agent(wait=1)")
    assert re.match(r"RequestTimeout: Demo\.progress\(\) at 'demo': no result after 1 s: it was \w+", late)
    *reports, last = outcome(shown, "Bar(").splitlines()
    assert last == "15 units done"
    assert reports[-1] == "working 15/15 unit 15"
    assert len(reports) > 5
    assert re.fullmatch(r"'[0-9a-f-]{36}'", outcome(shown, "agent(wait=0)"))
    assert outcome(shown, ".fly(").startswith("MemberNotFound: Demo.fly() at 'demo': Demo has no remote method 'fly'")
    assert outcome(shown, '"nobody"').startswith("NotFound: Demo.echo() at 'nobody': no agent at this address")
    assert "gofer demo --keep" in shown.split("What to type next:")[1]


@pytest.mark.xdist_group("demo")
def test_it_shows_the_code_that_it_runs(shown: str) -> None:
    code = re.findall(r"^(?:>>>|\.\.\.) (.*)$", shown, re.MULTILINE)
    assert code == [line for step in STEPS for line in step.code.splitlines()]
    for step in STEPS:
        ast.parse(step.code)


@pytest.mark.slow
def test_progress_is_a_live_bar_on_a_terminal(nowhere: Path) -> None:
    ours, theirs = pty.openpty()
    with forkserver.Popen([GOFER, "demo"], stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}) as child:
        os.close(theirs)
        shown = b""
        while chunk := _read(ours):
            shown += chunk
        assert child.wait(10) == 0
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"working .*━.* 15/15", text)
    assert "'Fido (5) barks: woof'" in text


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # how Linux tells that nobody has the other end any more
        return b""


@contextmanager
def running(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[str], str]]]:
    """A demo that runs, and a function that reads what it says until a text comes."""
    command = [GOFER, "demo", *arguments]
    with forkserver.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        assert child.stdout is not None
        said = ""

        def until(text: str) -> str:
            nonlocal said
            assert child.stdout is not None
            while text not in said:
                line = child.stdout.readline()
                assert line, f"it ended without {text!r}: {said}"
                said += line
            return said

        try:
            yield child, until
        finally:
            if child.poll() is None:  # the test has failed: let it clean up after itself
                child.terminate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "code"),
    [
        (signal.SIGINT, 130, "agent(wait=1).Demo().progress"),  # a call that runs on for a while
        (signal.SIGTERM, 143, "rest(0.3)"),
        (signal.SIGHUP, 129, "rest(0.3)"),
    ],
    ids=["INT", "TERM", "HUP"],
)
def test_interrupted_in_the_middle_it_leaves_nothing(
    nowhere: Path, number: signal.Signals, status: int, code: str
) -> None:
    with running() as (child, until):
        until(code)
        child.send_signal(number)
        rest = child.communicate(timeout=30)[0]
    assert (child.returncode, "Traceback" in rest) == (status, False), rest


def test_interrupted_while_it_starts_it_leaves_nothing(nowhere: Path) -> None:
    with running() as (child, until):
        until("Starting")
        eventually(lambda: left_behind(nowhere))  # the first child
        child.send_signal(signal.SIGINT)
        rest = child.communicate(timeout=30)[0]
    assert (child.returncode, "Traceback" in rest) == (130, False), rest


@pytest.mark.slow
def test_interrupted_again_and_again_it_still_leaves_nothing(nowhere: Path) -> None:
    with running() as (child, until):
        until("agent(wait=1).Demo().progress")
        while child.poll() is None:
            child.send_signal(signal.SIGINT)
            try:
                child.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
        rest = child.communicate(timeout=30)[0]
    assert (child.returncode, "Traceback" in rest) == (130, False), rest


@pytest.mark.slow
def test_kept_it_takes_calls_from_another_terminal(nowhere: Path) -> None:
    with running("--keep") as (child, until):
        said = until("tail -f")
        typed = [line.strip() for line in said.split("In a second terminal, type:")[1].splitlines() if line.strip()]
        export, *commands, tail = typed
        assert export.startswith(f"export GOFER_ROOT={nowhere}/")
        assert tail.startswith("tail -f ")
        eventually(lambda: "Demo.fly" in Path(tail.split()[-1]).read_text())
        script = "\n".join(["set -e", export, *commands])
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("hello\nRover (3) barks: WOOF WOOF!\n10 units done\nPlugins:\n")
        assert done.stdout.endswith("\nHello, you!\n")
        assert "working 10/10" in done.stderr
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)
    assert child.returncode == 0


@pytest.mark.slow
def test_kept_it_ends_as_well_when_it_is_terminated(nowhere: Path) -> None:
    with running("--keep") as (child, until):
        until("tail -f")
        child.terminate()
        child.communicate(timeout=30)
    assert child.returncode == 0


@pytest.mark.slow
def test_kept_it_reports_when_the_agent_dies(nowhere: Path) -> None:
    with running("--keep") as (child, until):
        until("tail -f")
        (agent,) = [one for one in left_behind(nowhere) if "-f" in one.cmdline()]
        agent.kill()
        rest = child.communicate(timeout=30)[0]
    assert child.returncode == 1
    assert "goferd has ended with status -9" in rest


def test_a_reader_that_goes_away_ends_it(nowhere: Path) -> None:
    with running() as (child, until):
        until("# Keyword arguments.")
        assert child.stdout is not None
        child.stdout.close()
        assert child.wait(30) == 141


def test_without_the_plugin_it_says_what_to_install(nowhere: Path, tmp_path: Path) -> None:
    # An environment like this one, but for the plugin.
    site = tmp_path / "site"
    site.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "gofer_plugin_demo" not in entry.name and entry.suffix != ".pth":
            (site / entry.name).symlink_to(entry)
    core = Path(__file__).parents[2] / "gofer_core"
    code = f"""
import sys
sys.path += [{str(core)!r}, {str(site)!r}]
from gofer.tools.main import main
sys.exit(main(["demo"]))
"""
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "gofer demo: the plugin demo is not installed; pip install gofer-plugin-demo\n"
