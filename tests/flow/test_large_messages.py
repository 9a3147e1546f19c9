"""Messages over the agent's limit are refused without being held in memory."""

from __future__ import annotations

from pathlib import Path

from support.large import large_ones_cost_only_themselves
from support.localbroker import LocalBroker


def test_large_messages_over_the_local_broker(root: Path, tmp_path: Path) -> None:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        large_ones_cost_only_themselves(broker.url, root, tmp_path / "trace", size=30 << 20, count=8)
