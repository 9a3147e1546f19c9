"""The contract of adapters, as tests. Subclass it, and pytest checks every promise of ``gofer.messaging.adapter.base``.

::

    from gofer.testing import AdapterContract

    class TestOurs(AdapterContract):
        adapter = OurAdapter
        has_expiring_queues = False  # what the broker cannot do; see gofer.testing._contract.base for all of these

        @pytest.fixture(scope="class")
        def url(self):
            with some_broker() as broker:
                yield URL.parse(broker.url)

The broker must be a real one, and must stay up for the class. Frozen, cut and garbled connections are made by a relay
that the suite puts in front of it, so the URL must be of a plain protocol, not TLS. On a quiet machine the suite takes
less than half a minute.
"""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("gofer.testing._contract")

from gofer.testing._contract.connections import Connections  # noqa: E402 - the line above must come first
from gofer.testing._contract.liveness import Liveness  # noqa: E402 - as above
from gofer.testing._contract.messages import Messages  # noqa: E402 - as above
from gofer.testing._contract.nodes import Nodes  # noqa: E402 - as above
from gofer.testing._contract.receiving import Receiving  # noqa: E402 - as above

__all__ = ["AdapterContract"]


class AdapterContract(Messages, Receiving, Nodes, Connections, Liveness):
    """All that an adapter promises. A subclass sets ``adapter``, capabilities, and a fixture ``url``."""
