"""A plugin's place at its queue: the connection, the subscription, and those who answer what comes."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from time import monotonic
from typing import TYPE_CHECKING, Any

from gofer.agent.builtin import admin_api
from gofer.agent.plugin import Plugin, State
from gofer.agent.queues import QueueModel
from gofer.rmi.api import API, Target
from gofer.rmi.model.fork import Forks
from gofer.rmi.receiver import Receiver

if TYPE_CHECKING:
    from gofer.agent.container import PluginContainer

__all__ = ["Attachment"]

log = logging.getLogger(__name__)


class Attachment:
    """One plugin at one queue: the :class:`gofer.rmi.service.Service` that a receiver serves. Any thread."""

    def __init__(self, container: PluginContainer, plugin: Plugin) -> None:
        """Find the connection and the identity. Nothing is sent yet.

        Raises:
            ConfigError: there is no URL, or the identity cannot be kept.
            AdapterError: no adapter serves the URL.
        """
        descriptor = plugin.descriptor
        connector = descriptor.connector(container.config.messaging, plugin.url)
        if plugin.queue is None:
            plugin.identify()
            log.info(
                "plugin %s: no queue is given; its address is %s, kept for the next time", plugin.name, plugin.queue
            )
        # What a receiver asks for with every request are plain attributes.
        self.plugin = plugin
        self.name = plugin.name
        self.queue = QueueModel(descriptor, plugin.identify())
        self.address = str(self.queue.address)
        self.admin = admin_api(plugin)
        self.hook = _EnteredHooks(plugin, container.hooks.hook)
        self.authenticator: Any = plugin.authenticator
        self.audience = descriptor.audience
        self.workers = plugin.workers
        self.loop = plugin.loop
        self.latency = descriptor.latency
        self.timeout = descriptor.timeout
        self.timeout = descriptor.timeout
        self.max_message = container.config.messaging.max_message
        self._links = container.links
        self.link = self._links.acquire(connector)
        self.receiver = Receiver(
            self,
            self.link,
            container.clock,
            container.book,
            counters=plugin.counters,
            custody=container.custody,
            cancelling=container.cancelling,
            replays=container.replays,
            logins=container.logins,
            prefetch=descriptor.prefetch,
        )

    @property
    def api(self) -> API:
        """What callers may call."""
        return self.plugin.api

    def forks(self, target: Target) -> Forks:
        """Return what runs a method in a child process: that of the plugin whose module has it.

        What a plugin has taken from elsewhere by itself is in its own, too; what it was given is not.
        """
        asked = self.plugin.container.plugins.get(target.plugin, self.plugin)  # another one, when that is forwarded to
        module = (target.cls or target.function).__module__
        if asked.has_name(module):
            return asked.forks
        for other in list(asked.container.plugins.values()):
            space = other.name if target.cls is None else target.namespace
            if other.has_name(module) and other.state is State.RUNNING and other.api.has(space, target.method):
                return other.forks
        return asked.forks

    def entered(self) -> AbstractContextManager[object]:
        """Return what is entered around what the plugin's code does."""
        return self.plugin.entered()

    def start(self) -> None:
        """Take up what the ledger holds, and take requests as soon as the broker and the queue are there.

        Does not wait for the broker.
        """
        container = self.plugin.container
        container.cancelling.restore(self.name)
        container.custody.recover(self.receiver)
        once = any(target.mark.once for target in self.api)
        self.receiver.start(
            self.queue.spec.name,
            0,
            prepare=self.queue.prepare,
            on_lost=self._lost,
            exclusive=self.plugin.descriptor.exclusive or once,
        )

    def stop(self, deadline: float) -> None:
        """Take no more, let what runs end by the deadline (``time.monotonic()``), and leave the rest to the broker."""
        left = self.receiver.stop(max(0.0, deadline - monotonic()))
        if left:
            log.warning("plugin %s: %d requests have not ended in time; the broker keeps them", self.name, len(left))
        self._links.release(self.link)

    def _lost(self, why: str) -> None:
        log.warning("plugin %s: no requests from queue %r: %s", self.name, self.queue.spec.name, why)


class _EnteredHooks:
    """The hooks that requests go through, so called that ``Plugin.find`` works in all of them."""

    __slots__ = ("_hooks", "_plugin", "gofer_call", "gofer_route")

    def __init__(self, plugin: Plugin, hooks: Any) -> None:
        self._plugin = plugin
        self._hooks = hooks
        self.gofer_route = hooks.gofer_route  # these two are called where the plugin is entered already
        self.gofer_call = hooks.gofer_call

    def gofer_accept(self, **arguments: Any) -> None:
        self._call(self._hooks.gofer_accept, arguments)

    def gofer_finished(self, **arguments: Any) -> None:
        self._call(self._hooks.gofer_finished, arguments)

    def _call(self, hook: Any, arguments: dict[str, Any]) -> None:
        if hook.get_hookimpls():  # most agents have none, and each request would pay for it twice
            with self._plugin.entered():
                hook(**arguments)
