"""goferd's log lines: what they look like, where they go, and what cannot keep them from it."""

from __future__ import annotations

import json
import logging
import logging.config
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest
from gofer.agent import logs
from gofer.agent.log_handler import NonBlockingHandler
from gofer.errors import ConfigError
from support.waiting import eventually


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
        if handler not in handlers:
            handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    ours = logging.getLogger("gofer")
    for handler in list(ours.handlers):
        ours.removeHandler(handler)
        if isinstance(handler, NonBlockingHandler):
            handler.end()
    ours.propagate = True
    ours.setLevel(logging.NOTSET)
    logging.disable(logging.NOTSET)
    logging.captureWarnings(capture=False)
    logging.getLogger("gofer.quiet").setLevel(logging.NOTSET)


def record(message: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("gofer.some", logging.WARNING, __file__, 1, message, args, info)
    record.created, record.msecs = 1.25, 250.0
    return record


def test_a_line_has_time_level_and_logger() -> None:
    line = logs.LineFormatter().format(record("hello %s", "you"))

    assert line == "1970-01-01T00:00:01.250Z WARNING gofer.some: hello you"


def test_the_journal_gets_a_priority_on_each_line_and_no_time() -> None:
    text = logs.JournalFormatter().format(record("it failed", error=ValueError("bad")))

    assert text.split("\n")[0] == "<4>gofer.some: it failed"
    assert all(line.startswith("<4>") for line in text.split("\n"))
    assert text.endswith("ValueError: bad")


def test_json_is_one_object_a_line() -> None:
    text = logs.JsonFormatter().format(record("two\nlines", error=ValueError("bad")))

    assert "\n" not in text
    assert json.loads(text) == {
        "time": "1970-01-01T00:00:01.250Z",
        "level": "WARNING",
        "logger": "gofer.some",
        "message": "two\nlines",
        "trace": "ValueError: bad",
    }


def test_levels_are_by_logger_and_the_file_survives_its_rotation(tmp_path: Path) -> None:
    file = tmp_path / "agent"
    logs.configure({"root": logging.WARNING, "gofer.quiet": logging.ERROR}, file=file, environ={})

    logging.getLogger("gofer.other").info("no")
    logging.getLogger("gofer.other").warning("one")
    logging.getLogger("gofer.quiet").warning("no")
    file.rename(tmp_path / "agent.1")
    logging.getLogger("gofer.quiet").error("two")

    assert (tmp_path / "agent.1").read_text().endswith(" WARNING gofer.other: one\n")
    assert file.read_text().endswith(" ERROR gofer.quiet: two\n")


def test_what_a_plugin_does_to_the_root_logger_leaves_our_lines_alone(tmp_path: Path) -> None:
    class Bad(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("cannot log")

    file = tmp_path / "agent"
    logs.configure({}, file=file, environ={})
    logging.getLogger().addHandler(Bad())
    logging.getLogger("gofer.some").warning("one")
    logging.basicConfig(force=True)
    logging.getLogger("gofer.some").warning("two")

    assert [line.rpartition(" ")[2] for line in file.read_text().splitlines()] == ["one", "two"]


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"log file {tmp_path}: cannot be opened: Is a directory"):
        logs.configure({}, file=tmp_path, environ={})


def test_the_journal_is_known_by_its_device_and_inode(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as stream:
        found = os.fstat(stream.fileno())

        assert logs.is_journal({"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}, stream.fileno())
        assert not logs.is_journal({"JOURNAL_STREAM": f"{found.st_dev}:1"}, stream.fileno())
    for other in ({}, {"JOURNAL_STREAM": "x"}, {"JOURNAL_STREAM": "1:y"}):
        assert not logs.is_journal(other, 2)


# -- what a plugin's code does to the logging of the whole process ------------------------------------------------


def some_dict_config() -> None:
    logging.config.dictConfig({"version": 1, "root": {"level": "ERROR", "handlers": []}})


def a_level_for_ours() -> None:
    logging.getLogger("gofer").setLevel(logging.CRITICAL)
    logging.getLogger("gofer.some").setLevel(logging.CRITICAL)


def a_filter_on_ours() -> None:
    logging.getLogger("gofer.some").addFilter(lambda record: False)


def no_handlers() -> None:
    logging.getLogger("gofer").handlers.clear()


def no_propagation() -> None:
    logging.getLogger("gofer.some").propagate = False


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (some_dict_config, "loggers of gofer were disabled"),
        (logging.disable, "logging was disabled"),
        (lambda: logging.basicConfig(force=True, level=logging.ERROR), "the root logger's handler was removed"),
        (a_level_for_ours, "the levels of gofer's loggers were changed"),
        (a_filter_on_ours, "loggers of gofer were disabled"),
        (no_propagation, "loggers of gofer were cut off"),
        (no_handlers, "the handlers of gofer's logger were changed"),
    ],
)
def test_it_is_reported_and_our_lines_go_on(tmp_path: Path, wrong: Callable[[], None], told: str) -> None:
    file = tmp_path / "agent"
    ours, others = logging.getLogger("gofer.some"), logging.getLogger("somebody")
    setup = logs.configure({}, file=file, environ={})
    assert setup.repair() == []
    wrong()
    assert told in setup.repair()
    assert setup.repair() == []
    ours.info("ours")
    others.info("others'")
    assert [line.split(": ")[1] for line in file.read_text().splitlines()] == ["ours", "others'"]


# -- what cannot be written ---------------------------------------------------------------------------------------


@pytest.fixture
def at_pipe() -> Iterator[tuple[NonBlockingHandler, int]]:
    """A handler that writes to standard error, which is a pipe, and the end of that to read from."""
    read, write = os.pipe()
    former = os.dup(2)
    os.dup2(write, 2)
    os.close(write)
    handler = NonBlockingHandler()
    os.dup2(former, 2)
    os.close(former)
    yield handler, read
    handler.end()
    os.close(read)


def emit(handler: logging.Handler, text: str, *, followed: bool = False) -> None:
    record = logging.LogRecord("some", logging.INFO, __file__, 1, text, None, None)
    record.followed = followed
    handler.handle(record)


def test_lines_that_another_follows_share_its_write(at_pipe: tuple[NonBlockingHandler, int]) -> None:
    handler, read = at_pipe
    for n in range(3):
        emit(handler, str(n), followed=True)
    assert select.select([read], [], [], 0)[0] == []
    emit(handler, "3")
    assert os.read(read, 65536) == b"0\n1\n2\n3\n"


def test_a_forked_child_writes_no_lines_of_its_parent(tmp_path: Path) -> None:
    """Neither those that wait for another, nor those that wait for a slow reader."""
    script = f"""
import logging, os, sys
from pathlib import Path
from gofer.agent.log_handler import NonBlockingHandler
read, write = os.pipe()
os.dup2(write, 2)
gathering, slow = logging.getLogger("gathering"), logging.getLogger("slow")
gathering.addHandler(NonBlockingHandler(Path({str(tmp_path / "log")!r})))
slow.addHandler(NonBlockingHandler())
gathering.warning("before", extra={{"followed": True}})
slow.handlers[0]._start_draining = lambda: None  # the child's flush() is looked at
for n in range(200):
    slow.warning("%d %s", n, "x" * 1000)
if (child := os.fork()) == 0:
    os.read(read, 1 << 16)
    sys.exit()  # which flushes what logs
assert os.waitpid(child, 0)[1] == 0
os.set_blocking(read, False)
try:
    left = os.read(read, 1 << 16)
except BlockingIOError:
    left = b""
gathering.warning("after")
print(len(left))
os._exit(0)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    assert ended.stdout == "0\n"
    assert (tmp_path / "log").read_text().splitlines() == ["before", "after"]


def test_lines_that_nothing_follows_after_all_are_written_when_they_are_many_and_at_the_end(
    at_pipe: tuple[NonBlockingHandler, int],
) -> None:
    handler, read = at_pipe
    many, got = [f"{n} {'x' * 1000}" for n in range(100)], b""
    for line in many:
        emit(handler, line, followed=True)
    while got.count(b"\n") < 64:
        got += os.read(read, 65536)
    handler.flush()
    while got.count(b"\n") < 100:
        got += os.read(read, 65536)
    assert got.decode().splitlines() == many


def test_a_reader_that_has_stopped_blocks_nobody_and_gets_the_lines_later(
    at_pipe: tuple[NonBlockingHandler, int],
) -> None:
    handler, read = at_pipe
    lines = [f"{n} {'x' * 1000}" for n in range(500)]  # more than a pipe holds, less than what is kept
    for line in lines:
        emit(handler, line)
    got = b""
    while got.count(b"\n") < len(lines):
        got += os.read(read, 65536)
    assert got.decode().splitlines() == lines
    eventually(lambda: not any(one.name == "gofer-log" for one in threading.enumerate()))


def test_what_is_too_much_is_lost_and_counted(at_pipe: tuple[NonBlockingHandler, int]) -> None:
    handler, read = at_pipe
    lines = [f"{n} {'x' * 1000}" for n in range(3000)]
    for line in lines:
        emit(handler, line)
    got = b""
    while b"reader is too slow" not in got:
        got += os.read(read, 65536)
    *kept, told = got.decode().splitlines()
    assert kept == lines[: len(kept)]
    assert told == f"{len(lines) - len(kept)} log lines were lost here: its reader is too slow"
    emit(handler, "and on it goes")
    assert os.read(read, 65536) == b"and on it goes\n"


def test_a_reader_that_has_gone_away_is_no_trouble(at_pipe: tuple[NonBlockingHandler, int]) -> None:
    handler, read = at_pipe
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, read)  # the only one
    os.close(null)
    for n in range(100):
        emit(handler, str(n))


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
def test_a_full_disk_is_reported_once_on_standard_error_and_what_was_lost_in_the_log(
    tmp_path: Path, together: bool
) -> None:
    """The disk is full when the process may not make the file longer."""
    file = tmp_path / "agent"
    code = f"""
import logging, resource, signal
from pathlib import Path
from gofer.agent import logs

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
logs.configure({{}}, file=Path({str(file)!r}), environ={{}})
log = logging.getLogger("gofer.some")
log.info("before")
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for n in range(500):
    log.info("lost %d", n, extra={{"followed": {together} and n < 499}})
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.info("after")
"""
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=30, check=True)
    assert done.stderr == f"goferd: log file {file}: File too large; lines are lost until it can be written to\n"
    first, whole, torn, told, last = file.read_text().splitlines()  # 100 bytes are two lines, which are 49 and 50 long
    assert first.endswith(": before")
    assert whole.endswith(": lost 0")
    assert len(torn) < 10
    assert told.endswith("WARNING gofer.agent.logs: 499 log lines were lost here: File too large")
    assert last.endswith(": after")


def test_standard_error_that_somebody_closes_or_takes_is_still_ours(tmp_path: Path) -> None:
    """And no line gets into the file that is opened in its place."""
    code = """
import logging, os, sys
from gofer.agent import logs

logs.configure({}, environ={})
os.close(2)
other = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
assert other == 2
logging.getLogger("gofer.some").info("ours")
"""
    other = tmp_path / "other"
    for stderr in (subprocess.PIPE, (tmp_path / "stderr").open("wb")):
        done = subprocess.run([sys.executable, "-c", code, str(other)], stderr=stderr, timeout=30, check=True)
        said = done.stderr or (tmp_path / "stderr").read_bytes()
        assert said.endswith(b" INFO gofer.some: ours\n")
        assert other.read_bytes() == b""
        if stderr is not subprocess.PIPE:
            stderr.close()  # type: ignore[union-attr]  # the file above


def test_a_journal_that_has_stopped_blocks_nobody() -> None:
    ours, theirs = socket.socketpair()
    former = os.dup(2)
    os.dup2(theirs.fileno(), 2)
    handler = NonBlockingHandler()
    os.dup2(former, 2)
    os.close(former)
    theirs.close()
    begun = monotonic()
    for _ in range(3000):
        emit(handler, "x" * 1000)
    assert monotonic() - begun < 30
    ours.close()
    handler.end()


def test_a_call_that_does_not_fit_its_arguments_is_one_line(tmp_path: Path) -> None:
    class Nasty:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    file = tmp_path / "agent"
    logs.configure({}, file=file, environ={})
    logging.getLogger("gofer.some").info("%d dogs", "many")
    logging.getLogger("gofer.some").info("%r", Nasty())
    first, second = file.read_text().splitlines()
    assert first.endswith(f"a log line cannot be shown: TypeError ({__file__}, line {_line_of('many')})")
    assert "a log line cannot be shown: RuntimeError" in second


def _line_of(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if f'"{text}"' in line)
