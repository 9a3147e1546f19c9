"""Ports for servers that tests start."""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator

__all__ = ["free_port"]

# Below the range that outgoing connections take. A server listens seconds after its port was chosen: so each process
# that runs tests chooses from ports of its own, and no port twice.
_FIRST, _COUNT, _PROCESSES = 15_000, 2_000, 8
_own = _FIRST + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % _PROCESSES * _COUNT
_start = random.SystemRandom().randrange(_COUNT)  # others may run tests on this machine, too
_ports: Iterator[int] = itertools.cycle([*range(_own + _start, _own + _COUNT), *range(_own, _own + _start)])


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("not reached")
