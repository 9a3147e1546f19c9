"""The log of a real goferd says why a method failed, who had asked, and of which plugin."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.errors import MemberNotFound, Rejected, RemoteException
from gofer.proxy import Agent
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.waiting import eventually

KENNEL = """
from gofer.decorators import fork, remote


class Refusal(Exception):
    pass


def deeper(words):
    raise Refusal(words)


class Dog:
    @remote
    def bark(self, words):
        deeper(words)

    @remote
    async def howl(self, words):
        deeper(words)

    @remote
    @fork
    def fetch(self, words):
        deeper(words)

    @remote
    def twice(self, words):
        raise Refusal(words, 2)

    @remote
    def sit(self):
        return True
"""


class Kennel:
    """A goferd that logs JSON, and a caller of its plugin."""

    def __init__(self, process: AgentProcess, agent: Agent) -> None:
        self.process = process
        self.agent = agent

    def lines(self, sn: str) -> list[dict[str, Any]]:
        """Wait for the lines about a request, and return them."""
        log = self.process.root / "var/log/gofer/agent"
        return eventually(
            lambda: [json.loads(one) for one in log.read_text().rpartition("\n")[0].splitlines() if sn in one]
        )

    def one_way(self, method: str, *args: Any) -> dict[str, Any]:
        sn = self.agent(wait=0).Dog()[method](*args)
        self.agent.flush(20)
        (line,) = self.lines(sn)
        return line


@pytest.fixture
def kennel(root: Path, request: pytest.FixtureRequest) -> Iterator[Kennel]:
    level = getattr(request, "param", "info")
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker, AgentProcess(root) as process:
        text = "[main]\nenabled = 1\n[messaging]\nurl = {}\n[model]\nqueue = yard\n"
        process.plugin("kennel", KENNEL, text.format(broker.url))
        process.configure(f"[logging]\nlog-file = agent\nlog-format = json\ngofer.rmi.requests = {level}\n")
        process.start()
        with Agent(broker.url, "yard", wait=30) as agent:
            yield Kennel(process, until_it_answers(agent, process.tail()))


def failed(kennel: Kennel, call: Callable[[], object]) -> dict[str, Any]:
    """Make a call that fails, and return the line about it."""
    before = kennel.agent.Dog().sit()
    assert before is True
    log = kennel.process.root / "var/log/gofer/agent"
    known = len(log.read_text().splitlines())
    with pytest.raises(RemoteException):
        call()
    found = eventually(
        lambda: [
            json.loads(one) for one in log.read_text().rpartition("\n")[0].splitlines()[known:] if "exception" in one
        ]
    )
    (line,) = found
    assert isinstance(line, dict)
    return line


@pytest.mark.parametrize("method", ["bark", "howl", "fetch"])
def test_the_line_names_class_message_plugin_and_caller_and_its_caller_has_the_traceback(
    kennel: Kennel, method: str
) -> None:
    line = failed(kennel, lambda: kennel.agent.Dog()[method]("no bone"))
    sn, caller, rest = line["message"].split(" ", 2)
    assert (line["level"], line["logger"]) == ("INFO", "gofer.rmi.requests")
    assert len(sn) == 36
    assert caller.startswith("'")
    assert caller != "'nobody'"
    assert rest.startswith(f"kennel Dog.{method} exception ")
    assert rest.endswith(" ms: Refusal: no bone")
    assert "trace" not in line


@pytest.mark.parametrize("kennel", ["debug"], indirect=True)
@pytest.mark.parametrize("method", ["bark", "howl", "fetch"])
def test_at_debug_the_traceback_is_there_too(kennel: Kennel, method: str) -> None:
    line = failed(kennel, lambda: kennel.agent.Dog()[method]("no bone"))
    assert "in deeper" in line["trace"]
    assert line["trace"].endswith("Refusal: no bone")


@pytest.mark.parametrize("method", ["bark", "howl", "fetch"])
def test_where_nobody_waits_it_is_a_warning_with_the_traceback(kennel: Kennel, method: str) -> None:
    line = kennel.one_way(method, "no bone")
    assert line["level"] == "WARNING"
    assert f" 'nobody' kennel Dog.{method} exception " in line["message"]
    assert line["message"].endswith(": Refusal: no bone")
    assert "in deeper" in line["trace"]


def test_messages_cannot_break_a_line_or_fill_the_log(kennel: Kennel) -> None:
    line = kennel.one_way("bark", "red \x1b[31m\nalert \x9b2J " + "x" * 1_000_000)
    assert ": Refusal: red \\x1b[31m alert \\x9b2J xxx" in line["message"]
    assert len(line["message"]) < 500
    assert kennel.one_way("twice", "a")["message"].endswith(" ms: Refusal: ('a', 2)")


def test_what_the_agent_refuses_needs_no_traceback(kennel: Kennel) -> None:
    with pytest.raises(MemberNotFound) as told:
        kennel.agent.Dog().brak()
    line = kennel.one_way("brak")
    assert line["level"] == "WARNING"
    assert f"MemberNotFound: {told.value.description}" in line["message"]
    assert "trace" not in line


def test_a_cancellation_says_why_and_is_no_failure(kennel: Kennel) -> None:
    trigger = kennel.agent(trigger=1, wait=0).Dog().sit()
    kennel.agent.Admin().cancel(trigger.sn)
    trigger()
    kennel.agent.flush(20)
    (line,) = eventually(lambda: [one for one in kennel.lines(trigger.sn) if "cancelled" in one["message"]])
    assert (line["level"], "trace" in line) == ("INFO", False)
    assert line["message"].endswith("Cancelled: cancelled before it was started")


SIGNING = """
from gofer.agent.plugin import Plugin
from gofer.decorators import load, remote


class Authenticator:
    def sign(self, digest):
        return digest

    def validate(self, document, digest, signature):
        return document["nobody sends this"]


@load
def begin():
    Plugin.find(__name__).authenticator = Authenticator()


class Dog:
    @remote
    def bark(self):
        return "woof"
"""


class Signer:
    """The caller's half, which believes everybody."""

    def sign(self, digest: str) -> str:
        return digest

    def validate(self, document: Any, digest: str, signature: Any) -> None:
        pass


def test_an_authenticator_that_makes_a_mistake_is_named_with_the_traceback(root: Path) -> None:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker, AgentProcess(root) as process:
        text = f"[main]\nenabled = 1\n[messaging]\nurl = {broker.url}\n[model]\nqueue = signing\n"
        process.plugin("signing", SIGNING, text)
        process.start()
        with (
            Agent(broker.url, "signing", wait=30, authenticator=Signer()) as agent,
            pytest.raises(Rejected, match="authenticator failed: KeyError") as caught,
        ):
            agent.Dog().bark()
        assert "nobody sends this" not in str(caught.value)
        log = eventually(lambda: process.tail().partition("plugin signing: its authenticator failed: KeyError\n")[2])
        assert 'return document["nobody sends this"]' in log
