"""Fixtures of tests that look at one link to a broker of their own. Others have their own of these names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.messaging.connector import Connector
from gofer.messaging.thread_driver import ThreadConnection
from support.company import connected, linked
from support.localbroker import LocalBroker


@pytest.fixture
def broker(root: Path) -> Iterator[LocalBroker]:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        yield broker


@pytest.fixture
def connector(broker: LocalBroker) -> Connector:
    return connected(broker.url)


@pytest.fixture
def link(connector: Connector) -> Iterator[ThreadConnection]:
    with linked(connector) as link:
        yield link
