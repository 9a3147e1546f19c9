"""Who keeps a request until it is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gofer.rmi.book import Book
from gofer.rmi.ledger import Unavailable
from gofer.rmi.request import Received

__all__ = ["AlreadyBegun", "Custody", "HeldByBroker"]


class AlreadyBegun(Exception):
    """What must run only once has been begun before. ``result``: how that has ended, None: that is not known."""

    def __init__(self, result: bytes | None) -> None:
        super().__init__("begun before")
        self.result = result


class Custody(Protocol):
    """Decides where an accepted request is kept, so that the death of its agent does not lose it. Any thread."""

    def taken(self, request: Received) -> bool:
        """Hear of a request that is to be accepted, from the thread that reads.

        Returns:
            Whether it may go on at once. If not, ``request.receiver.proceed`` is called later, by another thread.
        """

    def starting(self, request: Received, *, once: bool = False) -> None:
        """Do what has to be done before a request runs. Called by a worker; may wait for the disk.

        Args:
            once: it must not run a second time. (Asked a second time, when the method is known.)

        Raises:
            Unavailable: that cannot be done now, and so the request must not run.
            AlreadyBegun: it must run only once, and has been begun before.
        """

    def begins(self, request: Received) -> None:
        """Hear that the method of a request is called now.

        Raises:
            Unavailable: that must be written down and cannot be, and so it must not be called.
        """

    def finished(self, request: Received, result: bytes, send: Callable[[], None]) -> None:
        """Hear the result of a request, write it down if that is to be done, and have it sent.

        Args:
            send: called once, by any thread.
        """

    def recall(self, request: Received, then: Callable[[], object]) -> None:
        """Have in memory what it takes to answer a request that has not started; then go on, by any thread."""

    def ended(self, request: Received, result: bytes) -> None:
        """Let go of a request: its result was taken by a broker."""

    def kept(self, request: Received, result: bytes) -> None:
        """Hear that a request has its result, which no broker will take through this connection."""

    def given_up(self, request: Received, result: bytes, reason: str) -> None:
        """Hear that a request has its result, which no broker has taken in all the time that there was for it."""

    def refused(self, request: Received) -> None:
        """Let go of a request that was rejected; its rejection was taken by a broker, or given up."""

    def given_back(self, request: Received) -> None:
        """Give a request that was not started back to its broker, for whoever reads the queue next."""

    def adopted(self, previous: Received) -> None:
        """Let go of the delivery that a newer one has replaced."""


class HeldByBroker:
    """Custody by the broker: a request stays unacknowledged until its result is settled."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def taken(self, request: Received) -> bool:
        """Let it go on: what is not acknowledged is held."""
        return True

    def starting(self, request: Received, *, once: bool = False) -> None:
        """Let it run, but for what must never run twice: only a ledger can promise that."""
        if once:
            raise Unavailable("there is no ledger")

    def begins(self, request: Received) -> None:
        """Do nothing: what the broker delivers again may have begun."""

    def finished(self, request: Received, result: bytes, send: Callable[[], None]) -> None:
        """Send the result."""
        send()

    def recall(self, request: Received, then: Callable[[], object]) -> None:
        """Go on: it is there."""
        then()

    def ended(self, request: Received, result: bytes) -> None:
        """Remember the result and acknowledge."""
        self._book.end(request, result)
        request.receiver.acknowledge(request)

    def kept(self, request: Received, result: bytes) -> None:
        """Remember the result, and do not acknowledge: the broker delivers the request again, to be answered then."""
        self._book.end(request, result)

    def given_up(self, request: Received, result: bytes, reason: str) -> None:
        """Remember the result and acknowledge: there is nowhere else to keep it."""
        self.ended(request, result)

    def refused(self, request: Received) -> None:
        """Acknowledge."""
        self._book.forget(request)
        request.receiver.acknowledge(request)

    def given_back(self, request: Received) -> None:
        """Release."""
        self._book.forget(request)
        request.receiver.link.release(request.delivery)

    def adopted(self, previous: Received) -> None:
        """Acknowledge: the newer delivery is what the broker holds for it."""
        previous.receiver.acknowledge(previous)
