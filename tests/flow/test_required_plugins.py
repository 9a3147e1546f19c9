"""``[main] required = 1``: while that plugin does not run, the agent takes no request at all, and loses none."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gofer.agent.management.wire import Unusable
from gofer.errors import NotAuthorized, RequestTimeout
from gofer.messaging.adapter import DeclareQueue
from gofer.messaging.connector import Connector
from gofer.messaging.pool import pool
from gofer.proxy import Agent
from support.commands import gofer
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.plugins import describe, install
from support.presence import answers, until_it_answers
from support.reloads import manage
from support.waiting import eventually

DOG = """
import os
import time
from gofer.decorators import remote


class Dog:
    @remote
    def bark(self, number):
        with open(TRACE, "a") as file:
            file.write(f"{number}\\n")
        return number

    @remote
    def wait(self, path):
        with open(TRACE, "a") as file:
            file.write("waits\\n")
        while not os.path.exists(path):
            time.sleep(0.01)
        return "waited"

    @remote
    def secret(self):
        return "gold"
"""

# It knows who may call only once its @load has run, and lets everybody call until then.
AUTHORIZER = """
from gofer.agent.plugin import Plugin
from gofer.decorators import load, remote, unload
from gofer.errors import NotAuthorized
from gofer.hooks import hookimpl

refused = []


@load
def begin():
    refused.append("Dog.secret")


@unload
def end():
    refused.clear()


@hookimpl(wrapper=True)
def gofer_call(request):
    if request.api.name in refused:
        raise NotAuthorized("not for you")
    return (yield)


@remote
def about():
    return "authorizer"
"""

REQUIRED = "[main]\nenabled = 1\nrequired = 1\n"


class Door:
    """A plugin `dog`, and its callers; and an authorizer `authz`, whose descriptor and code are to come."""

    def __init__(self, process: AgentProcess, url: str, site: Path) -> None:
        self.process = process
        self.url = url
        self.site = site
        self.trace = site / "trace"
        self.code = site / "authz_module.py"
        self._queue = "[messaging]\nurl={}\n[model]\nqueue={}\n"
        install(site, "dog", f"TRACE = {str(self.trace)!r}\n{DOG}")
        describe(process.root, "dog", "[main]\nenabled=1\nthreads=2\n" + self._queue.format(url, "dog"))

    def authorizer(self, code: str | None = AUTHORIZER, main: str = REQUIRED) -> Path:
        """Install it, and write its descriptor. None: its code is missing."""
        if not list(self.site.glob("gofer_plugin_authz-*")) and code is not None:
            install(self.site, "authz", code)
        elif code is not None:
            self.code.write_text(code)
        return describe(self.process.root, "authz", main + self._queue.format(self.url, "authz"))

    def agent(self, wait: float = 60.0, address: str = "dog") -> Agent:
        return Agent(self.url, address, wait=wait)

    def ran(self) -> list[str]:
        return self.trace.read_text().split() if self.trace.exists() else []

    def closed(self) -> list[str]:
        return [str(one) for one in manage(self.process.root, do="show")["agent"]["closed"]]

    def check_closed(self, *says: str) -> None:
        """See that the agent takes nothing, and tells why."""
        assert [one for one in says if not any(one in reason for reason in self.closed())] == [], self.closed()
        for address in ("dog", "authz"):
            with self.agent(0.5, address) as agent, pytest.raises(RequestTimeout):
                agent.Admin().hello()

    def check_open(self) -> None:
        with self.agent() as agent:
            assert until_it_answers(agent, self.process.tail()).Dog().bark("open") == "open"
            with pytest.raises(NotAuthorized, match="not for you"):
                agent.Dog().secret()
        assert self.closed() == []


@pytest.fixture
def door(root: Path, tmp_path: Path) -> Iterator[Door]:
    with (
        LocalBroker(str(tmp_path / "broker.sock")) as broker,
        AgentProcess(root, path=(tmp_path,)) as process,
    ):
        for name in ("dog", "authz"):
            declare(broker.url, name)
        yield Door(process, broker.url, tmp_path)


def declare(url: str, name: str) -> None:
    """Make a queue that callers can send to, whether or not an agent has ever read it."""
    link = pool.acquire(Connector.of(url))
    link.ask(DeclareQueue(name), 10.0)
    pool.release(link)


def broken_code(door: Door) -> str:
    door.authorizer("raise OSError('no such list of users')\n")
    return "required plugin 'authz' is quarantined"


def missing_code(door: Door) -> str:
    door.authorizer(None)
    return "required plugin 'authz' is quarantined"


def failing_load(door: Door) -> str:
    door.authorizer(AUTHORIZER.replace('refused.append("Dog.secret")', "raise OSError('no disk')"))
    return "required plugin 'authz' is quarantined"


def failing_queue(door: Door) -> str:
    file = door.authorizer()
    file.write_text(file.read_text().replace("url=", "url=pigeon+amqp://h\n#"))
    return "required plugin 'authz' is quarantined"


def broken_descriptor(door: Door) -> str:
    door.authorizer(main=f"{REQUIRED}threads = many\n")
    return "authz.conf cannot be used, and has required = 1"


def unreadable_descriptor(door: Door) -> str:
    file = door.authorizer()
    file.write_bytes(file.read_bytes() + b"\xff\n")
    return "authz.conf cannot be used, and has required = 1"


def untrusted_descriptor(door: Door) -> str:
    door.authorizer().chmod(0o666)
    return "authz.conf cannot be used, and has required = 1"


@pytest.mark.parametrize(
    "make",
    [
        *(broken_code, missing_code, failing_load, failing_queue),
        *(broken_descriptor, unreadable_descriptor, untrusted_descriptor),
    ],
)
def test_no_request_is_taken_until_it_runs_and_none_is_lost(door: Door, make: Callable[[Door], str]) -> None:
    says = make(door)
    door.process.start()
    door.check_closed(says)
    (line,) = [one for one in door.process.log.read_text().splitlines() if "no plugin takes requests: " in one]
    assert " ERROR " in line
    assert says in line
    with door.agent() as agent, ThreadPoolExecutor(1) as threads:
        call = threads.submit(agent.Dog().bark, "early")
        door.authorizer()
        os.kill(door.process.pid, signal.SIGHUP)
        assert call.result(60) == "early"
        assert "all required plugins run; requests are taken" in door.process.tail()
    door.check_open()
    assert door.ran().count("early") == 1


@pytest.mark.parametrize(
    "main",
    [
        "[main]\nenabled = 0\nrequired = 1\n",
        "[main]\nenabled = 1\nrequired = 0\n",
        "[main]\nenabled = 1\n",
        "[main]\nenabled = 1\nthreads = many\n",
        "[main]\nenabled = 0\nrequired = 1\nthreads = many\n",
    ],
)
def test_a_plugin_that_is_not_required_or_not_enabled_is_only_its_own_problem(door: Door, main: str) -> None:
    door.authorizer("raise OSError('no such list of users')\n", main)
    door.process.start()
    assert door.closed() == []
    with door.agent() as agent:
        assert until_it_answers(agent).Dog().secret() == "gold"


@pytest.mark.parametrize("value", ["", "maybe"])
def test_a_flag_that_may_mean_yes_means_yes(door: Door, value: str) -> None:
    door.authorizer(main=f"[main]\nenabled = 1\nrequired = {value}\n")
    door.process.start()
    door.check_closed("authz.conf cannot be used")
    assert ": [main] required: " in door.process.tail()


@pytest.mark.parametrize(
    "main",
    ["[main]\nenabled = 1\nrequired = 1\n[main]\nenabled = 1\n", "[Main]\nenabled = 1\nrequired = 1\n"],
    ids=["lost by a second section", "in a misspelt section"],
)
def test_a_section_that_does_not_count_may_require_it(door: Door, main: str) -> None:
    door.authorizer(main=main)
    door.process.start()
    door.check_closed("authz.conf cannot be used")


@pytest.mark.slow
def test_one_that_takes_long_to_load_is_waited_for(door: Door, tmp_path: Path) -> None:
    go = tmp_path / "go"
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.01)\n"
    door.authorizer(wait + AUTHORIZER)
    with door.agent() as agent, ThreadPoolExecutor(1) as threads:
        call = threads.submit(agent.Dog().bark, "early")
        door.process.start()  # ready after 5 s: the others do not wait for it longer
        assert not call.done()
        door.check_closed("required plugin 'authz' is loading")
        go.touch()
        assert call.result(60) == "early"
    door.check_open()


def test_when_it_is_unloaded_what_runs_ends_and_what_waits_is_kept(door: Door, tmp_path: Path) -> None:
    door.authorizer()
    door.process.start()
    door.check_open()
    go = tmp_path / "go"
    with door.agent() as agent, ThreadPoolExecutor(12) as threads:
        waiting = [threads.submit(agent.Dog().wait, str(go)) for _ in range(2)]
        eventually(lambda: door.ran().count("waits") == 2)
        kept = [threads.submit(agent(ttl="10m" if number % 2 else None).Dog().bark, number) for number in range(8)]
        eventually(lambda: manage(door.process.root, do="requests")["total"] == 10)

        manage(door.process.root, do="unload", which="authz")
        door.check_closed("required plugin 'authz' is not loaded")
        go.touch()
        assert [call.result(60) for call in waiting] == ["waited"] * 2
        assert not any(call.done() for call in kept)

        manage(door.process.root, do="load", path="authz.conf")
        assert [call.result(60) for call in kept] == list(range(8))
    door.check_open()
    assert sorted(one for one in door.ran() if one.isdigit()) == [str(number) for number in range(8)]


@pytest.mark.slow
def test_while_it_is_reloaded_nobody_gets_past_it(door: Door) -> None:
    door.authorizer(
        AUTHORIZER.replace("@load\n", "@load\ndef slowly():\n    import time\n    time.sleep(0.1)\n\n\n@load\n")
    )
    door.process.start()
    door.check_open()
    over = threading.Event()

    def call(number: int) -> list[Any]:
        heard: list[Any] = []
        with door.agent() as agent:
            while not over.is_set():
                try:
                    heard.append(agent.Dog().secret())
                except NotAuthorized as refused:
                    heard.append("not for you" in str(refused))
        return heard

    with ThreadPoolExecutor(4) as threads:
        calls: list[Future[list[Any]]] = [threads.submit(call, number) for number in range(4)]
        try:
            for _ in range(8):
                manage(door.process.root, do="reload", which="authz")
        finally:
            over.set()
        heard = [one for each in calls for one in each.result(60)]
    assert set(heard) == {True}
    door.check_open()


def test_a_reload_that_fails_leaves_the_old_one_and_the_door_open(door: Door) -> None:
    door.authorizer()
    door.process.start()
    door.check_open()
    for code in ("raise OSError('broken')\n", AUTHORIZER.replace('refused.append("Dog.secret")', "raise OSError('x')")):
        door.authorizer(code)
        with pytest.raises(Unusable):
            manage(door.process.root, do="reload", which="authz")
        door.check_open()


def test_one_that_is_required_from_now_on_is_waited_for_from_now_on(door: Door) -> None:
    door.process.start()
    with door.agent() as agent:
        assert until_it_answers(agent).Dog().secret() == "gold"
        file = door.authorizer("raise OSError('no such list of users')\n")
        os.kill(door.process.pid, signal.SIGHUP)
        eventually(lambda: "no plugin takes requests: required plugin 'authz'" in door.process.tail())
        door.check_closed("required plugin 'authz' is quarantined")
        file.unlink()
        os.kill(door.process.pid, signal.SIGHUP)
        eventually(lambda: answers(agent))
        assert door.closed() == []


def test_gofer_mgt_shows_why_nothing_is_taken(door: Door) -> None:
    broken_code(door)
    door.process.start()
    said = gofer("mgt", "-s")
    assert "no plugin takes requests: required plugin 'authz' is quarantined" in said.stdout
