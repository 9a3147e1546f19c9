"""Requests that nobody waits for: how many may be on their way, and what became of each."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from gofer.errors import NotTaken
from gofer.messaging.adapter import Outcome
from gofer.messaging.address import Address
from gofer.messaging.connection import Connection
from gofer.rmi.calling import no_agent

__all__ = ["Owner", "Post", "Posts"]

log = logging.getLogger(__name__)

#: Failures that are kept of agents that are gone, to be told at the end of the process.
_UNHEARD = 1000


class Owner:
    """Whose requests they are: an agent and its views. ``gone``: nobody can be told any more."""

    __slots__ = ("gone",)

    def __init__(self) -> None:
        self.gone = False


class Post:
    """A request on its way to the broker; kept until the broker has answered, to be sent again if need be.

    Args:
        encode: writes it, for so long a time to live.
        told: somebody waits for the answer, and hears it there.
    """

    __slots__ = ("address", "again", "document", "encode", "expires", "owner", "size", "told", "up_since")

    def __init__(
        self,
        document: dict[str, Any],
        address: Address,
        owner: Owner,
        ttl: float | None,
        encode: Callable[[float | None], bytes],
    ) -> None:
        self.document = document
        self.address = address
        self.owner = owner
        self.encode = encode
        self.expires = None if ttl is None else monotonic() + ttl
        self.size = 0
        self.told = self.again = False
        self.up_since: float | None = None

    @property
    def ttl(self) -> float | None:
        """Its time to live from now on."""
        return None if self.expires is None else max(0.001, self.expires - monotonic())


class Posts:
    """The requests sent without waiting on one link. Thread-safe.

    ``most`` of them, and ``bytes_most`` bytes, may be unanswered by the broker; these must fall to ``least``, and half
    the bytes, before more are sent.
    """

    most, least = 256, 192
    bytes_most = 32 * 1024 * 1024

    def __init__(self, link: Connection) -> None:
        self._link = link
        self._posts: dict[str, Post] = {}
        self._failures: dict[str, tuple[Owner, str]] = {}
        self._unheard = self._largest = 0
        link.exit_callbacks.append(self._goodbye)

    def __bool__(self) -> bool:
        """Whether there are any on their way."""
        return bool(self._posts)

    def __contains__(self, sn: str) -> bool:
        return sn in self._posts

    def __len__(self) -> int:
        return len(self._posts)

    @property
    def crowded(self) -> bool:
        """Whether there are so many that the next one has to wait until it is ``eased``."""
        return bool(self._posts) and (len(self._posts) >= self.most or self._bytes() >= self.bytes_most)

    @property
    def eased(self) -> bool:
        """Whether there is room for more."""
        return len(self._posts) <= self.least and self._bytes() <= self.bytes_most // 2

    def _bytes(self) -> int:
        """How many bytes they hold; 0 when they are too small to matter, which costs no counting."""
        if self._largest * len(self._posts) <= self.bytes_most // 2:
            return 0
        return sum(post.size for post in list(self._posts.values()))

    def of(self, owner: Owner) -> list[str]:
        """Return the serial numbers of this owner's requests that are on their way."""
        return [sn for sn, post in list(self._posts.items()) if post.owner is owner]

    # -- their way ----------------------------------------------------------------------------------------------

    def send(self, sn: str, post: Post, transmit: Callable[..., int]) -> bool:
        """Send one; return whether that was possible.

        Args:
            transmit: called with the address, the body, and ``ttl`` and ``settled``; returns 0 if it is not possible.
        """
        ttl = post.ttl
        body = post.encode(ttl)
        post.size, post.up_since = len(body), self._link.up_since
        self._largest = max(self._largest, post.size)
        self._posts[sn] = post
        token = 0
        try:
            token = transmit(post.address, body, ttl=ttl, settled=partial(self._settled, sn))
        finally:
            if not token:
                self._posts.pop(sn, None)
        return token != 0

    def _settled(self, sn: str, outcome: Outcome, reason: str) -> None:
        post = self._posts.get(sn)
        if post is None:
            return
        if outcome is not Outcome.CONFIRMED:
            asked = post.document["request"]
            why = f"{outcome.value} ({reason})" if reason else outcome.value
            why = no_agent(reason) if outcome is Outcome.RETURNED else why
            why = f"{asked['classname']}.{asked['method']}() at {str(post.address)!r}: {why}"
            if outcome is Outcome.UNKNOWN and post.up_since in {None, self._link.up_since} and not post.again:
                # The connection is there: another one's fault closed the channel it was on. None: it was sent as soon
                # as there was a connection.
                refusal = self._resend(sn, post)
                if refusal is None:
                    return
                why = f"{why}; {refusal}"
            self._failed(sn, post, why)
        self._posts.pop(sn, None)

    def _resend(self, sn: str, post: Post) -> str | None:
        """Send one again where it can harm no other; return why that is not possible, if so."""
        if post.expires is not None and monotonic() >= post.expires:
            return "its time to live is over"
        post.again = True
        # An agent that has it already, as the broker may have taken it, answers as it did; it does not run again.
        post.document["again"] = True
        try:
            ttl = post.ttl
            body = post.encode(ttl)
        except Exception as failed:  # noqa: BLE001 - whatever signs it: this is told to its owner
            return f"it was not sent again: {failed}"
        token = self._link.publish_nowait(
            post.address, body, ttl=ttl, isolated=True, room=False, settled=partial(self._settled, sn)
        )
        return None if token else f"it was not sent again: {self._link.state}"

    # -- what became of them ------------------------------------------------------------------------------------

    def _failed(self, sn: str, post: Post, why: str) -> None:
        if post.told:
            return
        if post.owner.gone and not self._log(sn, why):
            return
        self._failures[sn] = (post.owner, why)

    def _log(self, sn: str, why: str) -> bool:
        """Log a failure that nobody can be told; return whether it is kept for the end of the process."""
        log.warning("request %s, which nobody waits for, was not taken: %s", sn, why)
        self._unheard += 1
        return self._unheard <= _UNHEARD

    def leave(self, owner: Owner) -> None:
        """Note that an owner is gone: what has failed of its requests, and will, is logged."""
        owner.gone = True
        for sn, (whose, why) in list(self._failures.items()):
            if whose is owner and not self._log(sn, why):
                self._failures.pop(sn, None)

    def confirmed(self, sn: str, post: Post) -> None:
        """Raise what is known to have become of a request that somebody waited for the broker to take.

        Raises:
            NotTaken: it was not taken, or there was no word in time.
        """
        post.told = True
        if sn in self._failures:
            raise NotTaken({sn: self._failures.pop(sn)[1]})
        if sn in self._posts:
            raise NotTaken({sn: f"no word from the broker in time ({self._link.state})"})

    def failures(self, owner: Owner) -> dict[str, str]:
        """Take what is known to have failed of this owner's requests; it is told once."""
        if not self._failures:
            return {}
        told = {sn: why for sn, (whose, why) in list(self._failures.items()) if whose is owner}
        for sn in told:
            self._failures.pop(sn, None)
        return told

    def complain(self, owner: Owner) -> None:
        """Raise what of this owner's requests was not taken, or not yet.

        Raises:
            NotTaken: there are some.
        """
        late = self.of(owner)
        failures = self.failures(owner)
        failures.update((sn, f"no word from the broker in time ({self._link.state})") for sn in late)
        if failures:
            raise NotTaken(failures)

    def _goodbye(self, deadline: float) -> None:
        """Wait for them at the end of the process, and complain on stderr about what was not taken."""
        if self._posts and not self._link.abandoned:
            self._link.finish(lambda: not self._posts, deadline)
        lost = {sn: why for sn, (_, why) in self._failures.items()}
        lost.update((sn, f"no word from the broker ({self._link.state})") for sn in self._posts)
        if lost:
            print(f"gofer: {NotTaken(lost)}", file=sys.stderr)
