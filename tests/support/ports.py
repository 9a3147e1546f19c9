"""Ports for servers that tests start, and ports that take connections, or none."""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

__all__ = ["free_port", "full", "listening"]

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


@contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[tuple[socket.socket, int]]:
    """Listen on a port of the system's choice; yields the listener and its port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        yield listener, listener.getsockname()[1]


@contextmanager
def full() -> Iterator[int]:
    """Listen on a port whose queue of connections is full: another one is neither taken nor refused."""
    with listening() as (listener, port), ExitStack() as waiting:
        listener.listen(0)
        for _ in range(4):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        yield port
