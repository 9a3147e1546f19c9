"""The doors of management: who is let in, and what becomes of those who send nonsense, too much, or too slowly."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from gofer.agent.config import ManagementConfig
from gofer.agent.management.doors import loopback
from gofer.agent.management.server import Management
from gofer.agent.management.wire import MAX_REQUEST, Unusable, socket_of, token_of
from gofer.errors import ConfigError
from gofer.root import Root
from gofer.tools.mgt_client import NoAgent, NoAnswer, ask
from support.waiting import eventually


class Echo:
    """Answers each request with itself, as long as it may."""

    def __init__(self) -> None:
        self.callers: list[str] = []
        self.let_go = threading.Event()

    def do(self, request: Mapping[str, Any], caller: str) -> Any:
        self.callers.append(caller)
        match request:
            case {"do": "wait"}:
                assert self.let_go.wait(20)
            case {"do": "fail"}:
                raise ZeroDivisionError
            case {"do": "refuse"}:
                raise Unusable("not-found", "no such thing")
            case {"do": "much"}:
                return "x" * 50_000_000
        return dict(request)


class Agent:
    """Management without an agent behind it."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.echo = Echo()
        self._started: list[Management] = []

    def start(self, **config: Any) -> Management:
        management = Management(self.root, ManagementConfig(**config), self.echo)
        management.start()
        self._started.append(management)
        return management

    def ask(self, do: str = "echo", wait: float = 20, **how: Any) -> Any:
        return ask(self.root, {"do": do}, **{"host": None, "port": None, **how}, wait=wait)

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10)
        connection.connect(str(socket_of(self.root)))
        return connection

    def send(self, data: bytes) -> dict[str, Any]:
        """Send something, and return what comes back before the connection ends."""
        with self.connect() as connection:
            try:
                connection.sendall(data)
            except BrokenPipeError:
                pass  # it is answered before all is read
            return read(connection)

    def close(self) -> None:
        self.echo.let_go.set()
        for management in self._started:
            management.stop()


def read(connection: socket.socket) -> dict[str, Any]:
    said = b""
    while part := connection.recv(1 << 16):
        said += part
    assert said.endswith(b"\n")
    found = json.loads(said)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def agent(root: Path) -> Iterator[Agent]:
    agent = Agent(Root(root))
    yield agent
    agent.close()


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TestTheUnixSocket:
    def test_who_the_kernel_vouches_for_is_answered(self, agent: Agent) -> None:
        agent.start()
        assert agent.ask() == {"do": "echo"}
        assert agent.echo.callers[0].startswith(f"process {os.getpid()} of user ")

    def test_the_socket_is_there_while_it_runs_and_a_dead_one_is_replaced(self, agent: Agent) -> None:
        path = socket_of(agent.root)
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        management = agent.start()
        assert agent.ask() == {"do": "echo"}
        management.stop()
        management.stop()
        assert not path.exists()
        with pytest.raises(NoAgent, match="no goferd listens at"):
            agent.ask()

    def test_what_somebody_else_has_put_there_stays(self, agent: Agent, warnings: Callable[[], list[str]]) -> None:
        path = socket_of(agent.root)
        path.write_text("mine")
        management = agent.start()
        management.stop()
        assert path.read_text() == "mine"
        assert warnings() == [f"no management by a Unix socket: {path} is there, and is not a socket"]

    def test_a_long_path_is_reached(self, tmp_path: Path) -> None:
        top = tmp_path / ("a" * 60) / ("b" * 60)
        top.mkdir(parents=True)
        agent = Agent(Root(top))
        agent.start()
        try:
            assert agent.ask() == {"do": "echo"}
        finally:
            agent.close()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    def test_another_user_is_refused_and_logged(self, warnings: Callable[[], list[str]]) -> None:
        # Below /tmp itself: what pytest makes is closed to others, and so is what goferd makes.
        top = Path(tempfile.mkdtemp())
        try:
            (top / "run/gofer").mkdir(parents=True)
            for directory in (top, top / "run", top / "run/gofer"):
                directory.chmod(0o755)
            agent = Agent(Root(top))
            agent.start()
            code = (
                "import os, sys\n"
                "from pathlib import Path\n"
                "from gofer.agent.management.wire import Unusable\n"
                "from gofer.root import Root\n"
                "from gofer.tools.mgt_client import ask\n"
                "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
                "for do in ('show', 'load', 'reload', 'unload', 'requests', 'cancel', 'retry', 'drop'):\n"
                "    try:\n"
                "        ask(Root(Path(sys.argv[1])), {'do': do}, host=None, port=None, wait=10)\n"
                "    except Unusable as refused:\n"
                "        print(refused.code, refused)\n"
            )
            said = subprocess.run([sys.executable, "-c", code, str(top)], capture_output=True, text=True, check=True)
            agent.close()
            assert said.stdout == "refused only root and the agent's own user may manage this agent\n" * 8
            assert agent.echo.callers == []
            assert len(warnings()) == 8
            assert "management: refused: process " in warnings()[0]
            assert "of user nobody; allowed: root, or the agent's user 0" in warnings()[0]
        finally:
            shutil.rmtree(top)

    @pytest.mark.parametrize(
        ("sent", "code", "says"),
        [
            (b"hello\n", "malformed", "not a line of JSON: b'hello'"),
            (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "malformed", "not a line of JSON"),
            (b"\x00\xff\xfe\n", "malformed", "not a line of JSON"),
            (b"[" * 100_000 + b"\n", "malformed", "not a line of JSON"),
            (b"[1]\n", "malformed", "not a JSON object"),
            (b"\n", "malformed", "not a line of JSON"),
            (b"x" * (MAX_REQUEST + 100_000), "too-large", f"a line of more than {MAX_REQUEST} bytes"),
            (b'{"do": "' + b"x" * 5_000_000 + b'"}\n', "too-large", f"a line of more than {MAX_REQUEST} bytes"),
            (b'{"do": "fail"}\n', "internal", "a fault of the agent's, its log has more: ZeroDivisionError"),
            (b'{"do": "refuse"}\n', "not-found", "no such thing"),
        ],
    )
    def test_nonsense_is_answered_with_an_error(self, agent: Agent, sent: bytes, code: str, says: str) -> None:
        agent.start()
        error = agent.send(sent)["error"]
        assert (error["code"], error["text"][: len(says)]) == (code, says)
        assert agent.ask() == {"do": "echo"}

    def test_who_sends_half_a_request_and_hangs_up_is_told_so(self, agent: Agent) -> None:
        agent.start()
        with agent.connect() as connection:
            connection.sendall(b'{"do": "echo"}')
            connection.shutdown(socket.SHUT_WR)
            error = read(connection)["error"]
        assert error == {"code": "malformed", "text": "the connection ends before the line does"}

    @pytest.mark.parametrize("sent", [b"", b'{"do": '])
    def test_who_is_slow_is_told_so_and_holds_up_nobody(
        self, agent: Agent, monkeypatch: pytest.MonkeyPatch, sent: bytes
    ) -> None:
        monkeypatch.setattr("gofer.agent.management.server._READING", 0.2)
        agent.start()
        with agent.connect() as slow:
            slow.sendall(sent)
            assert agent.ask() == {"do": "echo"}
            assert read(slow)["error"] == {"code": "too-slow", "text": "no whole line in time"}

    def test_who_asks_while_many_are_being_answered_is_told_so(self, agent: Agent) -> None:
        agent.start()
        with ExitStack() as stack:
            connections = [stack.enter_context(agent.connect()) for _ in range(16)]
            for connection in connections:
                connection.sendall(b'{"do": "wait"}\n')
            eventually(lambda: len(agent.echo.callers) == 16)
            with pytest.raises(Unusable, match="16 others are being answered") as busy:
                agent.ask()
            assert busy.value.code == "busy"
            agent.echo.let_go.set()
            for connection in connections:
                assert read(connection) == {"value": {"do": "wait"}}
        eventually(lambda: agent.send(b'{"do": "echo"}\n') == {"value": {"do": "echo"}})

    def test_who_does_not_read_the_answer_is_left(self, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gofer.agent.management.server._WRITING", 0.2)
        agent.start()
        with agent.connect() as lazy:
            lazy.sendall(b'{"do": "much"}\n')
            eventually(lambda: "gofer-management-caller" not in {one.name for one in threading.enumerate()})
            assert agent.ask() == {"do": "echo"}

    def test_a_large_answer_arrives(self, agent: Agent) -> None:
        agent.start()
        assert len(agent.ask("much")) == 50_000_000

    def test_who_waits_is_told_when_it_takes_too_long(self, agent: Agent) -> None:
        agent.start()
        with pytest.raises(NoAnswer, match=r"no answer within 0\.1 s; the agent may still be at it"):
            agent.ask("wait", wait=0.1)

    def test_it_stops_although_somebody_is_being_answered(self, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gofer.agent.management.server._END", 0.1)
        management = agent.start()
        with agent.connect() as connection:
            connection.sendall(b'{"do": "wait"}\n')
            eventually(lambda: agent.echo.callers)
            management.stop()
            assert not socket_of(agent.root).exists()
            agent.echo.let_go.set()
            assert read(connection) == {"value": {"do": "wait"}}

    def test_hundreds_with_nonsense_leave_nothing_behind(self, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gofer.agent.management.server._READING", 0.05)
        port = free_port()
        agent.start(enabled=True, host="127.0.0.1", port=port)
        agent.ask()  # or its thread might have yet to open what it needs
        nonsense = random.Random(7)
        before = len(os.listdir("/proc/self/fd"))

        def visit(n: int) -> None:
            with agent.connect() if n % 2 else socket.create_connection(("127.0.0.1", port), 10) as connection:
                if n % 5:
                    with suppress(BrokenPipeError, ConnectionResetError):  # those before are still being answered
                        connection.sendall(nonsense.randbytes(n))
                if n % 3 == 0:
                    drain(connection)

        for n in range(300):
            visit(n)
        eventually(lambda: "gofer-management-caller" not in {one.name for one in threading.enumerate()})
        eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)
        assert agent.ask() == {"do": "echo"}
        assert agent.ask(host="127.0.0.1", port=port) == {"do": "echo"}
        assert len(agent.echo.callers) == 3

    def test_what_a_process_forks_does_not_keep_the_port(self, root: Path) -> None:
        code = f"""
import os, sys
from pathlib import Path
from gofer.agent.config import ManagementConfig
from gofer.agent.management.server import Management
from gofer.root import Root
management = Management(Root(Path({str(root)!r})), ManagementConfig(True, "127.0.0.1", {free_port()}), None)
import warnings; warnings.simplefilter("ignore")
management.start()
inside, outside = os.pipe()
there, here = os.pipe()
child = os.fork()
if child == 0:
    os.close(outside)
    os.write(here, b".")
    os.read(inside, 1)
    os._exit(0)
os.read(there, 1)
management.stop()
management = Management(Root(Path({str(root)!r})), management._config, None)
management.start()
print(len(management._doors))
management.stop()
os.close(outside)
os.waitpid(child, 0)
"""
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert said.stdout == "2\n"


class TestTCP:
    def test_who_can_read_the_token_is_answered(self, agent: Agent) -> None:
        port = free_port()
        agent.start(enabled=True, host="localhost", port=port)
        token = token_of(agent.root)
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert agent.ask(port=port, host="127.0.0.1") == {"do": "echo"}
        assert agent.echo.callers == ["somebody who knows the token"]
        assert len(agent.ask("much", port=port, host="127.0.0.1")) == 50_000_000
        with pytest.raises(Unusable, match="no such thing"):
            agent.ask("refuse", port=port, host="127.0.0.1")

    def test_the_token_goes_with_the_agent_and_each_has_its_own(self, agent: Agent) -> None:
        tokens = []
        for _ in range(2):
            management = agent.start(enabled=True, host="127.0.0.1", port=free_port())
            tokens.append(token_of(agent.root).read_text())
            management.stop()
            assert not token_of(agent.root).exists()
        assert tokens[0] != tokens[1]

    def test_it_is_the_second_way(self, agent: Agent) -> None:
        port = free_port()
        agent.start(enabled=True, host="127.0.0.1", port=port)
        (agent.root.etc / "agent.conf").write_text(f"[management]\nenabled=1\nhost=127.0.0.1\nport={port}\n")
        socket_of(agent.root).unlink()
        assert agent.ask() == {"do": "echo"}
        assert agent.ask(host="127.0.0.1") == {"do": "echo"}
        assert agent.echo.callers == ["somebody who knows the token"] * 2

    @pytest.mark.parametrize(
        "lines",
        [
            b'{"do": "echo"}\n{"do": "echo"}\n',
            b'{"proof": "00"}\n{"do": "echo"}\n',
            b'{"proof": 7}\n{"do": "echo"}\n',
            b'{"proof": "\\ud800"}\n{"do": "echo"}\n',
            b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ],
    )
    def test_who_cannot_read_it_is_refused_and_logged(
        self, agent: Agent, warnings: Callable[[], list[str]], lines: bytes
    ) -> None:
        port = free_port()
        agent.start(enabled=True, host="127.0.0.1", port=port)
        with socket.create_connection(("127.0.0.1", port), 10) as connection:
            stream = connection.makefile("rwb")
            assert set(json.loads(stream.readline())) == {"nonce"}
            stream.write(lines)
            stream.flush()
            assert set(json.loads(stream.readline())) == {"proof"}
            assert json.loads(stream.readline())["error"]["code"] in ("refused", "malformed")
        assert agent.echo.callers == []
        assert len(warnings()) == 1

    def test_a_proof_is_good_for_one_connection(self, agent: Agent) -> None:
        port = free_port()
        agent.start(enabled=True, host="127.0.0.1", port=port)
        with Relay(port) as relay:
            assert agent.ask(host="127.0.0.1", port=relay.port) == {"do": "echo"}
            with socket.create_connection(("127.0.0.1", port), 10) as connection:
                connection.sendall(relay.sent)
                assert b'"refused"' in drain(connection)

    def test_who_pretends_to_be_the_agent_gets_no_token_and_is_not_believed(self, agent: Agent) -> None:
        agent.start(enabled=True, host="127.0.0.1", port=free_port())
        token = token_of(agent.root).read_bytes().strip()
        with Relay(None, b'{"nonce":"1"}\n', b'{"proof":"00"}\n{"value":"done"}\n') as liar:
            with pytest.raises(Unusable, match="who answers there does not know this root's token"):
                agent.ask(host="127.0.0.1", port=liar.port)
            assert token not in liar.sent
        with Relay(None, b"SSH-2.0-OpenSSH\r\n") as other, pytest.raises(NoAgent, match="does not greet as one"):
            agent.ask(host="127.0.0.1", port=other.port)

    def test_a_port_that_is_taken_is_told_and_the_socket_serves(
        self, agent: Agent, warnings: Callable[[], list[str]]
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            agent.start(enabled=True, host="localhost", port=port)
        expected = f"[management] port: cannot listen on localhost port {port}: Address already in use"
        assert warnings() == [f"no management by TCP: {expected}"]
        assert agent.ask() == {"do": "echo"}
        assert not token_of(agent.root).exists()

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
    def test_others_machines_cannot_reach_it(self, agent: Agent, warnings: Callable[[], list[str]], host: str) -> None:
        agent.start(enabled=True, host=host, port=free_port())
        (said,) = warnings()
        assert "which others can reach; allowed: localhost, 127.0.0.1, ::1" in said
        assert agent.ask() == {"do": "echo"}

    def test_a_host_without_an_address_is_told(self) -> None:
        with pytest.raises(ConfigError, match=r"\[management\] host: 'no host' has no address"):
            loopback("no host")


class Relay:
    """Takes one connection: relays it to a port, or says what it is told to, and keeps what was sent."""

    def __init__(self, port: int | None, *says: bytes) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(10)
        self.port = self._server.getsockname()[1]
        self._to = port
        self._says = says
        self.sent = b""
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._thread.join(10)
        self._server.close()

    def _run(self) -> None:
        connection = self._server.accept()[0]
        connection.settimeout(10)
        with connection, ExitStack() as stack:
            if self._to is None:
                for line in self._says:
                    connection.sendall(line)
                    if line.startswith(b'{"nonce'):
                        self.sent += connection.recv(1 << 16)
                connection.shutdown(socket.SHUT_WR)
                drain(connection)
                return
            other = stack.enter_context(socket.create_connection(("127.0.0.1", self._to), 10))
            connection.sendall(other.recv(1 << 16))
            self.sent = connection.recv(1 << 16)
            other.sendall(self.sent)
            connection.sendall(drain(other))


def drain(connection: socket.socket) -> bytes:
    said = b""
    try:
        while part := connection.recv(1 << 16):
            said += part
    except ConnectionResetError:
        pass  # what was sent had not been read
    return said
