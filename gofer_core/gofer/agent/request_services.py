"""What serves the requests of all plugins of an agent: made once, handed to each endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gofer.agent.plugin import Plugin
from gofer.rmi.clock import Clock
from gofer.rmi.server.administration import Administration
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.early_cancels import Tombstones
from gofer.rmi.server.hooks import HookCalls
from gofer.rmi.server.in_flight import Registry
from gofer.rmi.server.lifecycle import Lifecycle
from gofer.rmi.server.logins import Logins
from gofer.rmi.server.nonces import Nonces
from gofer.rmi.server.persistence import Persistence
from gofer.rmi.server.window import Window
from gofer.rmi.store import Database
from gofer.root import Root

__all__ = ["RequestServices"]


class RequestServices:
    """The parts of the agent's half of gofer.rmi, put together. Nothing runs before the first request.

    Args:
        service: the PAM service of the agent's settings.
        running: returns the plugins that answer requests.
        channel_of: returns the channel of a plugin's queue by the plugin's name.
    """

    def __init__(
        self,
        root: Root,
        service: str | None,
        clock: Clock,
        running: Callable[[], Iterable[Plugin]],
        channel_of: Callable[[str], Channel | None],
    ) -> None:
        self.clock = clock
        self.registry = Registry()
        self.logins = Logins(service)
        self.hook_calls = HookCalls()
        self.store = Database(root.lib / "ledger", lambda: root.ensure(root.lib / "ledger"))
        self.nonces = Nonces(self.store)
        window = Window(self.registry, self.store)
        self.persistence = Persistence(self.registry, self.store, self.nonces, window)
        self.tombstones = Tombstones(self.store)
        self.lifecycle = Lifecycle(
            self.registry,
            self.persistence,
            window,
            self.tombstones,
            clock,
            logins=self.logins,
            hooks=self.hook_calls,
        )
        self.requests = Administration(
            registry=self.registry,
            store=self.store,
            window=window,
            lifecycle=self.lifecycle,
            tombstones=self.tombstones,
            clock=clock,
            plugins=running,
            find=channel_of,
        )

    def restore(self, plugin: str, *, nonces: bool) -> None:
        """Read what the store knows of a plugin's requests, and of signatures that were seen.

        Raises:
            Unavailable: the store cannot be read.
        """
        self.tombstones.restore(plugin)
        if nonces:
            self.nonces.restore()

    def stop(self) -> None:
        """End all threads of it."""
        self.clock.stop()
        self.store.stop()
        self.hook_calls.stop()
        self.requests.stop()
        self.lifecycle.stop()
