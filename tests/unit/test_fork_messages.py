"""Messages between an agent, a helper process and the process of a forked call."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from gofer.rmi.model import pipe


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = pipe.pair()
    with one, other:
        yield one, other


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 3_000_000])
def test_a_message_of_any_size_comes_out_whole(ends: tuple[socket.socket, socket.socket], size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with ThreadPoolExecutor(1) as threads:
        sent = threads.submit(pipe.send, ends[0], pipe.VALUE, body)
        assert pipe.receive(ends[1]) == (pipe.VALUE, body)
        sent.result()


def test_the_end_of_a_process_is_reported_also_in_the_middle_of_a_message(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ends[0].send(b"+half of a value")
    pipe.send(ends[0], pipe.EXIT, b"-9")
    assert pipe.receive(ends[1]) == (pipe.EXIT, b"-9")


def test_what_was_sent_before_the_other_end_was_closed_is_received(ends: tuple[socket.socket, socket.socket]) -> None:
    pipe.send(ends[0], pipe.CALL, b"never read")
    pipe.send(ends[1], pipe.EXIT, b"1")
    ends[1].close()
    assert pipe.receive(ends[0]) == (pipe.EXIT, b"1")
    assert pipe.receive(ends[0]) == (b"", b"")


def test_log_records_come_between_messages(
    ends: tuple[socket.socket, socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    handler = pipe.LogHandler(pipe.Sender(ends[0]))
    handler.handle(logging.LogRecord("kennel", logging.WARNING, "", 0, "woof %s", ("twice",), None))
    pipe.send(ends[0], pipe.VALUE, b"7")
    assert pipe.receive(ends[1]) == (pipe.VALUE, b"7")
    assert [(one.name, one.levelname, one.getMessage()) for one in caplog.records] == [
        ("kennel", "WARNING", "woof twice")
    ]


def test_a_record_that_nobody_takes_is_printed(
    ends: tuple[socket.socket, socket.socket], capfd: pytest.CaptureFixture[str]
) -> None:
    handler = pipe.LogHandler(pipe.Sender(ends[0]))
    ends[1].close()
    handler.handle(logging.LogRecord("kennel", logging.INFO, "", 0, "to nobody", (), None))
    assert capfd.readouterr().err == "to nobody\n"
