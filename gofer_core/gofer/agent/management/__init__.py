"""Management: what ``gofer agent`` asks an agent, over a socket of this machine that only root and the agent's user get
answers from.

``wire`` is what both sides say, ``listening`` where the agent listens, ``server`` the threads that answer,
``operations`` what can be asked for, and ``view`` what an agent tells of itself.
"""

from __future__ import annotations

from gofer.agent.management.operations import Operations
from gofer.agent.management.server import Management

__all__ = ["Management", "Operations"]
