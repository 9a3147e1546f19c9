"""Callers on platforms that lack what Linux has: eventfd, and the options of TCP's keepalive."""

from __future__ import annotations

import os

import pytest
from gofer.messaging.wire import Wakeup
from support.company import run
from support.echo import EchoAgent
from support.localbroker import LocalBroker

#: Runs before gofer is imported.
POOR = """
    import os, select, socket, sys
    for module, names in ((os, "eventfd EFD_"), (select, "epoll"), (socket, "TCP_KEEP")):
        for name in [name for name in dir(module) if name.startswith(tuple(names.split()))]:
            delattr(module, name)
    assert not hasattr(os, "eventfd") and not hasattr(socket, "TCP_KEEPIDLE")
"""

THREADS = """
    import threading, warnings
    from concurrent.futures import ThreadPoolExecutor
    from gofer.messaging.pool import pool
    from gofer.proxy import Agent

    with Agent(sys.argv[1], "agent", wait=40) as agent:
        assert agent.Dog().bark("first") == "first"
        (connection,) = pool._connections.values()
        assert connection._wakeup._read != connection._wakeup._write  # a pipe
        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(agent.Dog().bark, range(400))) == list(range(400))
        for n in range(400):
            agent(wait=0).Dog().bark(n)
        agent.flush(20)
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        child = os.fork()
        if not child:
            os._exit(0 if agent.Dog().bark("child") == "child" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert agent.Dog().bark("last") == "last"
    print("done")
"""

LOOP = """
    import asyncio
    from gofer.aio import Agent

    async def main():
        async with Agent(sys.argv[1], "agent", wait=40) as agent:
            assert await agent.Dog().bark("first") == "first"
            assert await asyncio.gather(*(agent.Dog().bark(n) for n in range(400))) == list(range(400))
            for n in range(400):
                await agent(wait=0).Dog().bark(n)
            await agent.flush(20)

    asyncio.run(main())
    print("done")
"""


@pytest.mark.parametrize("code", [THREADS, LOOP], ids=["threads", "asyncio"])
def test_callers_start_without_eventfd(broker: LocalBroker, code: str) -> None:
    with EchoAgent(broker.url):
        done = run(POOR + code, broker.url)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


@pytest.mark.parametrize("poor", [False, True])
def test_a_wakeup_that_is_set_for_ever_never_blocks(monkeypatch: pytest.MonkeyPatch, poor: bool) -> None:
    """A pipe is full after 64 KiB."""
    if poor:
        monkeypatch.delattr(os, "eventfd")
    wakeup = Wakeup()
    try:
        for _ in range(20_000):
            wakeup.set()
        for _ in range(100):
            wakeup.clear()
        with pytest.raises(BlockingIOError):
            os.read(wakeup.fileno(), 8)
        wakeup.set()
        assert os.read(wakeup.fileno(), 8)
    finally:
        wakeup.close()
    wakeup.set()
