"""Whether a goferd reads a queue: it is ready before that, for its broker may come later."""

from __future__ import annotations

from collections.abc import Callable

from gofer.errors import NotFound, Rejected, RequestTimeout
from gofer.proxy import Agent

from support.waiting import eventually

__all__ = ["answers", "timed_out", "until_it_answers"]


def answers(agent: Agent, wait: float = 10.0) -> bool:
    """Tell whether somebody at the agent's address answers, within ``wait`` seconds."""
    try:
        return bool(agent(wait=wait).Admin().hello())
    except Rejected:
        return True  # not taken from this caller
    except (NotFound, RequestTimeout):
        return False


def timed_out(call: Callable[[float], object], state: str) -> RequestTimeout:
    """Return the error of a call that got as far as ``state`` while it was waited for: longer and longer, until it did.

    How long an agent on a busy machine takes to get there is not what is tested.
    """
    for wait in (0.7, 2.0, 6.0, 18.0):
        try:
            value = call(wait)
        except RequestTimeout as told:
            if told.state == state:
                return told
        else:
            raise AssertionError(f"it returned {value!r} within {wait} s")
    raise AssertionError(f"never {state!r}")


def until_it_answers(agent: Agent, what: str = "") -> Agent:
    """Wait until somebody at the agent's address answers, and return the agent."""
    eventually(lambda: answers(agent), what=what)
    return agent
