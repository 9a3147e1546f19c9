"""The small parts of goferd: its lock, signals, log formats, and what it tells the service manager."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.agent.links import Links
from gofer.agent.process import AgentLock, AlreadyRunning, Signals, notify, watchdog_interval
from gofer.errors import ConfigError, ConnectionLost
from gofer.messaging.connector import Connector
from gofer.messaging.pool import Pool
from gofer.rmi.clock import Clock
from gofer.root import Root


class TestLock:
    def test_the_second_is_told_who_holds_it_and_may_have_it_afterwards(self, root: Path) -> None:
        with AgentLock(Root(root)):
            with pytest.raises(
                AlreadyRunning, match=f"process {os.getpid()} holds {root}/run/gofer/goferd.lock"
            ) as caught:
                AgentLock(Root(root)).__enter__()
            assert caught.value.holder == os.getpid()
        with AgentLock(Root(root)):
            pass

    def test_it_ends_with_its_process_and_not_with_those_that_were_started_from_it(self, root: Path) -> None:
        code = (
            "import os, subprocess, sys\n"
            "from pathlib import Path\n"
            "from gofer.agent.process import AgentLock\n"
            "from gofer.root import Root\n"
            "AgentLock(Root(Path(sys.argv[1]))).__enter__()\n"
            "child = subprocess.Popen(['sleep', '60'], close_fds=False, stdout=subprocess.DEVNULL)\n"
            "print(child.pid, flush=True)\n"
            "os.kill(os.getpid(), 9)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, timeout=30, check=False)
        try:
            with AgentLock(Root(root)):
                pass
        finally:
            os.kill(int(done.stdout), signal.SIGKILL)

    def test_it_ends_with_its_process_and_not_with_those_that_were_forked_from_it(self, root: Path) -> None:
        code = (
            "import os, sys, time\n"
            "from pathlib import Path\n"
            "from gofer.agent.process import AgentLock\n"
            "from gofer.root import Root\n"
            "AgentLock(Root(Path(sys.argv[1]))).__enter__()\n"
            "child = os.fork()\n"
            "if not child:\n"
            "    os.close(1)\n"
            "    time.sleep(60)\n"
            "print(child, flush=True)\n"
            "os.kill(os.getpid(), 9)\n"
        )
        done = subprocess.run([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE, timeout=30, check=False)
        try:
            with AgentLock(Root(root)):
                pass
        finally:
            os.kill(int(done.stdout), signal.SIGKILL)

    def test_a_link_in_its_place_is_not_followed(self, root: Path, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.write_text("kept")
        (root / "run/gofer/goferd.lock").symlink_to(precious)

        with pytest.raises(ConfigError, match=r"goferd\.lock: cannot be opened"):
            AgentLock(Root(root)).__enter__()

        assert precious.read_text() == "kept"


class TestSignals:
    @pytest.fixture(autouse=True)
    def as_before(self) -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM)}
        yield
        for number, handler in before.items():
            signal.signal(number, handler)

    def test_one_that_came_before_is_not_lost(self) -> None:
        with Signals([signal.SIGUSR1, signal.SIGUSR2]) as signals:
            os.kill(os.getpid(), signal.SIGUSR2)
            os.kill(os.getpid(), signal.SIGUSR1)

            assert [signals.wait(5), signals.wait(5)] == [signal.SIGUSR2, signal.SIGUSR1]
            assert signals.wait(0.01) is None

    def test_a_waiting_thread_is_woken_by_a_signal_and_by_wake(self) -> None:
        with Signals([signal.SIGUSR1]) as signals:
            for send, expected in (
                (lambda: os.kill(os.getpid(), signal.SIGUSR1), signal.SIGUSR1),
                (signals.wake, None),
            ):
                timer = threading.Timer(0.05, send)
                timer.start()
                begun = time.monotonic()
                assert signals.wait(20) == expected
                assert time.monotonic() - begun < 10
                timer.join()

    def test_at_the_end_they_are_ignored_and_a_late_thread_does_no_harm(self) -> None:
        with Signals([signal.SIGUSR1]) as signals:
            pass

        os.kill(os.getpid(), signal.SIGUSR1)
        signals.wake()

    # Python warns of locks that other threads may hold; the child here takes none.
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_what_is_forked_has_them_for_itself(self) -> None:
        with Signals([signal.SIGTERM]) as signals:
            child = os.fork()
            if not child:
                os.kill(os.getpid(), signal.SIGTERM)
                os._exit(0)

            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
            assert signals.wait(0) is None

    def test_what_is_started_inherits_no_mask(self) -> None:
        with Signals([signal.SIGTERM]):
            shown = subprocess.run(["grep", "SigBlk", "/proc/self/status"], stdout=subprocess.PIPE, check=True).stdout

        assert int(shown.split()[1], 16) == 0


class TestNotify:
    def test_a_state_is_sent_to_the_socket(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            for address in (str(tmp_path / "notify"), f"\0gofer-{os.getpid()}"):
                manager.close()
                manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # noqa: PLW2901 - one after the other
                manager.bind(address)
                assert notify({"NOTIFY_SOCKET": address.replace("\0", "@")}, "READY=1")
                assert manager.recv(100) == b"READY=1"
            manager.close()

    def test_nobody_there_is_no_trouble(self, tmp_path: Path) -> None:
        assert not notify({}, "READY=1")
        assert not notify({"NOTIFY_SOCKET": "relative"}, "READY=1")
        assert not notify({"NOTIFY_SOCKET": str(tmp_path / "nothing")}, "READY=1")

    @pytest.mark.parametrize(
        ("limit", "process", "interval"),
        [
            ("1000000", "", 0.5),
            ("30000000", "ours", 15.0),
            ("30000000", "1", None),  # another process is watched
            ("0", "", None),
            ("", "", None),
            ("-5", "", None),
            ("soon", "", None),
        ],
    )
    def test_a_watchdog_is_fed_at_half_of_its_limit(self, limit: str, process: str, interval: float | None) -> None:
        pid = process.replace("ours", str(os.getpid()))
        assert watchdog_interval({"WATCHDOG_USEC": limit, "WATCHDOG_PID": pid}) == interval

    def test_without_a_service_manager_there_is_no_watchdog(self) -> None:
        assert watchdog_interval({}) is None


class TestLinks:
    def pauses(self, url: str) -> list[float]:
        """Return the pauses after the first failures of connections of agents."""
        found = []
        for _ in range(30):
            links = Links(Pool(), Clock(), 0.0)
            connection = links.acquire(Connector.of(url))
            connection.core.connecting()
            connection.core.connect()
            connection.core.connect_failed(ConnectionLost("refused"), 0.0)
            found.append(connection.core.connect_at)
            links.release(connection)
        return found

    def test_agents_come_back_to_a_broker_one_after_the_other(self, root: Path) -> None:
        assert 2.5 < max(self.pauses("amqp://127.0.0.1:1")) <= 5.0
        assert max(self.pauses(f"local://{root}/broker.sock")) <= 0.25
