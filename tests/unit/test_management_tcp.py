"""Management by TCP: for who knows the token, and nobody else."""

from __future__ import annotations

import json
import logging
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gofer.agent.management.server import loopback
from gofer.agent.management.wire import Unusable, socket_of, token_of
from gofer.errors import ConfigError
from gofer.root import Root
from gofer.tools.agent_client import NoAgent
from support.doors import Doors, Relay, drain
from support.ports import free_port


@pytest.fixture
def agent(root: Path) -> Iterator[Doors]:
    with Doors(Root(root)) as doors:
        yield doors


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    return lambda: [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


class TestTCP:
    def test_who_can_read_the_token_is_answered(self, agent: Doors) -> None:
        port = free_port()
        agent.start(enabled=True, host="localhost", port=port)
        token = token_of(agent.root)
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        assert agent.ask(port=port, host="127.0.0.1") == {"do": "echo"}
        assert agent.echo.callers == ["a caller that knows the token"]
        assert len(agent.ask("much", port=port, host="127.0.0.1")) == 16_000_000
        with pytest.raises(Unusable, match="no such thing"):
            agent.ask("refuse", port=port, host="127.0.0.1")

    def test_the_token_goes_with_the_agent_and_each_has_its_own(self, agent: Doors) -> None:
        tokens = []
        for _ in range(2):
            management = agent.start(enabled=True, host="127.0.0.1", port=free_port())
            tokens.append(token_of(agent.root).read_text())
            management.stop()
            assert not token_of(agent.root).exists()
        assert tokens[0] != tokens[1]

    def test_the_token_of_an_agent_that_was_killed_does_not_stay(self, agent: Doors) -> None:
        token_of(agent.root).write_text("stale")
        agent.start()
        assert not token_of(agent.root).exists()

    def test_it_is_the_second_way(self, agent: Doors) -> None:
        port = free_port()
        agent.start(enabled=True, host="127.0.0.1", port=port)
        (agent.root.etc / "agent.conf").write_text(f"[management]\nenabled=1\nhost=127.0.0.1\nport={port}\n")
        socket_of(agent.root).unlink()
        assert agent.ask() == {"do": "echo"}
        assert agent.ask(host="127.0.0.1") == {"do": "echo"}
        assert agent.echo.callers == ["a caller that knows the token"] * 2

    @pytest.mark.parametrize(
        "lines",
        [
            b'{"do": "drop", "sn": "echo"}\n{"do": "drop", "sn": "echo"}\n',
            b'{"proof": "00"}\n{"do": "drop", "sn": "echo"}\n',
            b'{"proof": 7}\n{"do": "drop", "sn": "echo"}\n',
            b'{"proof": "\\ud800"}\n{"do": "drop", "sn": "echo"}\n',
            b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ],
    )
    def test_who_cannot_read_it_is_refused_and_logged(
        self, agent: Doors, warnings: Callable[[], list[str]], lines: bytes
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
        (warning,) = warnings()
        assert warning.startswith("management: a caller on TCP: ")  # not "who knows the token"

    def test_a_proof_is_good_for_one_connection(self, agent: Doors) -> None:
        port = free_port()
        agent.start(enabled=True, host="127.0.0.1", port=port)
        with Relay(port) as relay:
            assert agent.ask(host="127.0.0.1", port=relay.port) == {"do": "echo"}
            with socket.create_connection(("127.0.0.1", port), 10) as connection:
                connection.sendall(relay.sent)
                assert b'"refused"' in drain(connection)

    def test_who_pretends_to_be_the_agent_gets_no_token_and_is_not_believed(self, agent: Doors) -> None:
        agent.start(enabled=True, host="127.0.0.1", port=free_port())
        token = token_of(agent.root).read_bytes().strip()
        with Relay(None, b'{"nonce":"1"}\n', b'{"proof":"00"}\n{"value":"done"}\n') as liar:
            with pytest.raises(Unusable, match="does not know the token of this root"):
                agent.ask(host="127.0.0.1", port=liar.port)
            assert token not in liar.sent
        with Relay(None, b"SSH-2.0-OpenSSH\r\n") as other, pytest.raises(NoAgent, match="is not goferd"):
            agent.ask(host="127.0.0.1", port=other.port)

    def test_a_token_that_cannot_be_written_is_reported_and_nothing_listens(
        self, agent: Doors, warnings: Callable[[], list[str]]
    ) -> None:
        port = free_port()
        token_of(agent.root).mkdir()
        agent.start(enabled=True, host="127.0.0.1", port=port)
        assert warnings() == [f"no management on TCP: {token_of(agent.root)}: cannot be written: Is a directory"]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 10)
        assert agent.ask() == {"do": "echo"}

    def test_a_port_that_is_taken_is_reported_and_the_socket_serves(
        self, agent: Doors, warnings: Callable[[], list[str]]
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            agent.start(enabled=True, host="localhost", port=port)
        expected = f"[management] port: cannot listen on localhost port {port}: Address already in use"
        assert warnings() == [f"no management on TCP: {expected}"]
        assert agent.ask() == {"do": "echo"}
        assert not token_of(agent.root).exists()

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
    def test_others_machines_cannot_reach_it(self, agent: Doors, warnings: Callable[[], list[str]], host: str) -> None:
        agent.start(enabled=True, host=host, port=free_port())
        (said,) = warnings()
        assert "which others can reach; allowed: localhost, 127.0.0.1, ::1" in said
        assert agent.ask() == {"do": "echo"}

    def test_a_host_without_an_address_is_reported(self) -> None:
        with pytest.raises(ConfigError, match=r"\[management\] host: 'no host' has no address"):
            loopback("no host")
