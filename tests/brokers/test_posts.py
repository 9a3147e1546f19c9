"""Requests sent without waiting, at a broker that closes the channel which they share."""

from __future__ import annotations

import pytest
from gofer.errors import NotTaken
from gofer.messaging.adapter import DeleteQueue
from gofer.proxy import Agent
from support.brokers.rabbitmq import RabbitMQ
from support.company import connected, linked
from support.echo import EchoAgent
from support.waiting import eventually

QUEUE = "posts-beside-a-large-one"


def test_one_that_is_too_large_for_the_broker_costs_only_itself(rabbitmq: RabbitMQ, message_limit: int) -> None:
    """The broker closes the channel that all share, and forgets those on their way there: they are sent again."""
    connector = connected(rabbitmq.url())
    with (
        EchoAgent(rabbitmq.url(), QUEUE) as echo,
        linked(connector) as link,
        Agent(connector, QUEUE, wait=0) as agent,
    ):
        good: list[str] = []
        since = None
        for _ in range(3):
            good += [agent.Dog().bark("before", n) for n in range(20)]
            large = agent.Dog().bark("x" * (message_limit + 1))
            good += [agent.Dog().bark("after", n) for n in range(20)]
            with pytest.raises(NotTaken, match="size") as caught:
                agent.flush(20)
            assert list(caught.value.reasons) == [large], caught.value.reasons
            since = since or link.up_since
        eventually(lambda: set(good) == {document["sn"] for document in echo.seen})
        assert link.up_since == since
        link.ask(DeleteQueue(QUEUE))
