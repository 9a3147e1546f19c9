"""A plugin whose methods make spans of their own, and programs that call it."""

from __future__ import annotations

__all__ = ["CALLER", "TRACED"]

TRACED = """
    import asyncio
    import os
    import threading
    import contextvars
    import time
    from gofer.agent.rmi import Context
    from gofer.decorators import fork, remote
    from gofer.proxy import Agent
    from opentelemetry import trace

    tracer = trace.get_tracer("traced")

    class Dog:
        @remote
        def bark(self):
            with tracer.start_as_current_span("in bark"):
                return "woof"

        @remote
        def thread(self):
            def work():
                tracer.start_span("in thread").end()
            thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
            thread.start()
            thread.join()

        @remote
        async def later(self):
            await asyncio.sleep(0)
            tracer.start_span("in later").end()

        @remote
        @fork
        def apart(self):
            with tracer.start_as_current_span("in apart"):
                return os.getpid()

        @remote
        @fork
        async def apart_later(self):
            await asyncio.sleep(0)
            tracer.start_span("in apart_later").end()

        @remote
        @fork
        def fail(self):
            raise ValueError("no bone")

        @remote
        @fork
        def dies(self):
            os.kill(os.getpid(), 9)

        @remote(timeout=0.2)
        def slow(self):
            while not Context.current().cancelled():
                time.sleep(0.005)

        @remote
        def onward(self, url, queue):
            with Agent(url, queue, wait=20) as agent:
                return agent.Dog().apart_onward(url)

        @remote
        @fork
        def apart_onward(self, url):
            with Agent(url, "traced", wait=20) as agent:
                return agent.Dog().bark()
"""

CALLER = """
import sys
from gofer.proxy import Agent
with Agent(sys.argv[1], sys.argv[2], wait=20) as agent:
    print(agent.Dog().bark())
"""
