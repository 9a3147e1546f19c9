"""Whether a request has come too late to be run: pure, of what its document and its message tell.

The broker counts a message's time to live only from when it has queued it. Before that the message may have waited in a
socket that nobody read, because the broker was frozen or blocked its publishers. So the document tells when it expires.
"""

from __future__ import annotations

import math
from typing import Any

from gofer.messaging.document import EXPIRED, Request, seconds_of
from gofer.rmi.answers import Refusal

__all__ = ["ALLOWANCE", "too_late"]

#: Seconds that the clocks of a caller and an agent may differ before a request counts as late. A caller that waits,
#: and whose clock is off by more, is told by the rejection, and sends its request again by the agent's clock.
ALLOWANCE = 2.0


def too_late(request: Request, ttl: float | None, max_age: float | None, now: float) -> Refusal | None:
    """Say why a request is not to be run, None if it is.

    Args:
        ttl: the message's time to live, as the adapter tells it.
        max_age: seconds that one without a time to live may be old; None: no limit.
        now: the time, in seconds since 1970.
    """
    live = _seconds(request.ttl) if ttl is None else ttl
    expires = request.expires
    if expires is None:
        limit = max_age if live is None else live
        sent = None if limit is None else seconds_of(request.timestamp)
        if limit is None or sent is None or now - sent <= limit + 1.0 + ALLOWANCE:  # it is in whole seconds
            return None
        if live is None:
            return _refusal(f"it was sent {now - sent:.0f} s ago, and max_age is {limit:g} s")
        expires = sent + limit
    elif now - expires <= ALLOWANCE:
        return None
    of = "" if live is None else f" of {round(live, 1):g} s"
    return _refusal(f"its ttl{of} was over {now - expires:.1f} s ago")


def _refusal(why: str) -> Refusal:
    return Refusal(EXPIRED, "the request came too late and was not run", f"{why}, by the clocks of caller and agent")


def _seconds(value: Any) -> float | None:
    """Return a field of the document if it is a number of seconds: nobody but us says what is in it."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < math.inf else None
