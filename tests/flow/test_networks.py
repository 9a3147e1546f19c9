"""Calls over a network that misbehaves, on the local broker."""

from __future__ import annotations

import pytest
from support.localbroker import LocalBroker
from support.networks import NetworkScenarios


@pytest.mark.slow
class TestLocalNetworks(NetworkScenarios):
    @pytest.fixture
    def url(self, broker: LocalBroker) -> str:
        return broker.url
