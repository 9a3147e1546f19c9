"""The local adapter keeps the contract, against a local broker in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.messaging.local.adapter import LocalAdapter
from gofer.messaging.url import URL
from gofer.testing import AdapterContract

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
    limits = {  # noqa: RUF012 - as it is in the contract
        "has_logins": "The local broker asks for no password: the socket's mode and the peer's user are the login.",
        "tls": "The local broker listens on a Unix socket, which needs no TLS.",
        "alarm": "The local broker keeps its messages in memory and never blocks.",
    }

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[URL]:
        """Give the URL of a broker that runs as long as the class."""
        path: Path = tmp_path_factory.mktemp("run") / "broker.sock"
        with subprocess.Popen([sys.executable, "-c", _BROKER, str(path)], stdout=subprocess.PIPE, text=True) as broker:
            assert broker.stdout is not None
            assert broker.stdout.readline() == "ready\n"
            yield URL.parse(f"local://{path}")
            assert broker.poll() is None, "the broker died under its tests"
            broker.kill()
