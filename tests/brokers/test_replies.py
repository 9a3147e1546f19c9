"""Replies that nobody waits for, over RabbitMQ: the same, and a broker that stops and starts."""

from __future__ import annotations

import pytest
from gofer.messaging.connector import Connector
from gofer.proxy import Agent
from gofer.rmi.reply import ReplyConsumer
from support.brokers.rabbitmq import RabbitMQ
from support.replies import Ear, ReplyScenarios


class TestRabbitMQReplies(ReplyScenarios):
    @pytest.fixture(scope="class")
    @classmethod
    def url(cls, rabbitmq: RabbitMQ) -> str:
        return rabbitmq.url()

    def test_replies_that_wait_survive_the_broker_and_are_reported(
        self, rabbitmq: RabbitMQ, agent: Agent, connector: Connector, tasks: str
    ) -> None:
        """Those that were told and accepted do not come again; a consumer that runs goes on by itself."""
        ear = Ear()
        with ReplyConsumer(tasks, connector).start(ear):
            told = [agent.Probe().echo(n) for n in range(5)]
            assert sorted(one.sn for one in ear.ends(5)) == sorted(told)
        waiting = [agent.Probe().echo(n) for n in range(5)]
        with ReplyConsumer(f"{tasks}-2", connector).start(ear):
            rabbitmq.restart()
            with ReplyConsumer(tasks, connector).start(ear):
                assert sorted(one.sn for one in ear.ends(5)) == sorted(waiting)
            sn = agent(reply=f"{tasks}-2").Probe().echo("on")
            assert ear.until_done()[-1].sn == sn
        assert ear.silent
