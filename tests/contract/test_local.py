"""The local adapter keeps the contract, against a local broker in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from gofer.messaging.local.adapter import LocalAdapter
from gofer.messaging.url import URL
from gofer.testing import AdapterContract
from support.frozen import freeze

_BROKER = """
import sys
from gofer.messaging.local.server import Broker
with Broker(sys.argv[1]) as broker:
    print("ready", flush=True)
    broker.serve_forever()
"""


@pytest.mark.xdist_group("local-adapter")  # one process makes what the class shares
class TestLocalAdapter(AdapterContract):
    """Everything, but for logins: the socket's mode and the peer's credentials are the local broker's login."""

    adapter = LocalAdapter
    has_logins = False
    heartbeat = 0.5
    limits = {  # noqa: RUF012 - as it is in the contract
        "has_logins": "The local broker asks for no password: the socket's mode and the peer's user are the login.",
        "tls": "The local broker listens on a Unix socket, which needs no TLS.",
        "alarm": "The local broker keeps its messages in memory and never blocks.",
    }

    @pytest.fixture(scope="class")
    @classmethod
    def process(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
        """Give a broker that runs as long as the class."""
        path: Path = tmp_path_factory.mktemp("run") / "broker.sock"
        with subprocess.Popen([sys.executable, "-c", _BROKER, str(path)], stdout=subprocess.PIPE, text=True) as broker:
            assert broker.stdout is not None
            assert broker.stdout.readline() == "ready\n"
            yield broker
            assert broker.poll() is None, "the broker died under its tests"
            broker.kill()

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, process: subprocess.Popen[str]) -> URL:
        """Give the URL of that broker."""
        return URL.parse(f"local://{process.args[-1]}")  # type: ignore[index]  # a list, as it was given one

    @pytest.fixture
    def frozen(self, process: subprocess.Popen[str]) -> Callable[[], AbstractContextManager[object]]:
        @contextmanager
        def frozen() -> Iterator[None]:
            freeze(process.pid)
            try:
                yield
            finally:
                process.send_signal(signal.SIGCONT)

        return frozen
