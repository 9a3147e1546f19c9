"""``gofer rmi``: where URL, secrets and passwords come from; waiting, showing, interrupting; completion."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from gofer.messaging.adapter import DeclareQueue
from gofer.messaging.url import URL
from gofer.proxy import Agent
from support import forkserver
from support.commands import GOFER, gofer
from support.goferd import AgentProcess
from support.local_clients import connected
from support.localbroker import LocalBroker
from support.plugins import install
from support.presence import until_it_answers
from support.signing import SIGNER
from support.waiting import eventually

pytestmark = pytest.mark.xdist_group("tools-rmi-places")  # one process makes what the module shares

KENNEL = """
import time
from pathlib import Path

from gofer.agent.rmi import Context
from gofer.decorators import remote


class Dog:
    @remote
    def give(self, what):
        return what

    @remote(secret="bone")
    def guard(self):
        return "let in"

    @remote
    def wait_for(self, path):
        Path(path + ".started").touch()
        while not Context.current().cancelled():
            time.sleep(0.01)
        Path(path).write_text("cancelled")


@remote
def howl():
    return "aooo"
"""

DESCRIPTOR = "[main]\nenabled = 1\nthreads = 4\n\n[messaging]\nurl = {url}\n\n[model]\nqueue = kennel\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("places")


@pytest.fixture(scope="module")
def url(place: Path) -> Iterator[str]:
    """The URL of a broker at which goferd serves a kennel: at ``kennel``, and with signed requests at ``signed``."""
    site = place / "site"
    site.mkdir()
    install(site, "kennel", KENNEL)
    (site / "signer.py").write_text(SIGNER)
    path = str(place / "agent/run/gofer/broker.sock")
    with LocalBroker(path) as broker, AgentProcess(place / "agent", path=(site,)) as agent:
        agent.descriptor("kennel", DESCRIPTOR.format(url=broker.url))
        signed = DESCRIPTOR.format(url=f"{broker.url}\nauthenticator = signer.Signer").replace("= kennel", "= signed")
        agent.descriptor("signed", signed.replace("[main]", "[main]\nplugin = kennel"))
        agent.start()
        with Agent(broker.url, "kennel") as caller:
            until_it_answers(caller, agent.tail())
        eventually(lambda: "signed: loaded" in agent.tail(), what=agent.tail())
        yield broker.url


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The caller.conf of this test; nothing of the environment that runs it says where to call."""
    for name in ("GOFER_URL", "GOFER_PROFILE", "GOFER_CALLER_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOFER_ROOT", str(tmp_path / "root"))
    path = tmp_path / "root/etc/gofer/caller.conf"
    path.parent.mkdir(parents=True)
    return path


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def refused(done: subprocess.CompletedProcess[str], status: int = 2) -> str:
    assert (done.returncode, done.stdout) == (status, ""), done
    (line,) = done.stderr.splitlines()
    return line


# -- the broker's URL -----------------------------------------------------------------------------------------------


def test_the_url_comes_from_the_option_the_environment_or_a_profile(url: str, conf: Path, tmp_path: Path) -> None:
    nowhere = f"local://{tmp_path}/nowhere.sock"
    call = ("rmi", "-a", "kennel", "-t", "kennel.howl")
    assert said(gofer(*call, environ={"GOFER_URL": url})) == "aooo\n"
    assert said(gofer(*call, "-u", url, environ={"GOFER_URL": nowhere})) == "aooo\n"
    write(conf, f"[profile default]\nurl = {url}\naddress = kennel\n\n[profile far]\nurl = {nowhere}\naddress = far\n")
    assert said(gofer(*call)) == "aooo\n"
    assert said(gofer("rmi", "-t", "kennel.howl")) == "aooo\n"
    assert "nowhere.sock" in refused(gofer("rmi", "--profile", "far", "-t", "kennel.howl"), 6)
    assert "nowhere.sock" in refused(gofer("rmi", "-t", "kennel.howl", environ={"GOFER_PROFILE": "far"}), 6)
    assert said(gofer("rmi", "--profile", "far", "-a", "kennel", "-t", "kennel.howl", "-u", url)) == "aooo\n"


@pytest.mark.parametrize(
    ("text", "arguments", "says"),
    [
        (
            "[profile lab]\nurl=local://\n",
            ["--profile", "lba"],
            "no [profile lba] (did you mean 'lab'?); profiles: lab",
        ),
        ("", ["--profile", "lab"], "no [profile lab]; profiles: none"),
        (
            "[profile default]\nulr=local://\n",
            [],
            "[profile default] ulr: unknown (did you mean 'url'?); allowed: url, ",
        ),
        ("[profile default]\nurl=http://x\n", [], "unknown protocol 'http'"),
        (
            "[profile default]\nurl=local:// # this machine\n",
            [],
            "[profile default] url: has a comment after its value; write comments on their own lines",
        ),
        ("[profile default]\nhost_validation=perhaps\n", [], "allowed: 1, yes, true"),
        ("url=local://\n", [], "not an ini file"),
    ],
)
def test_a_profile_that_is_wrong_is_reported(conf: Path, text: str, arguments: list[str], says: str) -> None:
    write(conf, text)
    assert says in refused(gofer("rmi", *arguments, "-a", "kennel", "-t", "kennel.howl"))


def test_a_profile_with_a_password_is_for_its_owner_alone(conf: Path) -> None:
    write(conf, "[profile default]\nurl = amqp://jane:hidden@127.0.0.1\n", 0o644)
    line = refused(gofer("rmi", "-a", "kennel", "-t", "kennel.howl"))
    assert "caller.conf: mode 0644 lets others read or change it. Fix: chmod 600 /" in line
    assert "hidden" not in line


# -- secrets and passwords --------------------------------------------------------------------------------------------


def test_a_secret_is_read_from_a_file_of_its_owner(url: str, tmp_path: Path) -> None:
    call = ("rmi", "-u", url, "-a", "kennel", "-t", "Dog.guard", "--secret-file")
    assert said(gofer(*call, str(write(tmp_path / "secret", "bone\n")))) == "let in\n"
    assert said(gofer(*call, "-", stdin="bone\n")) == "let in\n"
    assert "mode 0644 lets others read or change it" in refused(
        gofer(*call, str(write(tmp_path / "open", "bone\n", 0o644)))
    )
    assert "the first line of" in refused(gofer(*call, str(write(tmp_path / "empty", "\n"))))
    assert "wrong secret" in refused(gofer(*call, str(write(tmp_path / "other", "ball\n"))), 5)


def test_a_user_and_the_password_from_a_file_go_with_the_request(url: str, tmp_path: Path) -> None:
    with closing(connected(URL.parse(url).path)) as driver:
        driver.ask(DeclareQueue("asked", auto_delete=True))
        driver.subscribe("asked")
        file = str(write(tmp_path / "password", "s3cret\n"))
        said(gofer("rmi", "-u", url, "-a", "asked", "-t", "A.b", "-w", "0", "--user", "jane", "--password-file", file))
        found = driver.one()
    assert json.loads(found.body)["pam"] == {"user": "jane", "password": "s3cret"}


def test_a_password_is_of_a_user(url: str) -> None:
    call = ("rmi", "-u", url, "-a", "kennel", "-t", "Dog.guard")
    assert "a password needs a user: --user NAME" in refused(gofer(*call, "--password-file", "x"))


class Terminal:
    """A command at a terminal of its own, which is its standard input and output and what it asks questions at."""

    def __init__(self, command: list[str], environ: Mapping[str, str]) -> None:
        self._terminal, theirs = pty.openpty()
        self._child = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "dumb", **environ},
        )
        os.close(theirs)
        self.shown = ""

    def until(self, pattern: str) -> None:
        """Read what it shows until a pattern is in it."""
        while not re.search(pattern, self.shown):
            assert self._read(), self.shown

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def end(self) -> int:
        """Wait for its end, and return its exit status."""
        while self._read():
            pass
        os.close(self._terminal)
        return self._child.wait(60)

    def _read(self) -> bool:
        assert select.select([self._terminal], [], [], 60)[0], self.shown
        try:
            chunk = os.read(self._terminal, 4096)
        except OSError:  # how Linux tells that nobody has the other end any more
            return False
        self.shown += chunk.decode().replace("\r\n", "\n")
        return bool(chunk)


def test_a_secret_is_asked_for_at_the_terminal_and_not_shown(url: str) -> None:
    terminal = Terminal([GOFER, "rmi", "-a", "kennel", "-t", "Dog.guard", "--secret"], {"GOFER_URL": url})
    terminal.until("Secret: ")
    terminal.type("bone\n")
    assert terminal.end() == 0
    assert "let in" in terminal.shown
    assert "bone" not in terminal.shown


def test_without_a_terminal_it_says_which_option_reads_a_file(url: str) -> None:
    done = forkserver.run(
        [GOFER, "rmi", "-u", url, "-a", "kennel", "-t", "Dog.guard", "--user", "jane"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        start_new_session=True,  # without a terminal, wherever the tests are run
    )
    assert "no terminal to ask for the password of jane at; use --password-file FILE" in refused(done)


# -- waiting, showing, interrupting ---------------------------------------------------------------------------------


def test_json_is_indented_on_a_terminal_and_one_line_elsewhere(url: str) -> None:
    call = [GOFER, "rmi", "-u", url, "-a", "kennel", "-t", "Dog.give", '{"a": [1, "ä"]}']
    terminal = Terminal(call, {})
    assert terminal.end() == 0
    assert terminal.shown == '{\n  "a": [\n    1,\n    "ä"\n  ]\n}\n'
    assert said(gofer(*call[1:])) == '{"a": [1, "ä"]}\n'


def test_timeout_is_how_long_the_method_may_run(url: str, tmp_path: Path) -> None:
    call = ("rmi", "-u", url, "-a", "kennel", "-t", "Dog.wait_for", "--timeout", "0.2", str(tmp_path / "x"))
    done = gofer(*call)
    assert done.returncode == 1
    assert "ExecutionTimeout: Dog.wait_for() at 'kennel' took longer than 0.2 s" in done.stderr


@pytest.mark.parametrize("by", ["a URL", "a profile"])
def test_interrupted_it_prints_how_to_cancel_and_that_cancels(url: str, conf: Path, tmp_path: Path, by: str) -> None:
    mark = tmp_path / "mark"
    write(conf, f"[profile lab]\nurl = {url}\naddress = kennel\n")
    check_interrupted(["-u", url, "-a", "kennel"] if by == "a URL" else ["--profile", "lab"], mark)


def test_interrupted_in_a_signed_call_it_prints_a_cancel_that_signs(
    url: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(place / "site"))
    cancel = check_interrupted(["-u", url, "-a", "signed", "-A", "signer.Signer"], tmp_path / "mark")
    at = cancel.index("-A")
    assert "security.authentication" in refused(gofer(*cancel[1:at], *cancel[at + 2 :]), 5)


def check_interrupted(where: list[str], mark: Path) -> list[str]:
    """Interrupt a call, and check that the command that it prints cancels the request; return that command."""
    command = [GOFER, "rmi", *where, "-t", "Dog.wait_for", str(mark)]
    with forkserver.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        eventually(Path(f"{mark}.started").exists)
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=30)
    assert child.returncode == 130
    found = re.fullmatch(r"gofer rmi: interrupted; request (\S+) may still run\. To cancel it: (gofer .*)\n", told)
    assert found is not None, told
    cancel = shlex.split(found[2])
    assert json.loads(said(gofer(*cancel[1:]))) == [found[1]]
    eventually(lambda: mark.exists() and mark.read_text() == "cancelled")
    return cancel


def test_wait_for_agent_waits_for_the_broker_and_the_agent(place: Path, tmp_path: Path, url: str) -> None:
    """``url`` is asked for because it makes the plugin."""
    socket = tmp_path / "late/run/gofer/broker.sock"
    call = [GOFER, "rmi", "-u", f"local://{socket}", "-a", "kennel", "-t", "kennel.howl", "--wait-for-agent", "60s"]
    with forkserver.Popen([*call, "-v"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        child.stderr.readline()  # it has tried, and there was nothing
        with LocalBroker(str(socket)) as broker, AgentProcess(tmp_path / "late", path=(place / "site",)) as agent:
            agent.descriptor("kennel", DESCRIPTOR.format(url=broker.url))
            agent.start()
            assert child.communicate(timeout=60)[0] == "aooo\n"
    assert child.returncode == 0


def test_wait_for_agent_gives_up(url: str, tmp_path: Path) -> None:
    call = ("rmi", "-t", "Dog.give", "--wait-for-agent", "1", "x")
    assert "no agent at this address" in refused(gofer(*call, "-u", url, "-a", "nobody"), 4)
    assert "none.sock" in refused(gofer(*call, "-u", f"local://{tmp_path}/none.sock", "-a", "nobody"), 6)


# -- completion -------------------------------------------------------------------------------------------------------


def complete(words: str, environ: Mapping[str, str]) -> list[str]:
    """Return what bash is given for a line that ends in an unfinished word."""
    number = str(len(words.split(" ")) - 1)
    asked = {"_GOFER_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": number}
    return [line.partition(",")[2] for line in said(gofer(environ={**asked, **environ})).split()]


def test_commands_options_and_names_are_completed(conf: Path) -> None:
    write(conf, "[profile lab]\nurl = local://\n\n[profile far]\nurl = local://\n")
    assert complete("gofer a", {}) == ["agent", "adapters", "authenticators", "audit"]
    assert complete("gofer agent re", {}) == ["reload", "requests", "retry"]
    assert complete("gofer new p", {}) == ["plugin"]
    assert complete("gofer rmi --wait", {}) == ["--wait", "--wait-for-agent"]
    assert complete("gofer rmi --profile l", {}) == ["lab"]
    assert complete("gofer rmi -A h", {}) == ["hmac"]


def test_targets_are_completed_by_asking_the_agent(url: str, conf: Path, tmp_path: Path) -> None:
    place = {"GOFER_URL": url}
    assert complete("gofer rmi -a kennel -t Dog.", place) == ["Dog.give", "Dog.guard", "Dog.wait_for"]
    assert "kennel.howl" in complete("gofer rmi -a kennel -t ", place)
    assert complete("gofer rmi -a kennel --target Admin.he", place) == ["Admin.hello", "Admin.help"]
    assert complete(f"gofer rmi -u local://{tmp_path}/none.sock -a kennel -t Dog.", {}) == []
    assert complete("gofer rmi -t Dog.", place) == []
    write(conf, f"[profile lab]\nurl = {url}\naddress = kennel\n")
    assert complete("gofer rmi --profile lab -t Dog.gi", {}) == ["Dog.give"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_its_script(shell: str) -> None:
    script = said(gofer("completion", shell))
    assert f"_GOFER_COMPLETE={shell}_complete" in script
    assert "gofer" in script


def test_bash_itself_completes(url: str, tmp_path: Path) -> None:
    code = f"""
export PATH={shlex.quote(os.path.dirname(GOFER))}:$PATH GOFER_URL={shlex.quote(url)}
eval "$(gofer completion bash)"
COMP_WORDS=(gofer rmi -a kennel -t Dog.gu) COMP_CWORD=5
_gofer_completion gofer Dog.gu -t
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("Dog.guard\n", "")
