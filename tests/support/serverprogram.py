"""A server program as they were written for gofer 2.12: it manages its agents' queues, calls, and reads replies."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from gofer.errors import NotFound as CoreNotFound
from gofer.messaging import Connector, Consumer, Document, Exchange, NotFound, Producer, Queue, Reader
from gofer.messaging.pool import pool
from gofer.proxy import Agent
from gofer.rmi.reply import ReplyConsumer

from support.echo import EchoAgent
from support.waiting import eventually

__all__ = ["ServerPrograms"]


class ServerPrograms:
    """Tests of what gofer.messaging offers; a subclass gives the fixture ``url``."""

    @pytest.fixture(autouse=True)
    def no_lingering(self) -> Iterator[None]:
        """Close the connections that nobody uses any more; they would be kept for some seconds."""
        yield
        for connection in list(pool._connections.values()):
            if pool._may_close(connection):
                connection.close()

    @pytest.fixture
    def queue(self, url: str) -> Iterator[Queue]:
        queue = Queue(f"server-{uuid.uuid4()}", url)
        queue.declare()
        yield queue
        try:
            queue.delete()
        except NotFound:
            pass  # the test has deleted it

    def test_the_queue_of_an_agent_is_purged_and_deleted(self, url: str, queue: Queue) -> None:
        assert NotFound is CoreNotFound
        agent = Agent(url, queue.name, wait=0)
        agent.Dog().bark("x")
        agent.flush(30)
        queue.purge()
        with Reader(queue) as reader:
            assert reader.get(0.2) is None
        queue.delete()
        for missing in (queue.purge, queue.delete):
            with pytest.raises(NotFound, match=queue.name):
                missing()

    def test_a_url_may_be_given_with_each_operation(self, url: str) -> None:
        queue = Queue()
        queue.declare(url)
        queue.purge(url)
        queue.delete(url)
        with pytest.raises(NotFound):
            queue.delete(Connector(url))

    def test_replies_are_read_from_a_queue_of_the_server(self, url: str, queue: Queue) -> None:
        told: list[Any] = []
        with EchoAgent(url, f"agent-{uuid.uuid4()}") as echo, ReplyConsumer(queue, url=url).start(told.append):
            Agent(url, echo.subscription.queue, reply=queue.name, data={"task": 7}).Dog().bark("hello")
            (reply,) = eventually(lambda: told)
        assert (reply.retval, reply.data) == ("hello", None)  # this agent keeps no data
        Queue(echo.subscription.queue).delete(url)

    def test_documents_are_sent_and_read(self, url: str, queue: Queue) -> None:
        with Producer(url) as producer, Reader(queue) as reader:
            numbers = [producer.send(queue.name, n=n, inner={"name": "x"}) for n in range(3)]
            document, acknowledge = reader.next(30)
            assert document is not None
            assert (document.sn, document.n, document.inner.name, document.nothing) == (numbers[0], 0, "x", None)
            assert document.routing == [None, queue.name]
            acknowledge()
            found = reader.search(numbers[2], 30)
            assert found is not None
            assert found.n == 2
            assert reader.next(0.1) == (None, None)
            with pytest.raises(NotFound, match="no-such-queue"):
                producer.send("no-such-queue", n=1)

    def test_what_was_not_acknowledged_comes_again(self, url: str, queue: Queue) -> None:
        with Producer(url) as producer:
            producer.send(queue.name, n=1)
        with Reader(queue) as reader:
            assert reader.get(30) is not None
        with Reader(queue) as reader:
            message = reader.get(30)
            assert message is not None
            message.reject()
            again = reader.get(30)
            assert again is not None
            again.ack()
            assert reader.get(0.1) is None

    def test_a_reader_of_no_queue_is_reported(self, url: str) -> None:
        with pytest.raises(NotFound, match="nowhere"):
            Reader("nowhere", url).open()

    def test_an_exchange_routes_to_the_queues_that_are_bound(self, url: str, queue: Queue) -> None:
        exchange = Exchange(f"server-{uuid.uuid4()}", url=url)
        exchange.declare()
        exchange.bind(queue)
        with Producer(url) as producer, Reader(queue) as reader:
            producer.send(f"{exchange.name}/{queue.name}", n=1)
            assert reader.search("nothing", 0.5) is None
            exchange.unbind(queue)
            with pytest.raises(NotFound):
                producer.send(f"{exchange.name}/{queue.name}", n=2)
        exchange.delete()
        with pytest.raises(NotFound):
            exchange.bind(queue)

    def test_a_consumer_hands_documents_to_dispatch_one_after_another(self, url: str, queue: Queue) -> None:
        seen: list[int] = []
        done = threading.Event()

        class Mine(Consumer):
            def dispatch(self, document: Document) -> None:
                seen.append(document.n)
                if document.n == 1:
                    raise ValueError("of one only")
                if document.n == 2:
                    done.set()

        consumer = Mine(queue)
        consumer.start()
        with Producer(url) as producer:
            for n in range(3):
                producer.send(queue.name, n=n)
        assert done.wait(30)
        consumer.stop()
        consumer.join(30)
        assert seen == [0, 1, 2]
        with Reader(queue) as reader:
            assert reader.get(0.1) is None
