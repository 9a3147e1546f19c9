"""The network that misbehaves, of ``gofer.testing``."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import ExitStack

import pytest
from gofer.messaging.url import URL
from gofer.testing.proxy import Proxy


def test_connections_that_say_nothing_take_no_time() -> None:
    with ExitStack() as stack:
        broker = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
        proxy = stack.enter_context(Proxy(URL.parse(f"amqp://127.0.0.1:{broker.getsockname()[1]}")))
        (thread,) = (one for one in threading.enumerate() if one.name == "proxy")
        assert thread.ident is not None
        clock = time.pthread_getcpuclockid(thread.ident)
        pairs = []
        for _ in range(50):
            near = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.url.port or 0), 10))
            far = stack.enter_context(broker.accept()[0])
            near.sendall(b"hello")
            assert far.recv(5) == b"hello"
            pairs.append((near, far))
        before = time.clock_gettime(clock)
        time.sleep(0.5)
        assert time.clock_gettime(clock) - before < 0.01
        near, far = pairs[-1]
        proxy.to_broker.stalled = True  # what is set while nothing comes holds for what comes next
        near.sendall(b"later")
        far.settimeout(0.1)
        with pytest.raises(TimeoutError):
            far.recv(5)
        proxy.to_broker.stalled = False
        far.settimeout(10)
        assert far.recv(5) == b"later"
