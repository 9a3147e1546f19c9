"""Management at its Unix socket: who is let in, and what becomes of nonsense, of too much, and of slowness."""

from __future__ import annotations

import logging
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from gofer.agent.management.wire import MAX_REQUEST, Unusable, socket_of
from gofer.root import Root
from gofer.tools.agent_client import NoAgent, NoAnswer
from support.doors import Doors, drain, read
from support.ports import free_port
from support.waiting import eventually


@pytest.fixture
def agent(root: Path) -> Iterator[Doors]:
    with Doors(Root(root)) as doors:
        yield doors


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


class TestTheUnixSocket:
    def test_who_the_kernel_vouches_for_is_answered(self, agent: Doors) -> None:
        agent.start()
        assert agent.ask() == {"do": "echo"}
        assert agent.echo.callers[0].startswith(f"process {os.getpid()} of user ")

    def test_the_socket_is_there_while_it_runs_and_a_dead_one_is_replaced(self, agent: Doors) -> None:
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

    def test_what_somebody_else_has_put_there_stays(self, agent: Doors, warnings: Callable[[], list[str]]) -> None:
        path = socket_of(agent.root)
        path.write_text("mine")
        management = agent.start()
        management.stop()
        assert path.read_text() == "mine"
        assert warnings() == [f"no management on a Unix socket: {path} is there, and is not a socket"]

    def test_a_long_path_is_reached(self, tmp_path: Path) -> None:
        top = tmp_path / ("a" * 60) / ("b" * 60)
        top.mkdir(parents=True)
        with Doors(Root(top)) as agent:
            agent.start()
            assert agent.ask() == {"do": "echo"}

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
    def test_another_user_is_refused_and_logged(self, warnings: Callable[[], list[str]]) -> None:
        # Below /tmp itself: what pytest makes is closed to others, and so is what goferd makes.
        top = Path(tempfile.mkdtemp())
        try:
            (top / "run/gofer").mkdir(parents=True)
            for directory in (top, top / "run", top / "run/gofer"):
                directory.chmod(0o755)
            code = (
                "import os, sys\n"
                "from pathlib import Path\n"
                "from gofer.agent.management.wire import Unusable\n"
                "from gofer.root import Root\n"
                "from gofer.tools.agent_client import ask\n"
                "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
                "for do in ('show', 'load', 'reload', 'unload', 'requests', 'cancel', 'retry', 'drop'):\n"
                "    try:\n"
                "        ask(Root(Path(sys.argv[1])), {'do': do}, host=None, port=None, wait=10)\n"
                "    except Unusable as refused:\n"
                "        print(refused.code, refused)\n"
            )
            with Doors(Root(top)) as agent:
                agent.start()
                command = [sys.executable, "-c", code, str(top)]
                said = subprocess.run(command, capture_output=True, text=True, check=True)
            assert said.stdout == "refused only root and the agent's own user may manage this agent\n" * 8
            assert agent.echo.callers == []
            assert len(warnings()) == 8
            assert "management: refused: process " in warnings()[0]
            assert "; allowed: root, or the agent's user 0" in warnings()[0]
        finally:
            shutil.rmtree(top)

    @pytest.mark.parametrize(
        ("sent", "code", "says"),
        [
            (b"hello\n", "malformed", "not a line of JSON: b'hello'"),
            (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "malformed", "not a line of JSON"),
            (b"\x00\xff\xfe\n", "malformed", "not a line of JSON"),
            (b"[" * 100_000 + b"\n", "malformed", "not a JSON object"),
            (b"[1]\n", "malformed", "not a JSON object"),
            (b"\n", "malformed", "not a line of JSON"),
            (b"x" * (MAX_REQUEST + 100_000), "too-large", f"a line of more than {MAX_REQUEST} bytes"),
            (b'{"do": "' + b"x" * 5_000_000 + b'"}\n', "too-large", f"a line of more than {MAX_REQUEST} bytes"),
            (
                b'{"do": "drop", "sn": "fail"}\n',
                "internal",
                "a fault of the agent's, its log has more: ZeroDivisionError",
            ),
            (b'{"do": "drop", "sn": "refuse"}\n', "not-found", "no such thing"),
        ],
    )
    def test_nonsense_is_answered_with_an_error(self, agent: Doors, sent: bytes, code: str, says: str) -> None:
        agent.start()
        error = agent.send(sent)["error"]
        assert (error["code"], error["text"][: len(says)]) == (code, says)
        assert agent.ask() == {"do": "echo"}

    def test_who_sends_half_a_request_and_hangs_up_gets_an_error(self, agent: Doors) -> None:
        agent.start()
        with agent.connect() as connection:
            connection.sendall(b'{"do": "drop", "sn": "echo"}')
            connection.shutdown(socket.SHUT_WR)
            error = read(connection)["error"]
        assert error == {"code": "malformed", "text": "the connection ends before the line does"}

    @pytest.mark.parametrize("sent", [b"", b'{"do": '])
    def test_who_is_slow_gets_an_error_and_holds_up_nobody(
        self, agent: Doors, monkeypatch: pytest.MonkeyPatch, sent: bytes
    ) -> None:
        monkeypatch.setattr("gofer.agent.management.server._READING", 0.2)
        agent.start()
        with agent.connect() as slow:
            slow.sendall(sent)
            assert agent.ask() == {"do": "echo"}
            assert read(slow)["error"] == {"code": "too-slow", "text": "no whole line in time"}

    def test_who_asks_while_many_are_being_answered_gets_an_error(self, agent: Doors) -> None:
        agent.start()
        with ExitStack() as stack:
            connections = [stack.enter_context(agent.connect()) for _ in range(64)]
            for connection in connections:
                connection.sendall(b'{"do": "drop", "sn": "wait"}\n')
            eventually(lambda: len(agent.echo.callers) == 64)
            with pytest.raises(Unusable, match="64 others are being answered") as busy:
                agent.ask()
            assert busy.value.code == "busy"
            agent.echo.let_go.set()
            for connection in connections:
                assert read(connection) == {"value": {"do": "wait"}}
        eventually(lambda: agent.send(b'{"do": "drop", "sn": "echo"}\n') == {"value": {"do": "echo"}})

    def test_who_does_not_read_the_answer_is_left(self, agent: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gofer.agent.management.server._WRITING", 0.2)
        agent.start()
        with agent.connect() as lazy:
            lazy.sendall(b'{"do": "drop", "sn": "much"}\n')
            eventually(lambda: "gofer-management-caller" not in {one.name for one in threading.enumerate()})
            assert agent.ask() == {"do": "echo"}

    def test_a_large_answer_arrives(self, agent: Doors) -> None:
        agent.start()
        assert len(agent.ask("much")) == 16_000_000

    def test_who_waits_is_told_when_it_takes_too_long(self, agent: Doors) -> None:
        agent.start()
        with pytest.raises(NoAnswer, match=r"no answer within 0\.1 s; the agent may still be working on it"):
            agent.ask("wait", wait=0.1)

    def test_it_stops_although_somebody_is_being_answered(self, agent: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gofer.agent.management.server._END", 0.1)
        management = agent.start()
        with agent.connect() as connection:
            connection.sendall(b'{"do": "drop", "sn": "wait"}\n')
            eventually(lambda: agent.echo.callers)
            management.stop()
            assert not socket_of(agent.root).exists()
            agent.echo.let_go.set()
            assert read(connection) == {"value": {"do": "wait"}}

    def test_a_hundred_with_nonsense_leave_nothing_behind(self, agent: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
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

        for n in range(120):
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
config = ManagementConfig(True, "127.0.0.1", {free_port()})
management = Management(Root(Path({str(root)!r})), config, None)
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
management = Management(Root(Path({str(root)!r})), config, None)
management.start()
print(len(management._servers))
management.stop()
os.close(outside)
os.waitpid(child, 0)
"""
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert said.stdout == "2\n"
