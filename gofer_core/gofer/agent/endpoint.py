"""A plugin's endpoint: the queue at its broker, the subscription to it, and who answers what comes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from gofer.agent.builtin import admin_api
from gofer.agent.config import AgentConfig
from gofer.agent.links import Links
from gofer.agent.plugin import Plugin, current
from gofer.agent.plugin_queue import PluginQueue
from gofer.agent.request_services import RequestServices
from gofer.agent.sharing import accepting, homes
from gofer.errors import ConnectionLost, MessagingError, NotFound
from gofer.messaging.adapter import DeclareQueue
from gofer.messaging.adapters import find
from gofer.messaging.connector import Connector
from gofer.messaging.document import shown
from gofer.messaging.operations import State
from gofer.messaging.url import broker_of
from gofer.rmi.api import API, Target
from gofer.rmi.model.fork import Forks
from gofer.rmi.server.access import Access, Denied, why_denied
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.consumer import Consumer
from gofer.rmi.server.reply_encoder import Refusal
from gofer.rmi.server.reply_publisher import GIVE_UP
from gofer.rmi.store import Unavailable

if TYPE_CHECKING:
    from gofer.rmi.request import Received

__all__ = ["Endpoint"]

log = logging.getLogger(__name__)

_PATIENCE = 5.0  # seconds for the broker to answer
_ANSWERS = 1.0  # seconds for the broker to take the results of the last calls
_AGAIN = 2.0  # seconds between two tries to read the ledger
_TOLD = 60.0  # seconds between two lines that it cannot be read
_QUIET = 0.25  # seconds in which a broker that has more would have sent it
_UNLOADED = Refusal("plugin.unloaded", "the plugin that this was for has been unloaded")
_DETACHED = Refusal("plugin.detached", "the plugin that this was for takes no requests any more")


class Endpoint:
    """One plugin at one queue: the :class:`gofer.rmi.server.service.Service` that a consumer serves. Any thread.

    When its plugin is loaded again, it goes on with the new one: ``hand_over`` and then ``follow``.
    """

    def __init__(
        self,
        plugin: Plugin,
        *,
        config: AgentConfig,
        links: Links,
        services: RequestServices,
        hook: Any,
        plugins: Mapping[str, Plugin],
        access: Callable[[], Access],
    ) -> None:
        """Find the connection and the identity. Nothing is sent yet.

        Args:
            hook: the hook caller of the agent's pluggy.PluginManager.
            plugins: those of the agent, by name.
            access: returns the rules of the agent as they are now.

        Raises:
            ConfigError: there is no URL, or the identity cannot be kept.
            AdapterError: no adapter serves the URL.
        """
        connector = plugin.described.connector(config.messaging, plugin.url)
        if plugin.queue is None:
            plugin.identify()
            text = "plugin %s: no queue is given; its address is %s, kept for the next time"
            log.info(text, plugin.name, plugin.queue)
            if plugin.foreign is not None:
                log.warning("plugin %s: %s", plugin.name, plugin.foreign)
        # What a consumer asks for with every request are plain attributes.
        self.name = plugin.name
        self.hook = hook
        self.workers = plugin.workers
        self.max_message = config.messaging.max_message
        self._config = config
        self._plugins = plugins
        self._access = access
        self._services = services
        self._links = links
        self._use = _use(plugin, connector)
        self.address = str(plugin.identify())
        self._take(plugin)
        exclusive = self._use[-1]
        if not exclusive and _has_once(plugin):
            text = (
                "plugin %s: calls of its @once methods are refused: the adapter for %s cannot read a queue exclusively"
            )
            log.warning(text, plugin.name, connector.url)
        self._over = False
        self._held = threading.Lock()
        self._give_back: Callable[[float], object] | None = None
        #: Set unless it was suspended, and what had not started is not yet given back.
        self.given_back = threading.Event()
        self.given_back.set()
        self._starting = threading.RLock()
        self._ending = threading.Event()
        self.link = links.acquire(connector)
        managed, exchange, declared = self._use[1:4]
        self.queue = PluginQueue(plugin.name, declared, exchange, managed, link=self.link, clock=services.clock)
        lifecycle = services.lifecycle
        channel = Channel(
            self,
            self.link,
            lifecycle.run,
            lifecycle.make_progress,
            counters=plugin.counters,
            prefetch=plugin.described.prefetch,
            exclusive=exclusive,
        )
        self.consumer = Consumer(channel, services.registry, services.persistence, services.nonces, lifecycle)

    def _take(self, plugin: Plugin) -> None:
        self.plugin = plugin
        self.admin = admin_api(plugin)
        #: What is entered around what the plugin's code does.
        self.entered = plugin.entered
        self.authenticator: Any = plugin.authenticator
        self.audience = plugin.described.audience
        self.loop = plugin.loop
        self.latency = plugin.described.latency
        self.max_age = plugin.described.max_age
        self.timeout = plugin.described.timeout
        self.typed = plugin.described.typed

    # -- what its requests ask for ------------------------------------------------------------------------------------

    @property
    def api(self) -> API:
        """What callers may call."""
        return self.plugin.api

    @property
    def guarded(self) -> bool:
        """Whether there are rules on who may call what."""
        return bool(self._access().rules)

    def authorize(self, request: Received, target: Target | None = None) -> None:
        """Check that the rules allow a call: those of this plugin, and those of the plugins that a method is of.

        Raises:
            Denied: they do not.
        """
        access = self._access()
        names = [self.name] if target is None else homes(target, self._plugins, access.modules)
        refusing = access.refusing(names, request.identity, request.classname, request.method)
        if refusing is not None:
            file = self._plugins[refusing].descriptor.file if refusing in self._plugins else "its descriptor"
            signs = self.authenticator is not None
            raise Denied(why_denied(request.identity, refusing, request.target, file, signs=signs))

    def forks(self, target: Target) -> Forks:
        """Return what runs a method in a child process: that of the plugin whose module has it.

        What a plugin has taken from elsewhere by itself is in its own, too; what it was given is not.
        """
        asked = self._plugins.get(target.plugin, self.plugin)  # another one, when that is forwarded to
        module = (target.cls or target.function).__module__
        if asked.has_name(module):
            return asked.forks
        for other in list(self._plugins.values()):
            space = other.name if target.cls is None else target.namespace
            if other.has_name(module) and other.is_alive and other.api.has(space, target.method):
                return other.forks
        return asked.forks

    def holds_no_thread(self, classname: str, method: str) -> bool:
        """Tell whether a method, the plugin's or one that it forwards to, runs on the event loop."""
        target = self.plugin.api.look_up(classname, method)
        if target is None and self.plugin.descriptor.forward:
            others = (one.api.look_up(classname, method) for one in accepting(self.plugin, self._plugins))
            target = next(filter(None, others), None)
        return target is not None and target.holds_no_thread

    # -- taking requests ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take up what the ledger holds, and take requests as soon as the broker and the queue are there.

        Does not wait for the broker. While the ledger cannot be read, nobody knows which requests were cancelled, have
        ended or are copies: the broker holds them until it can be.
        """
        failed = self._restore()
        if failed is None:
            self._subscribe()
            return
        log.error("plugin %s: takes no requests until the ledger can be read: %s", self.name, failed)
        threading.Thread(target=self._start_later, name=f"gofer-{self.name}-start", daemon=True).start()

    def _restore(self) -> Unavailable | None:
        """Read what the ledger knows of the plugin's requests, and take up what it holds; return why that fails."""
        try:
            self._services.restore(self.name, nonces=self.authenticator is not None)
            self.consumer.recover()
        except Unavailable as failed:
            return failed
        return None

    def _start_later(self) -> None:
        told = monotonic()
        while not self._ending.wait(_AGAIN):
            failed = self._restore()
            if failed is None:
                log.warning("plugin %s: the ledger can be read; requests are taken now", self.name)
                with self._starting:
                    if not self._ending.is_set():
                        self._subscribe()
                return
            if monotonic() - told > _TOLD:
                told = monotonic()
                log.error("plugin %s: still takes no requests: %s", self.name, failed)

    def _subscribe(self) -> None:
        self.consumer.start(self.queue.name, 0, prepare=self.queue.prepare, on_lost=self._lost)
        self.queue.keep_bound()
        self._links.watch(self.link)

    def wait(self, deadline: float) -> None:
        """Wait until the broker has answered or cannot be reached, to a time of ``time.monotonic()`` at most."""

        def has_answered() -> bool:
            wanted, core = self.consumer.subscription, self.link.core
            if wanted is None or wanted.active or wanted.error is not None:
                return True
            return core.tries > 0 and core.state is not State.OPEN

        with suppress(ConnectionLost):  # the agent is being stopped
            self.link.wait(has_answered, deadline)

    def _lost(self, why: str) -> None:
        log.warning("plugin %s: no requests from queue %r: %s", self.name, self.queue.name, why)

    # -- a plugin that is loaded again, or moves ----------------------------------------------------------------------

    def serves(self, plugin: Plugin) -> bool:
        """Tell whether it can go on for a plugin that was loaded again: the broker, the queue and its use are the same.

        Raises:
            ConfigError: there is no URL, or the identity cannot be kept.
        """
        return _use(plugin, plugin.described.connector(self._config.messaging, plugin.url)) == self._use

    def has_queue_of(self, other: Endpoint) -> bool:
        """Tell whether both take from the same queue."""
        mine, theirs = self.link.connector.url, other.link.connector.url
        return self.queue.name == other.queue.name and broker_of(mine) == broker_of(theirs)

    def hand_over(self, old: Plugin, new: Plugin) -> None:
        """Have the new one's workers run what waits for the old one's, and what comes; all else stays as it is."""
        self.workers = new.workers
        old.workers.hand_over(new.workers)

    def follow(self, plugin: Plugin) -> None:
        """Serve the plugin that was loaded again, or has another authenticator."""
        self._take(plugin)
        self.consumer.renew()

    # -- its end ------------------------------------------------------------------------------------------------------

    def stop(self, deadline: float) -> None:
        """Take no more, let what runs end by the deadline (``time.monotonic()``), and leave the rest to the broker."""
        self._over = True
        self._end_start()
        left = self.consumer.stop(max(0.0, deadline - monotonic()))
        if left:
            log.warning("plugin %s: %d requests have not ended in time; the broker keeps them", self.name, len(left))
        if self._held.acquire(blocking=False):  # once, whoever stops it
            self._links.release(self.link)

    def suspend(self) -> None:
        """Start nothing more, at once: a plugin that decides about calls is about to go. ``retire`` follows."""
        self.given_back.clear()
        self._give_back = self.consumer.halt()

    def retire(self) -> None:
        """Take no more, and go on until all that was accepted has ended, however long that takes. ``stop`` ends it."""
        self._end_start()
        if self._give_back is not None:
            self._give_back(_PATIENCE)
            self.given_back.set()
        self.consumer.close(_PATIENCE)
        while not self._over and not self.consumer.channel.wait(1.0):
            pass
        if not self._over:
            self.stop(monotonic() + _PATIENCE)

    def _end_start(self) -> None:
        """Have it not subscribe any more, where it still waits for the ledger, and not bind its queue."""
        with self._starting:
            self._ending.set()
            self.queue.end()

    def leave(self, deadline: float, *, detached: bool = False) -> bool:
        """Take no more, and let all that was accepted end by the deadline. ``managed`` 2: empty and delete the queue.

        What waits in the queue is then rejected, unless another agent takes from it. What has not been started by the
        deadline is rejected, too; else it goes back.

        Args:
            detached: the plugin goes on without a queue; else it is being unloaded.

        Returns:
            Whether all has ended. If not, ``retire`` follows.
        """
        self._end_start()
        refusal = (_DETACHED if detached else _UNLOADED) if self.queue.managed == 2 else None
        volatile = self.queue.volatile
        alone = False
        if refusal is not None and volatile:
            self.consumer.reject_all(refusal)
        else:
            given_back = self.consumer.close(_PATIENCE)
            alone = refusal is not None and given_back and self._refuse(refusal)
        ours = 1 if current() is self.plugin else 0  # a call that unloads its own plugin does not wait for itself
        ended = self.consumer.channel.wait(max(0.0, deadline - monotonic()), but=ours, answered=False)
        if not ended:
            self.consumer.leave(refusal)
        if refusal is not None and volatile:
            self._until_quiet()
        if alone and self.queue.delete(lambda: self._over):
            self.consumer.catch_up(_PATIENCE)  # what came before the queue's end is still to be rejected
        ended = ended and self.consumer.channel.wait(_ANSWERS, but=ours)
        self._tell_left("detached" if detached else "unloaded")
        if ended:
            self.stop(monotonic() + _PATIENCE)
        return ended

    def _tell_left(self, what: str) -> None:
        """Say what is left of a plugin that is unloaded, or detached."""
        channel = self.consumer.channel
        unended = channel.unended
        overdue = [one for one in self._services.registry.overdue() if one.channel is channel]
        running = {request.key: request.target for request in (*unended, *overdue)}
        if running:
            names = ", ".join(sorted(set(running.values())))
            log.warning("plugin %s: %s; %d of its calls continue: %s", self.name, what, len(running), names)
        left = len(channel.opened()) - len(unended)
        if left > 0:
            refused = dict(channel.publisher.refused())
            why = "; ".join(f"for {shown(address)}: {shown(reason)}" for address, reason in list(refused.items())[:3])
            text = "plugin %s: %s; %d results undelivered (%s). They are sent again for %g s, then kept for a day"
            log.warning(text, self.name, what, left, why or f"the connection is {self.link.state}", GIVE_UP)

    def spare(self) -> None:
        """Leave the queue as it is, and at once: another endpoint of the plugin takes from it. While it leaves."""
        self.queue.spare()
        self.consumer.close(_PATIENCE)

    def _refuse(self, refusal: Refusal) -> bool:
        """Reject what waits in the queue and what comes; False: that is not ours to do."""
        if self.consumer.subscription is None or self.queue.spared:
            return False  # it has never been read, or is read again
        left = "plugin %s: queue %r stays as it is: %s"
        if not self.link.is_open:
            log.warning(left, self.name, self.queue.name, self.link.state)
            return False
        try:
            self.consumer.refuse(refusal, _PATIENCE)
        except NotFound:
            return False  # deleted with its last reader
        except MessagingError as others:
            log.info(left, self.name, self.queue.name, others)
            return False
        if self.queue.spared:  # meanwhile
            self.consumer.close(_PATIENCE)
        return not self.queue.spared

    def _until_quiet(self) -> None:
        """Wait until nothing more comes to be rejected: no broker says of a queue with readers that it is empty."""
        deadline, before = monotonic() + _PATIENCE, -1
        counters = self.consumer.channel.counters
        while monotonic() < deadline and not self._over and (now := counters["rejected"]) != before:
            before = now
            sleep(_QUIET)


def _use(plugin: Plugin, connector: Connector) -> tuple[Connector, int, str, DeclareQueue, int, bool]:
    """Return all that an endpoint is made of; two that are equal in this are one."""
    described, address = plugin.described, plugin.identify()
    queue = DeclareQueue(address.key, expires=described.expiration, kind=described.kind)
    exclusive = described.exclusive or (  # as the descriptor says, or for @once methods where the adapter can
        _has_once(plugin) and find(connector.url, connector.adapter).subscribes_exclusively
    )
    return connector, described.managed, address.exchange, queue, described.prefetch, exclusive


def _has_once(plugin: Plugin) -> bool:
    return any(target.mark.once for target in plugin.api)
