"""The pages of the documentation, as what they say to type: each block is run, read or compared as a reader would.

A page is worked through from top to bottom: shell blocks in one bash, Python blocks in one interpreter, both in the
page's own HOME and with its own GOFER_ROOT. Comments say what a block is, or do something between blocks:

``<!-- file: PATH -->``
    The block is written there; a PATH that begins with /etc/gofer is below GOFER_ROOT, and checked as goferd does.
``<!-- agent.conf -->``, ``<!-- descriptor -->``
    The block is such a file, read by what goferd reads it with; nothing may be wrong with it.
``<!-- output -->``
    The block is what the one before has printed. ``...`` stands for anything.
``<!-- status: 3 -->``
    The last command of the shell block ends so.
``<!-- not run: WHY -->``
    The block is for reading only.
``<!-- agent -->``, ``<!-- demo agent -->``
    Start the broker, and goferd anew, with what /etc/gofer holds by now; with the demo plugin's own descriptor.

In Python, ``# -> VALUE`` behind a statement is the value's repr, and ``# raises NAME`` what it ends with. Blocks of
other languages than python, sh, ini, json and toml are not looked at.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import gofer_plugin_demo
from gofer.agent.config import Problem, read_agent, read_descriptor
from gofer.proxy import Agent
from gofer.root import Root

from support.commands import left_behind
from support.contract_table import BEGIN, END
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.waiting import eventually

__all__ = ["Block", "Note", "Page", "read_page"]

_FENCE = re.compile(r"^```(\w*)\s*$")
_COMMENT = re.compile(r"^<!--\s*(.*?)\s*-->$")
_DOING = re.compile(r"(agent|demo agent)$")
_LOADED = r"plugin {}: loaded from .*, (?:without a queue|queue (\S+) at \S+)$"
_TIMEOUT = 60.0


def check(right: bool, wrong: str) -> None:
    """Fail with a text, and nothing else."""
    if not right:
        raise AssertionError(wrong)


@dataclass(frozen=True)
class Note:
    """A comment that does something between blocks."""

    line: int
    text: str


@dataclass
class Block:
    """A fenced block: its language, its text, and the comments directly above it."""

    line: int
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)


def read_page(text: str) -> list[Block | Note]:
    """Read the blocks and comments of a page, in their order."""
    items: list[Block | Note] = []
    marks: dict[str, str] = {}
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        comment, fence = _COMMENT.match(line), _FENCE.match(line)
        if comment is not None and f"{line}\n" in {BEGIN, END}:
            continue  # between them stands the table that the contract's run writes
        if comment is not None and _DOING.match(comment[1]):
            items.append(Note(number, comment[1]))
        elif comment is not None:
            name, _, value = comment[1].partition(":")
            marks[name.strip()] = value.strip()
        elif fence is not None:
            inside = []
            for _, more in lines:
                if more.startswith("```"):
                    break
                inside.append(more)
            items.append(Block(number, fence[1], "\n".join([*inside, ""]), marks))
            marks = {}
        elif line.strip():
            assert not marks, f"line {number}: a comment {marks} that belongs to no block"
    return items


class Page:
    """Where a page's blocks are worked through. A context manager."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.home = folder / "home"
        self.root = folder / "root"
        self.printed = ""
        self._blocks = 0
        self._stack = ExitStack()
        self._python: subprocess.Popen[str] | None = None
        self._agent: AgentProcess | None = None

    def __enter__(self) -> Page:
        for directory in (self.home, self.root / "etc/gofer/plugins", self.root / "run/gofer", self.folder / "site"):
            directory.mkdir(parents=True)
        for directory in (self.folder, *self.folder.rglob("*")):
            directory.chmod(0o700)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GOFER", "PIP_", "PYTHON"))}
        environ = {
            **kept,
            "HOME": str(self.home),
            "GOFER_ROOT": str(self.root),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(self.folder / "site"), str(self.home)]),
            # What the reader's pip installs goes into a directory of its own, out of what is here.
            "PIP_TARGET": str(self.folder / "site"),
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_COMPILE": "0",  # compile nothing: what runs is compiled when it is imported
            "PIP_ROOT_USER_ACTION": "ignore",
        }
        self._status, status = os.pipe()
        self._bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            env={**environ, "STATUS": str(status)},
            cwd=self.home,
            pass_fds=[status],
            start_new_session=True,
            umask=0o022,  # that of a reader who does as the README says
            text=True,
        )
        os.close(status)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._python is not None:
            self._python.communicate("", timeout=_TIMEOUT)
        self._stack.close()
        os.killpg(self._bash.pid, signal.SIGTERM)  # what was put into the background, too
        self._bash.communicate("exit\n")
        os.close(self._status)
        if kind is None:
            eventually(lambda: not left_behind(self.folder), what=f"{left_behind(self.folder)}")
        for process in left_behind(self.folder):
            process.kill()

    def work_through(self, items: list[Block | Note]) -> None:
        """Do all that the blocks and comments say."""
        for item in items:
            try:
                if isinstance(item, Note):
                    self._do(item.text)
                else:
                    self._take(item)
            except AssertionError as failed:
                raise AssertionError(f"{self.name}, line {item.line}: {failed}") from failed

    def _do(self, text: str) -> None:
        self._start_agent(demo=text == "demo agent")

    def _take(self, block: Block) -> None:
        marks = block.marks
        unknown = set(marks) - {"file", "agent.conf", "descriptor", "output", "status", "not run"}
        check(not unknown, f"unknown comment {unknown}")
        if "not run" in marks:
            check(marks["not run"], "it is not run, and nobody says why")
        elif "file" in marks:
            self._write(marks["file"], block.text)
        elif "agent.conf" in marks or "descriptor" in marks:
            self._check_configuration(block, descriptor="descriptor" in marks)
        elif "output" in marks:
            check(_matches(block.text, self.printed), f"it printed:\n{self.printed}")
        elif block.language == "sh":
            status = self._shell(block.text)
            check(status == int(marks.get("status", 0)), f"status {status}, and it printed:\n{self.printed}")
        elif block.language == "python":
            self._run_python(block.text)
        elif block.language == "toml":
            tomllib.loads(block.text)
        else:
            check(block.language not in ("ini", "json"), "nothing says what this is")

    # -- shell and Python -----------------------------------------------------------------------------------------

    def _shell(self, text: str) -> int:
        self._blocks += 1  # a file each: what runs in the background may go on to write into its own
        script, printed = self.folder / f"{self._blocks}.sh", self.folder / f"{self._blocks}.printed"
        script.write_text(text)
        assert self._bash.stdin is not None
        # The first command that fails counts, not only the last one.
        self._bash.stdin.write(
            f"failed=0; trap 'failed=$?' ERR; . '{script}' </dev/null >'{printed}' 2>&1; trap - ERR; "
            "echo $failed >&$STATUS\n"
        )
        self._bash.stdin.flush()
        ready = select.select([self._status], [], [], _TIMEOUT)[0]
        check(ready, f"it does not end, and has printed:\n{printed.read_text()}")
        status = os.read(self._status, 10).decode().strip()
        self.printed = printed.read_text()
        return int(status)

    def _run_python(self, text: str) -> None:
        if self._python is None:
            assert self._shell("env -0") == 0
            environ = dict(line.split("=", 1) for line in self.printed.split("\0") if line)
            self._python = subprocess.Popen(
                [sys.executable, Path(__file__).with_name("interpreter.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environ,
                cwd=self.home,
                text=True,
            )
        assert self._python.stdin is not None
        assert self._python.stdout is not None
        self._python.stdin.write(json.dumps(text) + "\n")
        self._python.stdin.flush()
        ready = select.select([self._python.stdout], [], [], _TIMEOUT)[0]
        check(ready, "it does not end")
        answer = self._python.stdout.readline()
        check(answer, "it has ended the interpreter")
        self.printed, wrong = json.loads(answer)
        check(wrong is None, f"{wrong}; and it printed:\n{self.printed}")

    # -- files, agents --------------------------------------------------------------------------------------------

    def _write(self, name: str, text: str) -> None:
        path = self.root / name[1:] if name.startswith("/") else self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        root = Root(Path(str(path).partition("/etc/gofer/")[0]))
        if path.is_relative_to(root.descriptors):
            self._nothing_wrong(read_descriptor(root, path)[1])
        elif path.is_relative_to(root.etc):
            self._nothing_wrong(read_agent(root)[1])
        elif name.endswith(".toml"):
            tomllib.loads(text)

    def _check_configuration(self, block: Block, *, descriptor: bool) -> None:
        suffix = "json" if block.language == "json" else "conf"
        root = Root(self.folder / f"checked-{block.line}")
        root.ensure(root.descriptors)
        root.ensure(root.conf_d)
        if descriptor:
            path = root.descriptors / f"checked.{suffix}"
            path.write_text(block.text)
            path.chmod(0o600)
            found, problems = read_descriptor(root, path)
            check(found is not None or bool(problems), "it was not read")
        else:
            path = root.conf_d / f"checked.{suffix}"
            path.write_text(block.text)
            path.chmod(0o600)
            problems = read_agent(root)[1]
        self._nothing_wrong(problems)

    @staticmethod
    def _nothing_wrong(problems: list[Problem]) -> None:
        check(not problems, "\n".join(map(str, problems)))

    def _start_agent(self, *, demo: bool) -> None:
        if demo:
            text = Path(gofer_plugin_demo.__file__).with_name("demo.conf").read_text()
            self._write("/etc/gofer/plugins/demo.conf", text)
        if self._agent is None:
            self._stack.enter_context(LocalBroker(str(self.root / "run/gofer/broker.sock")))
            path = (self.folder / "site", self.home)
            self._agent = self._stack.enter_context(AgentProcess(self.root, path=path))
        else:
            self._agent.stop()
        before = self._agent.log.stat().st_size if self._agent.log.exists() else 0
        agent = self._agent.start()
        names = [path.stem for path in (self.root / "etc/gofer/plugins").iterdir()]

        def loaded() -> list[re.Match[str]]:
            said = agent.log.read_bytes()[before:].decode()
            return [
                found for name in names if (found := re.search(_LOADED.format(re.escape(name)), said, re.MULTILINE))
            ]

        eventually(lambda: len(loaded()) == len(names), what=agent.tail())
        url = f"local://{self.root}/run/gofer/broker.sock"
        for address in filter(None, (found[1] for found in loaded())):
            with Agent(url, address) as caller:
                until_it_answers(caller, agent.tail())


def _matches(expected: str, printed: str) -> bool:
    pattern = re.escape(expected.strip()).replace(re.escape("..."), ".*")
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None
