"""Connections of a test's own, beside those of the pool."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from gofer.messaging.adapter import Operation
from gofer.messaging.connector import Connector
from gofer.messaging.subscription import Steps
from gofer.messaging.thread_driver import ThreadConnection

from support.waiting import eventually

__all__ = ["connection_to", "cut", "declaring", "suspend"]


def connection_to(connector: Connector) -> ThreadConnection:
    """Make a connection that no other shares; the test closes it."""
    connection = ThreadConnection(connector, lambda _: False)
    connection.users = 1
    return connection


def declaring(*operations: Operation) -> Callable[[], Steps]:
    """Return what prepares a subscription by these operations."""

    def prepare() -> Steps:
        for operation in operations:  # noqa: UP028 - an iterator takes no values, and a difference is one
            yield operation

    return prepare


def cut(connection: ThreadConnection) -> None:
    """Have a connection end as if its socket had, and wait until it is back."""
    connection.wait_written(10)
    before = connection.up_since
    connection._submit(0, connection.core.lost, "cut by the test", monotonic())
    eventually(lambda: connection.up_since not in (None, before))


def suspend(connection: ThreadConnection) -> None:
    """Close a connection until it is used again, as an idle one is."""
    connection._submit(0, connection.core.suspend)
    eventually(lambda: not connection.is_open and connection.backlog == 0 and connection.core.adapter is None)
