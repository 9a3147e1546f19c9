"""The contract of adapters, as tests. Subclass it, and pytest checks every promise of ``gofer.messaging.adapter``.

::

    from gofer.testing import AdapterContract

    class TestOurs(AdapterContract):
        adapter = OurAdapter
        has_expiring_queues = False  # what the broker cannot do; see gofer.testing._contract.base for all of these

        @pytest.fixture(scope="class")
        def url(self):
            with some_broker() as broker:
                yield URL.parse(broker.url)

It drives the adapter in two ways: over a socket to its real broker, which must stay up for the class, also through a
network that stalls, cuts and drips; and as bytes, which were recorded there, and come again in pieces, cut off, and
spoilt. On a quiet machine that takes about a minute.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("gofer.testing._contract")

from gofer.testing._contract.connections import Connections  # noqa: E402 - the line above must come first
from gofer.testing._contract.messages import Messages  # noqa: E402 - as above
from gofer.testing._contract.nodes import Nodes  # noqa: E402 - as above
from gofer.testing._contract.replays import Replays  # noqa: E402 - as above

__all__ = ["AdapterContract"]


class AdapterContract(Messages, Nodes, Connections, Replays):
    """All that an adapter promises. A subclass sets ``adapter``, capabilities, and a fixture ``url``."""
