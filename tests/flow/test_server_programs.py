"""Server programs of gofer 2.12, over the local broker."""

from __future__ import annotations

import pytest
from support.localbroker import LocalBroker
from support.serverprogram import ServerPrograms


class TestLocalServerPrograms(ServerPrograms):
    @pytest.fixture
    def url(self, broker: LocalBroker) -> str:
        return broker.url
