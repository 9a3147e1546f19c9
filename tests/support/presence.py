"""Whether a goferd reads a queue: it is ready before that, for its broker may come later."""

from __future__ import annotations

from gofer.errors import NotFound, Rejected, RequestTimeout
from gofer.proxy import Agent

from support.waiting import eventually

__all__ = ["answers", "until_it_answers"]


def answers(agent: Agent, wait: float = 5.0) -> bool:
    """Tell whether somebody at the agent's address answers, within ``wait`` seconds."""
    try:
        return bool(agent(wait=wait).Admin().hello())
    except Rejected:
        return True  # not taken from this caller
    except (NotFound, RequestTimeout):
        return False


def until_it_answers(agent: Agent, what: str = "") -> Agent:
    """Wait until somebody at the agent's address answers, and return the agent."""
    eventually(lambda: answers(agent), what=what)
    return agent
