"""Processes that call: forked, stopped, and at their ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

from gofer.messaging.thread_driver import ThreadConnection
from support.company import declare, run
from support.localbroker import LocalBroker
from support.waiting import eventually


def test_a_fork_while_another_thread_writes_drops_every_link_in_the_child(broker: LocalBroker) -> None:
    ended = run(
        """
        import os, sys, threading, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # what it warns of, a fork beside threads, is the point
        from gofer.messaging.adapter import DeclareQueue, PurgeQueue
        from gofer.messaging.address import Address
        from gofer.messaging.connector import Connector
        from gofer.messaging.pool import pool
        from gofer.messaging.url import URL
        links = [pool.acquire(Connector(URL.parse(sys.argv[1]), heartbeat=h)) for h in (5.0, 6.0)]
        for link in links:
            link.ask(DeclareQueue("sink"))
        stop = threading.Event()
        def write():
            while not stop.is_set():
                links[0].publish_nowait(Address("", "sink"), b"x" * (1 << 20))
                links[0].ask(PurgeQueue("sink"))
        thread = threading.Thread(target=write)
        thread.start()
        bad = 0
        for _ in range(100):
            pid = os.fork()
            if pid == 0:
                os._exit(any(not link.abandoned or link.is_open for link in links))
            bad += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        stop.set()
        thread.join()
        print(bad)
        """,
        broker.url,
    )
    assert (ended.stdout, ended.stderr) == ("0\n", "")


def test_a_child_forked_in_a_progress_callback_can_leave_it(broker: LocalBroker) -> None:
    ended = run(
        """
        import os, signal, sys, threading, time
        from gofer.messaging.connector import Connector
        from gofer.messaging.url import URL
        from gofer.proxy import Agent
        from support.echo import EchoAgent
        class Chatty(EchoAgent):
            def answer(self, document, **said):
                super().answer(document, status="progress", total=1, completed=0, details="")
                super().answer(document)
        with Chatty(sys.argv[1]), Agent(Connector(URL.parse(sys.argv[1]), heartbeat=6.0), "agent", wait=40) as agent:
            stop = threading.Event()
            def noise():
                while not stop.is_set():
                    agent.Dog().bark("noise")
            threads = [threading.Thread(target=noise) for _ in range(4)]
            for thread in threads:
                thread.start()
            children = []
            def fork(report):
                pid = os.fork()
                if pid == 0:
                    raise SystemExit(0)
                children.append(pid)
            for n in range(40):
                try:
                    agent(progress=fork).Dog().bark(n)
                except SystemExit:
                    os._exit(0)
            stop.set()
            for thread in threads:
                thread.join()
            hung, deadline = 0, time.monotonic() + 30
            for pid in children:
                while os.waitpid(pid, os.WNOHANG)[0] == 0:
                    if time.monotonic() > deadline:
                        hung += 1
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)
                        break
                    time.sleep(0.01)
            print(len(children), hung)
        """,
        broker.url,
    )
    assert ended.stdout == "40 0\n", ended.stderr


def test_a_child_of_multiprocessing_complains_at_its_end(broker: LocalBroker) -> None:
    ended = run(
        """
        import multiprocessing, sys
        from gofer.proxy import Agent
        def work():
            Agent(sys.argv[1], "no-such-queue", wait=0).Dog().bark(1)
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        """,
        broker.url,
    )
    assert "no agent at this address" in ended.stderr


def test_a_process_that_stood_still_loses_nothing_that_it_sends_then(
    broker: LocalBroker, link: ThreadConnection
) -> None:
    declare(link, "sink")
    code = """
        import sys, time
        from gofer.messaging.connector import Connector
        from gofer.messaging.url import URL
        from gofer.proxy import Agent
        agent = Agent(Connector(URL.parse(sys.argv[1]), heartbeat=0.5), "sink", wait=0)
        agent.Dog().bark(0)
        agent.flush(20)
        print("ready", flush=True)
        end = time.time() + 1
        while time.time() < end:  # not asleep: the first to run when it goes on
            pass
        agent.Dog().bark(1)
        agent.flush(20)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), broker.url],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    eventually(lambda: time.monotonic() - start > 2)  # the broker has given it up
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors


def test_a_process_that_ran_out_of_file_descriptors_calls_again(broker: LocalBroker) -> None:
    ended = run(
        """
        import os, resource, sys
        from gofer.errors import GoferError
        from gofer.messaging.connector import Connector
        from gofer.messaging.url import URL
        from gofer.proxy import Agent
        from support.echo import EchoAgent
        def caller(heartbeat):  # each heartbeat has a connection of its own
            return Agent(Connector(URL.parse(sys.argv[1]), heartbeat=heartbeat), "agent", wait=60)
        with EchoAgent(sys.argv[1]), caller(30.0) as first:
            first.Dog().bark("imports all")
            resource.setrlimit(resource.RLIMIT_NOFILE, (200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            for left in range(6):
                taken = []
                try:
                    while True:
                        taken.append(os.dup(0))
                except OSError:
                    pass
                for _ in range(left):
                    os.close(taken.pop())
                with caller(20.0 + left) as agent:
                    try:
                        agent(wait=0.5).Dog().bark("starved")
                    except (GoferError, OSError):
                        pass
                    for descriptor in taken:
                        os.close(descriptor)
                    agent.Dog().bark("fed")
        print("fed")
        """,
        broker.url,
    )
    assert (ended.stdout, "Traceback" in ended.stderr) == ("fed\n", False), ended.stderr
