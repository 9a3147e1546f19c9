"""What the agent's half of gofer.rmi needs to know of a plugin."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from gofer.messaging.auth import Authenticator
from gofer.rmi.api import API, Target
from gofer.rmi.model.coroutines import Loop
from gofer.rmi.model.fork import Forks
from gofer.rmi.server.workers import Workers

if TYPE_CHECKING:
    from gofer.rmi.request import Received

__all__ = ["PluginCode", "Service"]


class PluginCode(Protocol):
    """A plugin, as what runs its code sees it."""

    @property
    def name(self) -> str:
        """The plugin's name."""

    @property
    def api(self) -> API:
        """What callers may call, and its actions."""

    @property
    def workers(self) -> Workers:
        """The threads that run its code."""

    @property
    def loop(self) -> Loop:
        """Where its ``async def`` functions run."""

    def entered(self) -> AbstractContextManager[object]:
        """Return what is entered around what its code does: in it, the code finds its own plugin."""


class Service(PluginCode, Protocol):
    """A plugin, as requests see it. Constant while a receiver serves it, but for ``api``, which may grow.

    What the hook gofer_route returns for another plugin needs ``api`` alone. The plugin manager behind ``hook`` must
    have an implementation of gofer_call, called last, that returns ``invoke()``: wrappers wrap that one.
    """

    @property
    def plugin(self) -> Any:
        """What hooks are given as ``plugin``."""

    @property
    def address(self) -> str:
        """The plugin's own address: the ``origin`` of its replies."""

    @property
    def admin(self) -> API | None:
        """What is answered without a worker: the builtin Admin."""

    @property
    def hook(self) -> Any:
        """The hook caller of the agent's pluggy.PluginManager."""

    @property
    def authenticator(self) -> Authenticator | None:
        """Who verifies requests and signs replies; None: neither is done."""

    @property
    def audience(self) -> Sequence[str]:
        """The addresses, beside its own, for which it takes signed requests."""

    @property
    def guarded(self) -> bool:
        """Whether the agent has rules on who may call what: without any, ``authorize`` allows everything."""

    def authorize(self, request: Received, target: Target | None = None) -> None:
        """Check that the agent's rules allow a call. Quick; any thread.

        Args:
            target: the method that answers, once it is found.

        Raises:
            Denied: they do not.
        """

    def forks(self, target: Target) -> Forks | None:
        """Return what runs a method that is marked FORK; None: nothing does here."""

    def holds_no_thread(self, classname: str, method: str) -> bool:
        """Tell whether a method, its own or one that it forwards to, runs on the event loop. Quick; any thread."""

    @property
    def latency(self) -> float:
        """Seconds that a request waits before it goes to a worker."""

    @property
    def max_age(self) -> float | None:
        """Seconds that a request without a time to live may be old when it comes; None: no limit."""

    @property
    def timeout(self) -> float | None:
        """Seconds that a method may run; None: no limit."""

    @property
    def typed(self) -> bool:
        """Whether arguments must fit the annotations of methods."""

    @property
    def max_message(self) -> int:
        """The most bytes of a document, either way."""
