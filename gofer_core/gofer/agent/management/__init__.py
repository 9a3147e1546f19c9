"""Management: what ``gofer agent`` asks an agent, over a socket of this machine that only root and the agent's user get
answers from.

``wire`` is what both sides say, ``listening`` where the agent listens, ``server`` the threads that answer,
``operations`` what can be asked for, and ``view`` what an agent tells of itself. A caller imports ``wire`` alone.
"""

from __future__ import annotations

__all__: list[str] = []
