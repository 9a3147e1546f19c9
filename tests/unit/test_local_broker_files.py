"""The local broker's files, and its life from open to close."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.errors import ConnectionLost, MessagingError
from gofer.messaging.adapter import DeclareQueue, DeleteQueue, Outcome, PurgeQueue
from gofer.messaging.local import default_path
from gofer.messaging.local.server import Broker, serving
from gofer.testing._contract.driver import Driver
from support.local_clients import WAIT, connected, send


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "run" / "broker.sock")


@pytest.fixture
def broker(path: str) -> Iterator[Broker]:
    with serving(path) as broker:
        yield broker


@pytest.fixture
def driver(broker: Broker) -> Iterator[Driver]:
    made = connected(broker.path)
    yield made
    made.close()


# -- files --------------------------------------------------------------------------------------------------------


def test_only_its_owner_reaches_the_socket(broker: Broker, path: str) -> None:
    found = os.stat(path)
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700


def test_the_socket_is_private_whatever_the_umask(path: str) -> None:
    code = f"""
import os
from gofer.messaging.local.server import Broker
os.umask(0)
with Broker({path!r}):
    print(oct(os.stat({path!r}).st_mode))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0o140600\n"


def test_nothing_stays_behind(path: str) -> None:
    with serving(path):
        assert sorted(os.listdir(os.path.dirname(path))) == ["broker.sock", "broker.sock.lock"]
    assert os.listdir(os.path.dirname(path)) == []


def test_it_can_be_opened_again_but_not_twice(path: str) -> None:
    broker = Broker(path)
    for _ in range(2):
        with broker:
            with pytest.raises(MessagingError, match=rf"held by process {os.getpid()}$"), broker:
                pass
            connected_socket(path).close()


def connected_socket(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


@pytest.mark.parametrize("length", [107, 108, 300])
def test_a_path_may_be_long(tmp_path: Path, length: int) -> None:
    directory = str(tmp_path)
    while len(directory) + 60 < length - 10:
        directory += "/" + "d" * 48
    path = f"{directory}/{'x' * (length - len(directory) - 1)}"
    assert len(path) == length
    with serving(path):
        driver = connected(path)
        driver.ask(DeclareQueue("q"))
        assert send(driver, "q", b"there").outcome is Outcome.CONFIRMED
        driver.close()
    assert not os.path.lexists(path)


def test_the_default_path_is_below_the_root() -> None:
    assert default_path({}) == "/run/gofer/broker.sock"
    assert default_path({"GOFER_ROOT": "/private"}) == "/private/run/gofer/broker.sock"


def test_the_adapter_uses_the_default_path(root: Path) -> None:
    with serving(default_path(os.environ)):
        connected().close()
    with pytest.raises(ConnectionLost, match=f"{root}/run/gofer/broker.sock"):
        connected()


def test_what_a_killed_broker_left_is_replaced(path: str) -> None:
    code = f"""
from gofer.messaging.local.server import Broker
with Broker({path!r}) as broker:
    print("open", flush=True)
    broker.serve_forever()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(MessagingError, match=rf"{path}.*held by process {other.pid}$"), Broker(path):
            pass
        connected(path).close()  # the attempt has not harmed it
        other.kill()
    assert os.path.exists(path)
    with serving(path):
        connected(path).close()


@pytest.mark.parametrize("thing", ["file", "directory", "link"])
def test_what_is_no_socket_is_not_removed(path: str, thing: str) -> None:
    os.makedirs(os.path.dirname(path))
    if thing == "file":
        Path(path).write_text("precious")
    elif thing == "directory":
        os.mkdir(path)
    else:
        os.symlink("/dev/null", path)
    with pytest.raises(MessagingError, match=rf"{path} is there, and is not a socket"), Broker(path):
        pass
    assert os.path.lexists(path)


def test_a_socket_of_another_program_is_not_removed(path: str) -> None:
    os.makedirs(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        with pytest.raises(MessagingError, match="another program listens"), Broker(path):
            pass
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    broker = Broker(str(tmp_path / "file" / "x" / "b.sock"))
    with pytest.raises(MessagingError, match=rf"cannot listen at {tmp_path}/file/x/b\.sock: Not a directory"), broker:
        pass


def test_a_missing_broker_is_reported_with_its_path(path: str) -> None:
    with pytest.raises(ConnectionLost, match=rf"{path}: there is no such socket"):
        connected(path)


# -- its life -------------------------------------------------------------------------------------------------------


def test_another_run_is_without_the_messages(path: str) -> None:
    for _ in range(2):
        with serving(path):
            driver = connected(path)
            assert driver.ask(DeclareQueue("q")) is None
            driver.ask(DeleteQueue("q", if_empty=True))
            driver.ask(DeclareQueue("q"))
            assert send(driver, "q", b"x").outcome is Outcome.CONFIRMED
        with pytest.raises(ConnectionLost):
            driver.ask(PurgeQueue("q"))


def test_stop_wakes_it_from_another_thread(path: str) -> None:
    with Broker(path) as broker:
        thread = threading.Thread(target=broker.serve_forever)
        thread.start()
        start = time.monotonic()
        broker.stop()
        thread.join(WAIT)
        assert time.monotonic() - start < WAIT / 2
    broker.stop()


def test_a_stop_before_it_serves_counts(path: str) -> None:
    with Broker(path) as broker:
        broker.stop()
        broker.serve_forever()


def test_it_rests_when_there_is_nothing_to_do(driver: Driver) -> None:
    driver.ask(DeclareQueue("q", expires=3600.0))
    before = time.process_time()
    ended = threading.Event()
    ended.wait(0.5)  # the time is what is measured: nothing is waited for
    assert time.process_time() - before < 0.25  # it would be all of it
