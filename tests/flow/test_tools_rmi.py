"""``gofer rmi`` as a child process, against goferd on the local broker."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import NotFound
from gofer.messaging.adapter import DeclareQueue
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer.testing._contract.driver import Driver
from gofer.testing.proxy import Filter, Proxy
from support import forkserver
from support.certificates import Certificates
from support.commands import GOFER, gofer
from support.goferd import AgentProcess
from support.local_clients import connected
from support.localbroker import LocalBroker
from support.plugins import install
from support.signing import SIGNER
from support.waiting import eventually

pytestmark = pytest.mark.xdist_group("tools-rmi")  # one process makes what the module shares

KENNEL = '''
import time
from pathlib import Path

from gofer.agent.rmi import Context
from gofer.decorators import fork, remote
from gofer.errors import NotFound
from gofer.hooks import hookimpl


class Unheard(Exception):
    """Of a module that callers do not have."""


class Dog:
    def __init__(self, name="Rover", age=3):
        self.name, self.age = name, age

    @remote
    def told(self, *args, **kws):
        return [list(args), kws]

    @remote
    def bark(self, words):
        return f"{self.name} ({self.age}): {words}"

    @remote
    def give(self, text):
        return text

    @remote
    def fail(self, kind, words):
        raise {"ValueError": ValueError, "Unheard": Unheard, "NotFound": NotFound}[kind](words)

    @remote
    async def fail_later(self, kind, words):
        self.fail(kind, words)

    @remote
    @fork
    def fail_forked(self, kind, words):
        self.fail(kind, words)

    @remote
    async def nap(self, seconds):
        return seconds

    @remote
    @fork
    def run(self, metres):
        return metres

    @remote
    def dig(self, path, holes=3, pause=0):
        progress = Context.current().progress
        progress.total = holes
        for hole in range(holes):
            time.sleep(pause)
            progress.details = f"hole {hole + 1}"
            progress.completed = hole + 1
        Path(path).write_text("dug")
        return holes

    @remote
    def wait_for(self, path):
        while not Path(path).exists():
            time.sleep(0.01)
        return Context.current().data

    @remote(secret="bone")
    def guard(self):
        return "never without the secret"

    @remote
    def refused(self):
        return "never"


@remote
def howl():
    return "aooo"


@hookimpl
def gofer_accept(request):
    if request.method == "refused":
        raise PermissionError("not on a Sunday")
'''

DESCRIPTOR = """
[main]
enabled = 1
threads = 4

[messaging]
url = local://{socket}
{more}

[model]
queue = {queue}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rmi")


@pytest.fixture(scope="module")
def site(place: Path) -> Path:
    """A directory on the Python path of the agent, and of the commands that are given it."""
    site = place / "site"
    site.mkdir()
    (site / "signer.py").write_text(SIGNER)
    install(site, "kennel", KENNEL)
    return site


@pytest.fixture(scope="module")
def url(place: Path, site: Path) -> Iterator[str]:
    """The URL of a broker that has goferd with a kennel at the queues ``kennel`` and, signed, ``signed``."""
    path = str(place / "root/run/gofer/broker.sock")
    with LocalBroker(path) as broker, AgentProcess(place / "root", path=(site,)) as agent:
        agent.descriptor("kennel", DESCRIPTOR.format(socket=path, queue="kennel", more=""))
        more = "authenticator = signer.Signer"
        agent.descriptor(
            "signed",
            DESCRIPTOR.format(socket=path, queue="signed", more=more).replace(
                "enabled = 1", "enabled = 1\nplugin = kennel"
            ),
        )
        agent.start()
        eventually(lambda: is_there(broker.url, "kennel"), what=agent.tail())
        eventually(lambda: "signed: loaded" in agent.tail(), what=agent.tail())
        yield broker.url


def is_there(url: str, address: str) -> bool:
    with Agent(url, address, wait=5) as agent:
        try:
            return bool(agent.Admin().hello())
        except (NotFound, TimeoutError):
            return False


@pytest.fixture
def queue(url: str) -> Iterator[Driver]:
    """A connection, subscribed to the queue ``replies``, which it has made."""
    with closing(connected(URL.parse(url).path)) as driver:
        driver.ask(DeclareQueue("replies", auto_delete=True))
        driver.subscribe("replies")
        yield driver


def rmi(url: str, *arguments: str, address: str = "kennel", **more: Any) -> subprocess.CompletedProcess[str]:
    return gofer("rmi", "-u", url, "-a", address, *arguments, **more)


def value(done: subprocess.CompletedProcess[str]) -> Any:
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout)


def only_line(done: subprocess.CompletedProcess[str], status: int) -> str:
    """Return the one line on standard error of a command that ended with a status and printed nothing else."""
    assert (done.returncode, done.stdout) == (status, ""), done
    (line,) = done.stderr.splitlines()
    assert line.startswith("gofer rmi: ")
    return line


# -- values -------------------------------------------------------------------------------------------------------


def test_text_is_printed_as_it_is(url: str) -> None:
    assert rmi(url, "-t", "Dog.bark", "wuff ä€").stdout == "Rover (3): wuff ä€\n"
    assert rmi(url, "-t", "Dog.give", "two\nlines").stdout == "two\nlines\n"


def test_other_values_are_one_line_of_json(url: str) -> None:
    assert rmi(url, "-t", "Dog.give", '{"a": [1, null, "ä"]}').stdout == '{"a": [1, null, "ä"]}\n'
    assert rmi(url, "-t", "Dog.give", "null").stdout == "null\n"


def test_json_is_asked_for_text_too(url: str) -> None:
    assert rmi(url, "-t", "Dog.bark", "wuff", "--json").stdout == '"Rover (3): wuff"\n'


def test_a_value_that_the_terminal_cannot_show_is_spelled_out(url: str) -> None:
    done = rmi(url, "-t", "Dog.give", "ä€", environ={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert (done.returncode, done.stdout) == (0, "\\xe4\\u20ac\n")


@pytest.mark.parametrize(
    ("typed", "means"),
    [
        (["3"], [[3], {}]),
        (["-0.5", "1e3"], [[-0.5, 1000.0], {}]),
        (["true", "false", "null"], [[True, False, None], {}]),
        (['{"a": 1}', '[1, "2"]'], [[{"a": 1}, [1, "2"]], {}]),
        (["three", "3 dogs", "", "True", "0x10"], [["three", "3 dogs", "", "True", "0x10"], {}]),
        (['"3"'], [['"3"'], {}]),
        (["NaN", "Infinity", "1e999"], [["NaN", "Infinity", "1e999"], {}]),
        (["{broken", "[1,", "[" * 100_000], [["{broken", "[1,", "[" * 100_000], {}]),
        (["a=1", "x", "b=two", "c="], [["x"], {"a": 1, "b": "two", "c": ""}]),
        (["a==b", "a-b=1", "=1", "1a=2"], [["a-b=1", "=1", "1a=2"], {"a": "=b"}]),
        (["--", "-x", "-w", "5"], [["-x", "-w", 5], {}]),
    ],
    ids=lambda typed: " ".join(map(str, typed))[:30],
)
def test_arguments_are_json_where_they_are_that_and_text_elsewhere(url: str, typed: list[str], means: object) -> None:
    before = [] if typed[0] == "--" else ["--"]  # or a negative number would be an option
    assert value(rmi(url, "-t", "Dog.told", *before, *typed)) == means


def test_input_gives_all_arguments(url: str) -> None:
    assert value(rmi(url, "-t", "Dog.told", "-i", '[["3", null], {"x": 1}]')) == [["3", None], {"x": 1}]
    assert value(rmi(url, "-t", "Dog.told", "-i", "[[1]]")) == [[1], {}]
    assert value(rmi(url, "-t", "Dog.told", "-i", '{"x": 1}')) == [[], {"x": 1}]
    assert value(rmi(url, "-t", "Dog.told", "-i", "-", stdin='[["from stdin"], {}]')) == [["from stdin"], {}]


def test_constructor_arguments(url: str) -> None:
    assert rmi(url, "-t", "Dog.bark", "wuff", "-c", '[["Fido"], {"age": 7}]').stdout == "Fido (7): wuff\n"


def test_a_function_is_called_by_its_plugins_or_its_modules_name(url: str) -> None:
    assert rmi(url, "-t", "kennel.howl").stdout == "aooo\n"
    assert rmi(url, "-t", "kennel_module.howl").stdout == "aooo\n"


def test_local_is_the_broker_of_gofer_root(url: str, place: Path) -> None:
    done = gofer("rmi", "-a", "kennel", "-t", "kennel.howl", environ={"GOFER_ROOT": str(place / "root")})
    assert done.stdout == "aooo\n"


# -- requests that are not waited for -----------------------------------------------------------------------------


def test_without_waiting_the_serial_number_is_printed_and_the_method_runs(url: str, tmp_path: Path) -> None:
    done = rmi(url, "-t", "Dog.dig", "-w", "0", str(tmp_path / "hole"))
    assert re.fullmatch(r"[0-9a-f-]{36}\n", done.stdout)
    eventually((tmp_path / "hole").exists)


def test_replies_go_where_they_are_sent_with_their_data(url: str, tmp_path: Path, queue: Driver) -> None:
    done = rmi(url, "-t", "Dog.bark", "-r", "replies", "-d", '{"mine": [1]}', "wuff")
    replies = [json.loads(one.body) for one in queue.take(3)]
    assert {reply["sn"] for reply in replies} == {done.stdout.strip()}
    assert [reply.get("status") for reply in replies] == ["accepted", "started", None]
    assert [reply["data"] for reply in replies] == [{"mine": [1]}] * 3
    assert replies[-1]["result"] == {"retval": "Rover (3): wuff"}


def test_data_reaches_the_method(url: str, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    assert value(rmi(url, "-t", "Dog.wait_for", str(tmp_path / "there"), "-d", "[1, null]")) == [1, None]


def test_ttl_goes_with_the_request(url: str, queue: Driver) -> None:
    assert rmi(url, "-t", "Dog.bark", "-w", "0", "-T", "5m", "x", address="replies").returncode == 0
    delivery = queue.one()
    assert delivery.ttl == pytest.approx(300, abs=1)


# -- progress -----------------------------------------------------------------------------------------------------


def test_progress_is_lines_on_standard_error(url: str, tmp_path: Path) -> None:
    done = rmi(url, "-t", "Dog.dig", "-p", "digging", str(tmp_path / "hole"), "pause=0.15")
    assert done.stdout == "3\n"
    lines = done.stderr.splitlines()
    assert lines[-1] == "digging 3/3 hole 3"
    assert all(re.fullmatch(r"digging \d/3 hole \d", line) for line in lines)


def test_progress_is_a_live_bar_on_a_terminal(url: str, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [
        GOFER,
        "rmi",
        "-u",
        url,
        "-a",
        "kennel",
        "-t",
        "Dog.dig",
        "-p",
        "digging",
        str(tmp_path / "hole"),
        "pause=0.2",
    ]
    with forkserver.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}) as child:
        os.close(theirs)
        shown = b""
        while chunk := read_terminal(ours):
            shown += chunk
        assert child.stdout is not None
        assert child.stdout.read() == b"3\n"
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "━" in text
    assert "digging" in text
    assert "3/3" in text


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # how Linux tells that nobody has the other end any more
        return b""


# -- what goes wrong ----------------------------------------------------------------------------------------------


def test_1_the_method_raised(url: str) -> None:
    done = rmi(url, "-t", "Dog.fail", "ValueError", "no bone")
    assert (done.returncode, done.stdout) == (1, "")
    *trace, last = done.stderr.splitlines()
    assert trace[0] == "Traceback (most recent call last):"
    assert any("in fail" in line for line in trace)
    assert last == "gofer rmi: ValueError: no bone"


def test_1_the_method_raised_what_is_not_known_here(url: str) -> None:
    done = rmi(url, "-t", "Dog.fail", "Unheard", "of it")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "gofer rmi: kennel_module.Unheard: of it"


def test_1_even_if_the_method_raised_an_error_of_ours(url: str) -> None:
    done = rmi(url, "-t", "Dog.fail", "NotFound", "the method's own")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "gofer rmi: NotFound: the method's own"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-t", "Dog.bark"], "TypeError: Dog.bark() missing 1 required positional argument: 'words'"),
        (["-t", "Dog.nap"], "TypeError: Dog.nap() missing 1 required positional argument: 'seconds'"),
        (["-t", "Dog.run", "1", "2"], "TypeError: Dog.run() takes 2 positional arguments but 3 were given"),
        (["-t", "kennel.howl", "loud=1"], "TypeError: howl() got an unexpected keyword argument 'loud'"),
        (["-t", "Admin.help", "x"], "takes 1 positional argument but 2 were given"),
    ],
    ids=["direct", "async", "forked", "function", "Admin"],
)
def test_1_arguments_that_do_not_fit_are_one_line(url: str, arguments: list[str], says: str) -> None:
    """The frames of gofer and pluggy say nothing about the caller's mistake."""
    assert only_line(rmi(url, *arguments), 1).endswith(says)


@pytest.mark.parametrize("method", ["fail", "fail_later", "fail_forked"])
def test_1_a_trace_begins_in_the_plugin(url: str, method: str) -> None:
    done = rmi(url, "-t", f"Dog.{method}", "ValueError", "no bone")
    assert done.returncode == 1
    frames = [line for line in done.stderr.splitlines() if line.startswith('  File "')]
    assert frames
    assert all("kennel_module.py" in line for line in frames)


def test_control_characters_of_a_trace_do_not_reach_the_terminal(url: str) -> None:
    done = rmi(url, "-t", "Dog.fail", "ValueError", "\x1b[2Jgone\x07")
    assert "\x1b" not in done.stderr
    assert "\\x1b[2Jgone\\x07" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-t", "Dog.bark", "-w", "soon"], "'soon' is not a duration"),
        (["-t", "Dog.bark", "-T", "0"], "ttl must be more than 0 seconds"),
        (["-t", "bark"], "'bark' is not Class.method or module.function"),
        (["-t", "Dog."], "'Dog.' is not Class.method"),
        (["-t", "Dog.bark", "-d", "{a"], "'{a' is not JSON"),
        (["-t", "Dog.bark", "-i", "3"], "'3' is not [[positional, ...], {keyword: value}]; do you mean [[3], {}]?"),
        (["-t", "Dog.bark", "-i", "[[1], [2]]"], "is not [[positional, ...], {keyword: value}]"),
        (["-t", "Dog.bark", "-i", "[[1]]", "wuff"], "-i gives all arguments"),
        (["-t", "Dog.bark", "a=1", "a=2"], "argument 'a' is given twice"),
        (["-t", "Dog.bark", "-r", "x/"], "names no queue"),
        (["-t", "Dog.bark", "-u", "http://x"], "unknown protocol 'http'"),
        (
            ["-t", "Dog.bark", "-A", "hmca"],
            "no authenticator 'hmca' is installed (did you mean 'hmac'?); installed: hmac, ",
        ),
        (["-t", "Dog.bark", "-A", "json.nope"], "neither an installed authenticator nor a class"),
        (["-t", "Dog.bark", "-i", '["Fido"]'], """do you mean [["Fido"], {}]? (see gofer rmi --help)"""),
        (["-t", "Dog.bark", "--wiat", "3"], "no option '--wiat' (did you mean '--wait'?) (see"),
        (["-t", "Dog.bark", "-a", "amqp://jane:hidden@h"], "'amqp://...' is a broker's URL, not an address"),
        ([], "--target"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_2_wrong_arguments(url: str, arguments: list[str], says: str) -> None:
    assert says in only_line(rmi(url, *arguments), 2)


def test_2_arguments_that_are_no_text(url: str) -> None:
    done = subprocess.run(
        [GOFER, "rmi", "-u", url, "-a", "kennel", "-t", "Dog.bark", b"\xff"],
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert b"lone surrogate" in done.stderr


def test_3_no_value_in_time(url: str, tmp_path: Path) -> None:
    line = only_line(rmi(url, "-t", "Dog.wait_for", "-w", "0.7", str(tmp_path / "x")), 3)
    (tmp_path / "x").touch()
    assert line.startswith("gofer rmi: Dog.wait_for() at 'kennel': no result after 0.7 s: it was started by the agent")


def test_3_no_word_of_a_request_that_nobody_waits_for(url: str) -> None:
    """The connection ends before it is confirmed: it may have arrived, and "nobody listens there" would not be true."""

    def end_with_the_request() -> Filter:
        def look(data: bytes) -> bytes:
            if b'"bark"' in data:
                proxy.to_client.limit = 1
            return data

        return look

    with Proxy(URL.parse(url), to_broker=end_with_the_request) as proxy:
        line = only_line(rmi(str(proxy.url), "-t", "Dog.bark", "-w", "0", "x"), 3)
    assert "Dog.bark() at 'kennel': unknown" in line


def test_4_nobody_listens_there(url: str) -> None:
    line = only_line(rmi(url, "-t", "Dog.bark", "x", address="nowhere"), 4)
    assert line.startswith("gofer rmi: Dog.bark() at 'nowhere': no agent at this address")


@pytest.mark.parametrize("more", [("-w", "0"), ("-r", "replies")])
def test_4_nobody_listens_there_is_heard_without_waiting_too(url: str, more: tuple[str, str]) -> None:
    assert "no agent at this address" in only_line(rmi(url, "-t", "Dog.bark", *more, "x", address="nowhere"), 4)


def test_4_no_such_class_or_method_is_reported_with_the_nearest_and_all_there_are(url: str) -> None:
    assert only_line(rmi(url, "-t", "Dgo.bark", "x"), 4) == (
        "gofer rmi: Dgo.bark() at 'kennel': plugin 'kennel' has no remote class or module 'Dgo' (did you mean 'Dog'?). "
        "Available: Dog, kennel, kennel_module"
    )
    line = only_line(rmi(url, "-t", "Dog.brak"), 4)
    assert line.startswith(
        "gofer rmi: Dog.brak() at 'kennel': Dog has no remote method 'brak' (did you mean 'bark'?). Available: bark, "
    )
    assert "'__init__'" in only_line(rmi(url, "-t", "Dog.__init__"), 4)
    line = only_line(rmi(url, "-t", "Admin.halp"), 4)
    assert line.endswith(
        "Admin has no remote method 'halp' (did you mean 'help'?). Available: cancel, describe, echo, hello, help"
    )


def test_5_rejected(url: str) -> None:
    line = only_line(rmi(url, "-t", "Dog.refused"), 5)
    assert line.startswith("gofer rmi: Dog.refused() at 'kennel': rejected: ")
    assert "not on a Sunday" in line


def test_5_not_authorized(url: str) -> None:
    line = only_line(rmi(url, "-t", "Dog.guard"), 5)
    assert line == "gofer rmi: Dog.guard() at 'kennel': a secret is required"


def test_6_no_broker(tmp_path: Path) -> None:
    line = only_line(rmi(f"local://{tmp_path}/none.sock", "-t", "Dog.bark", "x"), 6)
    assert str(tmp_path / "none.sock") in line


def test_6_a_refused_port_at_once() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in only_line(rmi(f"amqp://127.0.0.1:{port}", "-t", "Dog.bark", "x"), 6)


def test_6_a_broker_that_never_answers_within_the_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        only_line(rmi(f"amqp://127.0.0.1:{port}", "-t", "Dog.bark", "-w", "1", "x"), 6)


def test_6_no_adapter_for_the_url() -> None:
    line = only_line(rmi("nope+amqp://127.0.0.1", "-t", "Dog.bark", "x"), 6)
    assert re.search(r"the adapter 'nope' of \S+ is not installed; installed: amqp, .*local", line)
    assert "pip" not in line


def test_130_interrupted(url: str, tmp_path: Path) -> None:
    command = [
        GOFER,
        "rmi",
        "-u",
        url,
        "-a",
        "kennel",
        "-t",
        "Dog.dig",
        "-p",
        "",
        str(tmp_path / "x"),
        "holes=5",
        "pause=0.2",
    ]
    with forkserver.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        assert "/5" in child.stderr.readline()  # it runs
        child.send_signal(signal.SIGINT)
        said, complained = child.communicate(timeout=20)
    assert (child.returncode, said) == (130, "")
    assert "Traceback" not in complained


def test_a_reader_that_goes_away_is_no_traceback(url: str) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [GOFER, "rmi", "-u", url, "-a", "kennel", "-t", "Dog.give", "x"]
    done = forkserver.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, timeout=30)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


# -- authenticators and TLS ---------------------------------------------------------------------------------------


def test_an_authenticator_signs_and_verifies(url: str, site: Path) -> None:
    path = {"PYTHONPATH": str(site)}
    signed = rmi(url, "-t", "Dog.bark", "-A", "signer.Signer", "wuff", address="signed", environ=path)
    assert signed.stdout == "Rover (3): wuff\n"
    unsigned = only_line(rmi(url, "-t", "Dog.bark", "wuff", address="signed"), 5)
    assert "security.authentication" in unsigned


@pytest.fixture(scope="module")
def certificates(place: Path) -> Certificates:
    (place / "certificates").mkdir()
    return Certificates(place / "certificates")


class Listener:
    """A port that does a TLS handshake with each client, notes how that went, and hangs up."""

    def __init__(self, certificate: Path, key: Path, authority: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._context.load_verify_locations(authority)
        self._context.verify_mode = ssl.CERT_OPTIONAL
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.clients: list[Any] = []
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        while True:
            client, _ = self._socket.accept()
            with client:
                try:
                    with self._context.wrap_socket(client, server_side=True) as wrapped:
                        wrapped.recv(1)
                        self.clients.append(wrapped.getpeercert())
                except OSError as error:
                    if client.fileno() >= 0 and isinstance(error, ConnectionError) and self.closed:
                        return
                    self.clients.append(error)
                if self.closed:
                    return

    closed = False

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join()
        self._socket.close()


def test_tls_files(certificates: Certificates) -> None:
    with Listener(certificates.server, certificates.server_key, certificates.authority) as listener:

        def call(*options: str) -> str:
            url = f"amqps://127.0.0.1:{listener.port}"
            return only_line(rmi(url, "-t", "Dog.bark", "-w", "5", *options, "x"), 6)

        right = ("--cacert", str(certificates.authority))
        assert "certificate" in call("--cacert", str(certificates.other_authority)).lower()
        assert "certificate" not in call(*right).lower()
        call(*right, "--clientcert", str(certificates.client), "--clientkey", str(certificates.client_key))
        call(*right, "--clientcert", str(certificates.client_both))
        for option in ("--cacert", "--clientcert", "--clientkey"):
            url = f"amqps://127.0.0.1:{listener.port}"
            assert "/no/such/file" in only_line(rmi(url, "-t", "Dog.bark", option, "/no/such/file", "x"), 2)
        assert "one PEM file" in call("--cacert", os.devnull)
        shown = [client for client in listener.clients if isinstance(client, dict) and client]
        assert [one["subject"] for one in shown] == [((("commonName", certificates.client_name),),)] * len(shown)
        assert len(shown) >= 2


def test_host_validation_can_be_switched_off(certificates: Certificates) -> None:
    with Listener(certificates.elsewhere, certificates.elsewhere_key, certificates.authority) as listener:
        options = ("-t", "Dog.bark", "-w", "5", "--cacert", str(certificates.authority))
        url = f"amqps://127.0.0.1:{listener.port}"
        assert "certificate" in only_line(rmi(url, *options, "x"), 6).lower()
        assert "certificate" not in only_line(rmi(url, *options, "--no-host-validation", "x"), 6).lower()


# -- the command itself -------------------------------------------------------------------------------------------


def test_version() -> None:
    assert re.fullmatch(r"gofer \d+\.\d+\.\S+\n", gofer("--version").stdout)


def test_an_unknown_command_is_reported_with_the_nearest() -> None:
    done = gofer("rim")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "gofer: no command 'rim' (did you mean 'rmi'?) (see gofer --help)\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nosuch",), "gofer: no command 'nosuch'; commands: rmi, describe, "),
        (("new", "nosuch"), "gofer new: no command 'nosuch'; commands: adapter, authenticator, plugin (see gofer new"),
        (("new", "plugn"), "gofer new: no command 'plugn' (did you mean 'plugin'?) (see gofer new --help)"),
        (("fleet", "-u", "local://", "nosuch"), "gofer fleet: no command 'nosuch'; commands: add, call, cancel, "),
        (("audit", "nosuch"), "gofer audit: no command 'nosuch'; commands: verify (see gofer audit --help)"),
        (("new", "x" * 500), f"gofer new: no command '{'x' * 100}'; commands: adapter, "),
        (("new", "it's"), 'gofer new: no command "it\'s"; commands: adapter, '),
    ],
)
def test_an_unknown_command_of_a_group_is_reported_with_those_that_there_are(
    arguments: tuple[str, ...], says: str
) -> None:
    done = gofer(*arguments)
    assert (done.returncode, done.stdout, done.stderr[: len(says)]) == (2, "", says)
    assert "; commands: rmi, describe, stubs, agent, mgt, can, fleet" in gofer("xyzzy").stderr


def test_without_a_command_it_shows_its_help() -> None:
    done = gofer()
    assert (done.returncode, done.stdout) == (2, "")
    assert "rmi" in done.stderr


@pytest.mark.parametrize(
    "command", ["rmi", "agent", "mgt", "broker", "demo", "plugins", "adapters", "authenticators", "new", "completion"]
)
def test_every_command_has_its_help(command: str) -> None:
    shown = gofer(command, "--help").stdout
    assert shown.startswith(f"Usage: gofer {command}")
    assert all(re.search(rf"^ +{status} ", shown, re.MULTILINE) for status in (74, 130, 141))


def test_a_call_imports_only_what_it_needs(url: str) -> None:
    code = """
import sys
from gofer.tools.main import main
status = main(sys.argv[1:])
print(sorted({"rich", "gofer.agent", "cryptography", "gofer_adapter_amqp"}.intersection(sys.modules)), status)
"""
    command = [sys.executable, "-c", code, "rmi", "-u", url, "-a", "kennel", "-t", "kennel.howl"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "aooo\n[] 0\n"
