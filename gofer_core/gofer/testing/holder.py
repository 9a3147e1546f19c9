"""Be a consumer that can be killed: a process that takes deliveries and never settles them.

Run as ``python -m gofer.testing.holder`` with an order on the first line of its standard input; see ``Holder``.
"""

from __future__ import annotations

import importlib
import json
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from types import TracebackType
from typing import cast

from gofer.messaging.adapter.base import Adapter, Delivery
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL

__all__ = ["Holder"]


class Holder:
    """A child process that holds the first ``count`` messages of a queue, by an adapter of its own. A context manager.

    When the ``with`` block is entered they are held.

    Raises:
        RuntimeError: the child could not take them within 20 seconds.
    """

    def __init__(self, adapter: type[Adapter], connector: Connector, queue: str, count: int = 1) -> None:
        shape = {key: value for key, value in asdict(connector).items() if key != "url"}
        order = {
            "adapter": [adapter.__module__, adapter.__qualname__],
            "url": connector.url.text,
            "connector": shape,
            "queue": queue,
            "count": count,
        }
        self._order = json.dumps(order)
        self._process: subprocess.Popen[str] | None = None

    def kill(self) -> None:
        """Kill the child by SIGKILL. Idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Holder:
        self._process = subprocess.Popen(  # noqa: S603 - this module, our own interpreter
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018 - asked for above
        self._process.stdin.write(self._order + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "holding\n":
            self.__exit__(None, None, None)
            raise RuntimeError("the holder took no delivery")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None


def _main() -> None:
    order = json.loads(sys.stdin.readline())
    module, name = order["adapter"]
    found: object = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    adapter = cast("type[Adapter]", found)(Connector(URL.parse(order["url"]), **order["connector"]))
    adapter.connect(10.0)
    adapter.subscribe(order["queue"], order["count"], 10.0)
    held, deadline = 0, time.monotonic() + 20.0
    while held < order["count"] and time.monotonic() < deadline:
        if not adapter.pending:
            select.select([adapter.fileno()], [], [], 0.5)
        held += sum(isinstance(event, Delivery) for event in adapter.process())
    if held == order["count"]:
        print("holding", flush=True)
        signal.pause()


if __name__ == "__main__":
    _main()
