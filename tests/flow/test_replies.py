"""Replies that nobody waits for, over the local broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.messaging.adapter import Bind, DeclareExchange, DeclareQueue, Operation
from gofer.messaging.connector import Connector
from gofer.messaging.local.server import serving
from gofer.proxy import Agent
from gofer.rmi.client.reply_queue import ReplyQueue
from gofer.rmi.reply import ReplyConsumer
from support.localbroker import LocalBroker
from support.receiving import driven
from support.replies import Ear, ReplyScenarios
from support.waiting import eventually


@pytest.mark.xdist_group("local-replies")  # one process makes what the class shares
class TestLocalReplies(ReplyScenarios):
    @pytest.fixture(scope="class")
    @classmethod
    def broker(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
        with LocalBroker(str(tmp_path_factory.mktemp("broker") / "broker.sock")) as broker:
            yield broker

    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, broker: LocalBroker) -> str:
        return broker.url

    def test_a_consumer_goes_on_after_its_broker_was_restarted(
        self, broker: LocalBroker, agent: Agent, connector: Connector, tasks: str
    ) -> None:
        ear = Ear()
        with ReplyConsumer(tasks, connector).start(ear):
            assert agent.Probe().echo("before")
            assert ear.until_done()[-1].retval == "before"
            broker.restart()
            call = agent(reply=None, wait=2).Admin()
            eventually(lambda: succeeds(call.hello))
            agent.Probe().echo("after")
            assert ear.until_done()[-1].retval == "after"


def test_calls_that_time_out_together_have_the_reply_queue_bound_again_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(str(tmp_path / "broker.sock")), driven(tmp_path / "broker.sock") as link:
        link.ask(DeclareExchange("for-replies", "direct"))
        replies, asked, ask = ReplyQueue(link, "for-replies"), [], link.core.ask

        def note(operation: Operation, *given: Any) -> None:
            asked.append(type(operation))
            ask(operation, *given)

        def time_out() -> None:  # in the thread that reads the broker's answers
            for _ in range(10):
                replies.check_binding()

        link.subscribe(replies.subscription, 10.0)
        monkeypatch.setattr(link.core, "ask", note)
        for _ in range(2):
            link.call_soon(time_out)
            link.ask(DeclareQueue("behind it"))
        assert asked == [Bind, DeclareQueue] * 2


def succeeds(call: object) -> bool:
    """Whether a call returns, once."""
    try:
        call()  # type: ignore[operator]  # a remote method
    except Exception:  # noqa: BLE001 - whatever it is, it is tried again
        return False
    return True
