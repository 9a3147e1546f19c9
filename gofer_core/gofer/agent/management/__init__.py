"""Management: what ``gofer agent`` asks an agent, over a socket of this machine that only root and the agent's user get
answers from.

``wire`` is what both sides say, ``server`` listens and answers, ``operations`` is what can be asked for. A caller
imports ``wire`` alone.
"""

from __future__ import annotations

__all__: list[str] = []
