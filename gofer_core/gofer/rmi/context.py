"""What a method can know of the call it answers: ``Context.current()``."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import Any

from gofer.rmi.progress import Progress

__all__ = ["Context"]

_current: ContextVar[Context] = ContextVar("gofer_context")


class Context:
    """The call that is being answered. May be handed to threads that the method starts."""

    __slots__ = ("_request",)

    def __init__(self, request: Any) -> None:
        """Keep the request: a :class:`gofer.rmi.request.Received`, or what stands for one in a child process."""
        self._request = request

    @staticmethod
    def current() -> Context | Any:  # Any for None: a method knows that it answers a call
        """Return the context of the call that this thread or task answers; None: it answers none.

        A thread that a method has started does not know it: the method takes it, and hands it over.
        """
        return _current.get(None)

    @property
    def sn(self) -> str | None:
        """The request's serial number."""
        sn: str | None = self._request.sn
        return sn

    @property
    def data(self) -> Any:
        """What the caller has put beside the request (its option ``data``)."""
        return self._request.data

    @property
    def identity(self) -> str | None:
        """Who signed the request, as the authenticator says; None without one."""
        identity: str | None = self._request.identity
        return identity

    @property
    def progress(self) -> Progress:
        """The progress of this call; setting ``completed`` or ``details`` reports it."""
        progress: Progress = self._request.get_progress()
        return progress

    def cancelled(self) -> bool:
        """Whether the method should stop: its caller no longer wants the result."""
        return bool(self._request.cancelled)

    @property
    def forked(self) -> bool:
        """Whether the method runs in a process of its own."""
        return bool(self._request.forked)

    def enter(self) -> Token[Context]:
        """Make this the current context of the running thread or task, until ``leave``."""
        return _current.set(self)

    @staticmethod
    def leave(token: Token[Context]) -> None:
        """Restore what was current before ``enter``."""
        _current.reset(token)
