"""When a call is asked again: the flow of one call, driven step by step."""

from __future__ import annotations

from typing import Any

import pytest
from gofer.errors import RequestTimeout
from gofer.messaging.adapter import Outcome
from gofer.messaging.document import decode_reply
from gofer.rmi.calling import INTERRUPTED, Call, Hear, Heard, Listen, Send, flow
from gofer.rmi.options import Options
from support.captured import CAPTURED, HexAuthenticator

OURS = b'{"sn": "a", "version": "2.0", "origin": "queue", "status": "%s"}'
LOST = (Outcome.UNKNOWN, "the connection was lost")


class Driven:
    """A call whose every step is told by the test."""

    def __init__(self, **options: Any) -> None:
        self.document: dict[str, Any] = {"request": {"classname": "Dog", "method": "bark"}}
        self.call = Call("a", lambda: None)
        self.sent = 0
        given = Options().having(options)
        self.steps = flow(self.call, self.document, "queue", given, encode=lambda ttl: b"request", state=lambda: "open")
        assert isinstance(next(self.steps), Listen)
        self.step: Any = self.steps.send(None)
        self._follow()

    def hear(self, event: Any) -> None:
        """Tell it what comes next, and see what it does then, up to where it waits again."""
        assert isinstance(self.step, Hear)
        self.step = self.steps.send(Heard(decode_reply(event), event) if isinstance(event, bytes) else event)
        self._follow()

    def _follow(self) -> None:
        while isinstance(self.step, Send):
            self.sent += 1
            self.step = self.steps.send(None)


@pytest.mark.parametrize("event", [INTERRUPTED, LOST])
@pytest.mark.parametrize("heard", [[], [OURS % b"accepted"], [OURS % b"accepted", OURS % b"started"]])
def test_an_agent_of_ours_is_asked_again_whatever_it_has_said(heard: list[bytes], event: Any) -> None:
    """It recognizes the request by its number, and answers as it did, or will."""
    one = Driven()
    for body in heard:
        one.hear(body)
    one.hear(event)
    assert (one.sent, one.document.get("again")) == (2, True)


@pytest.mark.parametrize("event", [INTERRUPTED, LOST])
@pytest.mark.parametrize("name", ["status-accepted", "status-started", "status-progress-details-1"])
def test_an_agent_of_2_12_that_has_the_request_is_not_asked_again(name: str, event: Any) -> None:
    """It would run it once more. What it sends meanwhile waits in the queue for replies."""
    one = Driven()
    one.hear(CAPTURED[name].body)
    one.hear(event)
    one.hear(event)
    assert (one.sent, "again" in one.document) == (1, False)
    with pytest.raises(StopIteration):
        one.hear(CAPTURED["result-text"].body)
    assert one.call.conversation.outcome() == CAPTURED["result-text"].document["result"]["retval"]


def test_its_caller_hears_how_far_it_got() -> None:
    one = Driven(wait=5)
    one.hear(CAPTURED["status-started"].body)
    one.hear(INTERRUPTED)
    with pytest.raises(RequestTimeout, match="it was started by the agent; it may still run"):
        one.hear(None)


def test_signed_statuses_of_2_12_tell_it_too() -> None:
    one = Driven(authenticator=HexAuthenticator())
    body = CAPTURED["signed-accepted"].body
    one.step = one.steps.send(Heard(decode_reply(CAPTURED["signed-accepted"].inner), body))
    one.hear(INTERRUPTED)
    assert one.sent == 1
