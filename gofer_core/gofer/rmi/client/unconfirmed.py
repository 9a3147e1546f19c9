"""Requests without a waiting caller, until the broker has confirmed them: how many there may be, and what failed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any

from gofer.errors import NotTaken
from gofer.messaging.adapter import Outcome
from gofer.messaging.address import Address
from gofer.messaging.connection import Connection
from gofer.rmi.client.call import no_agent

__all__ = ["Owner", "Unconfirmed", "UnconfirmedRequest"]

log = logging.getLogger(__name__)

#: Failures that are kept of agents that are gone; the end of the process prints them.
_MOST_FAILURES = 1000


@dataclass(eq=False, slots=True)
class Owner:
    """Whose requests they are: an agent and its views. ``gone``: nobody is left to be told of a failure."""

    gone: bool = False


@dataclass(eq=False, slots=True)
class UnconfirmedRequest:
    """A request that the broker has not confirmed, kept to be sent again.

    Args:
        encode: writes the document, for a time to live in seconds.
        expires: when its time to live is over (``time.monotonic()``).
        awaited: somebody waits for the confirm, and is told of a failure there.
    """

    document: dict[str, Any]
    address: Address
    owner: Owner
    encode: Callable[[float | None], bytes]
    expires: float | None
    awaited: bool = False
    size: int = 0
    up_since: float | None = None


class Unconfirmed:
    """The unconfirmed requests of one connection. Thread-safe.

    At ``most`` of them, or ``most_bytes`` bytes, the next one waits until there are ``least``, or half the bytes.
    """

    most, least = 256, 192
    most_bytes = 32 * 1024 * 1024

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._requests: dict[str, UnconfirmedRequest] = {}
        self._failures: dict[str, tuple[Owner, str]] = {}
        self._untold = self._largest = 0
        connection.exit_callbacks.append(self._flush_at_exit)

    def __contains__(self, sn: str) -> bool:
        return sn in self._requests

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def full(self) -> bool:
        """Whether the next request must wait until they are ``drained``."""
        count = len(self._requests)
        return count >= self.most or (count > 0 and self._bytes() >= self.most_bytes)

    @property
    def drained(self) -> bool:
        """Whether there is room for more."""
        return len(self._requests) <= self.least and self._bytes() <= self.most_bytes // 2

    def _bytes(self) -> int:
        """How many bytes they hold; 0 when they are too small to matter, which costs no counting."""
        if self._largest * len(self._requests) <= self.most_bytes // 2:
            return 0
        return sum(request.size for request in list(self._requests.values()))

    def of(self, owner: Owner) -> list[str]:
        """Return the serial numbers of this owner's unconfirmed requests."""
        return [sn for sn, request in list(self._requests.items()) if request.owner is owner]

    # -- sending ------------------------------------------------------------------------------------------------------

    def send(self, request: UnconfirmedRequest) -> bool:
        """Send a request if that is possible now; return whether it was."""
        sn, sent = request.document["sn"], False
        request.up_since = self._connection.up_since
        self._requests[sn] = request  # before it is sent: the confirm may come at once
        try:
            sent = self._publish(sn, request)
        finally:
            if not sent:
                self._requests.pop(sn, None)
        return sent

    def _publish(self, sn: str, request: UnconfirmedRequest, **how: bool) -> bool:
        ttl = None if request.expires is None else max(0.001, request.expires - monotonic())
        body = request.encode(ttl)
        request.size = len(body)
        self._largest = max(self._largest, request.size)
        settled = partial(self._settled, sn)
        return self._connection.publish_nowait(request.address, body, ttl=ttl, settled=settled, **how) != 0

    def _settled(self, sn: str, outcome: Outcome, reason: str) -> None:
        if outcome is not Outcome.CONFIRMED and (request := self._requests.get(sn)) is not None:
            why = self._send_again(sn, request, outcome, reason)
            if why is None:
                return
            if not request.awaited and (not request.owner.gone or self._log(sn, why)):
                self._failures[sn] = (request.owner, why)
        self._requests.pop(sn, None)

    def _send_again(self, sn: str, request: UnconfirmedRequest, outcome: Outcome, reason: str) -> str | None:
        """Send a request again, where it can harm no other, if another one's fault closed its channel.

        Returns:
            Why it has failed, if it is not sent again.
        """
        asked = request.document["request"]
        why = f"{outcome.value} ({reason})" if reason else outcome.value
        why = no_agent(reason) if outcome is Outcome.RETURNED else why
        why = f"{asked['classname']}.{asked['method']}() at {str(request.address)!r}: {why}"
        # Lost with its connection: told. up_since is None if it was sent as soon as there was a connection.
        lost = request.up_since not in {None, self._connection.up_since}
        if outcome is not Outcome.UNKNOWN or lost or "again" in request.document:
            return why
        if request.expires is not None and monotonic() >= request.expires:
            return f"{why}; its time to live is over"
        # An agent that has it already, as the broker may have taken it, answers as it did; it does not run again.
        request.document["again"] = True
        try:
            sent = self._publish(sn, request, isolated=True, room=False)
        except Exception as failed:  # noqa: BLE001 - whatever signs it: this is told to its owner
            return f"{why}; it was not sent again: {failed}"
        return None if sent else f"{why}; it was not sent again: {self._connection.state}"

    # -- failures -----------------------------------------------------------------------------------------------------

    def raise_failures(self, owner: Owner, *, late: bool = False) -> None:
        """Raise what is known to have failed of this owner's requests, once.

        Args:
            late: what is not confirmed yet has failed, too.

        Raises:
            NotTaken: some failed.
        """
        failures = {}
        if self._failures:
            failures = {sn: why for sn, (whose, why) in list(self._failures.items()) if whose is owner}
            for sn in failures:
                self._failures.pop(sn, None)
        if late:
            failures |= dict.fromkeys(self.of(owner), self._no_word())
        if failures:
            raise NotTaken(failures)

    def raise_failure(self, request: UnconfirmedRequest) -> None:
        """Raise what has become of a request whose caller waited for the confirm.

        Raises:
            NotTaken: it failed, or there was no word in time.
        """
        sn, request.awaited = request.document["sn"], True
        _, why = self._failures.pop(sn, (None, self._no_word() if sn in self._requests else None))
        if why is not None:
            raise NotTaken({sn: why})

    def leave(self, owner: Owner) -> None:
        """Note that an owner is gone: the failures of its requests are logged from now on."""
        owner.gone = True
        for sn, (whose, why) in list(self._failures.items()):
            if whose is owner and not self._log(sn, why):
                self._failures.pop(sn, None)

    def _log(self, sn: str, why: str) -> bool:
        """Log a failure that nobody can be told of; return whether it is kept for the end of the process."""
        log.warning("request %s, sent without waiting, was not taken: %s", sn, why)
        self._untold += 1
        return self._untold <= _MOST_FAILURES

    def _no_word(self) -> str:
        return f"no word from the broker in time ({self._connection.state})"

    def _flush_at_exit(self, deadline: float) -> None:
        """Wait for the confirms at the end of the process, and print what was not taken to stderr."""
        if self._requests and not self._connection.abandoned:
            self._connection.finish(lambda: not self._requests, deadline)
        lost = {sn: why for sn, (_, why) in self._failures.items()}
        lost.update(dict.fromkeys(self._requests, f"no word from the broker ({self._connection.state})"))
        if lost:
            print(f"gofer: {NotTaken(lost)}", file=sys.stderr)
