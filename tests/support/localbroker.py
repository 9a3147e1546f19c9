"""The local broker as a process of its own, so that a test can kill and restart it."""

from __future__ import annotations

import signal
import subprocess
import sys
from types import TracebackType

from support import forkserver
from support.frozen import freeze
from support.waiting import eventually

__all__ = ["LocalBroker"]

_SERVE = """
import signal, sys
from gofer.messaging.local.server import Broker
broker = Broker(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: broker.stop())
with broker:
    print("ready", flush=True)
    broker.serve_forever()
"""


class LocalBroker:
    """A context manager around a broker at a path."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.url = f"local://{path}"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = forkserver.Popen([sys.executable, "-c", _SERVE, self.path], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._end()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._end()

    def freeze(self) -> None:
        assert self._process is not None
        freeze(self._process.pid)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        self.kill()
        eventually(lambda: self._process is None)
        self.start()

    def _end(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()

    def __enter__(self) -> LocalBroker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
