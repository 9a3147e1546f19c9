"""A plugin's place at its queue: the connection, the subscription, and those who answer what comes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from gofer.agent.builtin import admin_api
from gofer.agent.config import broker_of
from gofer.agent.plugin import Plugin, State, current
from gofer.agent.queues import Binding, QueueModel
from gofer.errors import AdapterError, MessagingError, NotFound
from gofer.messaging.adapter import DeleteQueue
from gofer.messaging.adapters import find
from gofer.messaging.connector import Connector
from gofer.messaging.document import shown
from gofer.rmi.api import API, Target
from gofer.rmi.model.fork import Forks
from gofer.rmi.server.consumer import Consumer
from gofer.rmi.server.replies import GIVE_UP, Refusal
from gofer.rmi.store import Unavailable

if TYPE_CHECKING:
    from gofer.agent.container import PluginContainer
    from gofer.rmi.request import Received

__all__ = ["Attachment"]

log = logging.getLogger(__name__)

_PATIENCE = 5.0  # seconds for the broker to answer
_ANSWERS = 1.0  # seconds for the broker to take the results of the last calls
_MOMENT = 0.02
_AGAIN = 2.0  # seconds between two tries to read the ledger
_TOLD = 60.0  # seconds between two lines that it cannot be read
_QUIET = 0.25  # seconds in which a broker that has more would have sent it
_UNLOADED = Refusal("plugin.unloaded", "the plugin that this was for has been unloaded")
_DETACHED = Refusal("plugin.detached", "the plugin that this was for takes no requests any more")


class Attachment:
    """One plugin at one queue: the :class:`gofer.rmi.server.service.Service` that a consumer serves. Any thread.

    When its plugin is loaded again, it goes on with the new one: ``exchange`` and then ``follow``.
    """

    def __init__(self, container: PluginContainer, plugin: Plugin) -> None:
        """Find the connection and the identity. Nothing is sent yet.

        Raises:
            ConfigError: there is no URL, or the identity cannot be kept.
            AdapterError: no adapter serves the URL.
        """
        connector = plugin.described.connector(container.config.messaging, plugin.url)
        if plugin.queue is None:
            plugin.identify()
            log.info(
                "plugin %s: no queue is given; its address is %s, kept for the next time", plugin.name, plugin.queue
            )
            if plugin.foreign is not None:
                log.warning("plugin %s: %s", plugin.name, plugin.foreign)
        # What a consumer asks for with every request are plain attributes.
        self.name = plugin.name
        self.queue = QueueModel(plugin.described, plugin.identify())
        self.address = str(self.queue.address)
        self.workers = plugin.workers
        self._take(plugin)
        self.max_message = container.config.messaging.max_message
        self._exclusive = _exclusive(plugin, connector)
        if not self._exclusive and _has_once(plugin):
            text = (
                "plugin %s: calls of its @once methods are refused: the adapter for %s cannot read a queue exclusively"
            )
            log.warning(text, plugin.name, connector.url)
        self._prefetch = plugin.described.prefetch
        self._over = False
        self._spared = False
        self._deleting = threading.Lock()  # nobody else takes from the queue while it is deleted
        self._held = threading.Lock()
        self._give_back: Callable[[float], object] | None = None
        #: Set unless it was suspended, and what had not started is not yet given back.
        self.given_back = threading.Event()
        self.given_back.set()
        self._starting = threading.Lock()
        self._ending = threading.Event()
        self._links = container.links
        self.link = self._links.acquire(connector)
        self._binding = Binding(self.queue, self.link, container.clock)
        self.consumer = Consumer(
            self,
            self.link,
            registry=container.registry,
            persistence=container.persistence,
            nonces=container.nonces,
            lifecycle=container.lifecycle,
            counters=plugin.counters,
            prefetch=self._prefetch,
            exclusive=self._exclusive,
        )

    def _take(self, plugin: Plugin) -> None:
        self.plugin = plugin
        self.admin = admin_api(plugin)
        self._hooks = plugin.container.hooks.hook
        self.hook = _RequestHooks(self._hooks)
        if plugin.container.attachments.watched:
            self.watch()
        self.authenticator: Any = plugin.authenticator
        self.audience = plugin.described.audience
        self.loop = plugin.loop
        self.latency = plugin.described.latency
        self.max_age = plugin.described.max_age
        self.timeout = plugin.described.timeout

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

    def holds_no_thread(self, classname: str, method: str) -> bool:
        """Tell whether a method, the plugin's or one that it forwards to, runs on the event loop."""
        target = self.plugin.api.look_up(classname, method)
        if target is None and self.plugin.descriptor.forward:
            others = (one.api.look_up(classname, method) for one in self.plugin.container.accepting(self.plugin))
            target = next(filter(None, others), None)
        return target is not None and target.holds_no_thread

    def entered(self) -> AbstractContextManager[object]:
        """Return what is entered around what the plugin's code does."""
        return self.plugin.entered()

    def start(self) -> None:
        """Take up what the ledger holds, and take requests as soon as the broker and the queue are there.

        Does not wait for the broker. While the ledger cannot be read, nobody knows which requests were cancelled, have
        ended or are copies: the broker holds them until it can be.
        """
        failed = self._learn()
        if failed is None:
            self._subscribe()
            return
        log.error("plugin %s: takes no requests until the ledger can be read: %s", self.name, failed)
        threading.Thread(target=self._start_later, name=f"gofer-{self.name}-start", daemon=True).start()

    def _learn(self) -> Unavailable | None:
        """Read what the ledger knows of the plugin's requests, and take up what it holds; return why that fails."""
        container = self.plugin.container
        try:
            container.tombstones.restore(self.name)
            if self.authenticator is not None:
                container.nonces.restore()
            self.consumer.recover()
        except Unavailable as failed:
            return failed
        return None

    def _start_later(self) -> None:
        told = monotonic()
        while not self._ending.wait(_AGAIN):
            failed = self._learn()
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
        self.consumer.start(
            self.queue.spec.name,
            0,
            prepare=self.queue.prepare,
            on_lost=self._lost,
        )
        self._binding.start()
        self._links.watch(self.link)

    def serves(self, plugin: Plugin) -> bool:
        """Tell whether it can go on for a plugin that was loaded again: the broker, the queue and its use are the same.

        Raises:
            ConfigError: there is no URL, or the identity cannot be kept.
        """
        connector = plugin.described.connector(plugin.container.config.messaging, plugin.url)
        return (
            connector == self.link.connector
            and QueueModel(plugin.described, plugin.identify()) == self.queue
            and plugin.described.prefetch == self._prefetch
            and _exclusive(plugin, connector) == self._exclusive
        )

    def has_queue_of(self, other: Attachment) -> bool:
        """Tell whether both take from the same queue."""
        mine, theirs = self.link.connector.url, other.link.connector.url
        return self.queue.spec.name == other.queue.spec.name and broker_of(mine) == broker_of(theirs)

    def exchange(self, old: Plugin, new: Plugin) -> None:
        """Have the new one's workers run what waits for the old one's, and what comes; all else stays as it is."""
        self.workers = new.workers
        old.workers.hand_over(new.workers)

    def follow(self, plugin: Plugin) -> None:
        """Serve the plugin that was loaded again."""
        self._take(plugin)
        self.consumer.renew()

    def stop(self, deadline: float) -> None:
        """Take no more, let what runs end by the deadline (``time.monotonic()``), and leave the rest to the broker."""
        self._over = True
        self._end_start()
        self._binding.stop()
        left = self.consumer.stop(max(0.0, deadline - monotonic()))
        if left:
            log.warning("plugin %s: %d requests have not ended in time; the broker keeps them", self.name, len(left))
        self._release()

    def suspend(self) -> None:
        """Start nothing more, at once: a plugin that decides about calls is about to go. ``retire`` follows."""
        self.given_back.clear()
        self._give_back = self.consumer.halt()

    def watch(self) -> None:
        """Have calls pass a barrier that holds them until the hooks are there that decide about them."""
        hook, barrier = self._hooks.gofer_call, self.plugin.container.attachments.barrier

        def call(plugin: Plugin, request: Received, invoke: Callable[[], Any]) -> Any:
            # Admin is called by the thread that reads the broker, which must not wait.
            wait = 0.0 if request.classname in self.admin else plugin.container.config.main.shutdown_timeout
            return barrier.call(hook, plugin.name, invoke, wait, plugin=plugin, request=request)

        self.hook.gofer_call = call

    def retire(self) -> None:
        """Take no more, and go on until all that was accepted has ended, however long that takes. ``stop`` ends it."""
        self._end_start()
        self._binding.stop()
        if self._give_back is not None:
            self._give_back(_PATIENCE)
            self.given_back.set()
        self.consumer.close(_PATIENCE)
        while not self._over and not self.consumer.channel.wait(1.0):
            pass
        if not self._over:
            self.stop(monotonic() + _PATIENCE)

    def _end_start(self) -> None:
        """Have it not subscribe any more, where it still waits for the ledger."""
        with self._starting:
            self._ending.set()

    def discard(self) -> None:
        """Undo the making: it was not started."""
        self._release()

    def _release(self) -> None:
        if self._held.acquire(blocking=False):  # once, whoever stops it
            self._links.release(self.link)

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
        self._binding.stop()
        refusal = (_DETACHED if detached else _UNLOADED) if self.queue.managed == 2 else None
        if refusal is not None and self.queue.volatile:
            self.consumer.reject_all(refusal)  # the queue goes with its last reader, and all that is in it
            alone = False
        else:
            given_back = self.consumer.close(_PATIENCE)
            alone = refusal is not None and given_back and self._refuse(refusal)
        ours = 1 if current() is self.plugin else 0  # a call that unloads its own plugin does not wait for itself
        ended = self.consumer.channel.wait(max(0.0, deadline - monotonic()), but=ours, answered=False)
        if not ended:
            self.consumer.leave(refusal)
        if refusal is not None and self.queue.volatile:
            self._until_quiet()
        if alone and self._delete():
            self.consumer.catch_up(_PATIENCE)  # what came before the queue's end is still to be rejected
        what = "detached" if detached else "unloaded"
        if ended and self.consumer.channel.wait(_ANSWERS, but=ours):
            self._tell_left(what)
            self.stop(monotonic() + _PATIENCE)
            return True
        self._tell_left(what)
        return False

    def _tell_left(self, what: str) -> None:
        """Say what is left of a plugin that is unloaded, or detached."""
        channel = self.consumer.channel
        unended = channel.unended
        overdue = [one for one in self.plugin.container.registry.overdue() if one.channel is channel]
        running = {request.key: request.target for request in (*unended, *overdue)}
        if running:
            names = ", ".join(sorted(set(running.values())))
            log.warning("plugin %s: %s; %d of its calls go on: %s", self.name, what, len(running), names)
        left = len(channel.opened()) - len(unended)
        if left > 0:
            refused = dict(channel.publisher.refused())
            why = "; ".join(f"for {shown(address)}: {shown(reason)}" for address, reason in list(refused.items())[:3])
            text = "plugin %s: %s; %d results undelivered (%s). They are sent again for %g s, then kept for a day"
            log.warning(text, self.name, what, left, why or f"the connection is {self.link.state}", GIVE_UP)

    def spare(self) -> None:
        """Leave the queue as it is, and at once: another attachment of the plugin takes from it. While it leaves."""
        with self._deleting:
            self._spared = True
        self.consumer.close(_PATIENCE)

    def _refuse(self, refusal: Refusal) -> bool:
        """Reject what waits in the queue and what comes; False: that is not ours to do."""
        if self.consumer.subscription is None or self._spared:
            return False  # it has never been read, or is read again
        if not self.link.is_open:
            log.warning("plugin %s: queue %r is left as it is: %s", self.name, self.queue.spec.name, self.link.state)
            return False
        try:
            self.consumer.refuse(refusal, _PATIENCE)
        except NotFound:
            return False  # deleted with its last reader
        except MessagingError as others:
            log.info("plugin %s: queue %r is left as it is: %s", self.name, self.queue.spec.name, others)
            return False
        if self._spared:  # meanwhile
            self.consumer.close(_PATIENCE)
        return not self._spared

    def _until_quiet(self) -> None:
        """Wait until nothing more comes to be rejected: no broker says of a queue with readers that it is empty."""
        deadline, before = monotonic() + _PATIENCE, -1
        while (
            monotonic() < deadline and not self._over and (now := self.consumer.channel.counters["rejected"]) != before
        ):
            before = now
            sleep(_QUIET)

    def _delete(self) -> bool:
        """Delete the queue, which nobody else reads, as soon as it is empty; return whether it is gone."""
        if self.queue.kept is not None:
            log.info("plugin %s: queue %r is left, empty: %s", self.name, self.queue.spec.name, self.queue.kept)
            return False
        name, deadline = self.queue.spec.name, monotonic() + _PATIENCE
        while True:
            try:
                with self._deleting:
                    if self._spared:
                        return False
                    self.link.ask(DeleteQueue(name, if_empty=True), _PATIENCE)
            except NotFound:
                return True
            except AdapterError as kept:
                # What it holds is on its way to be rejected.
                if monotonic() < deadline and not self._over:
                    sleep(_MOMENT)
                    continue
                log.warning("plugin %s: queue %r is not deleted: %s", self.name, name, kept)
            except MessagingError as gone:
                log.warning("plugin %s: queue %r is left as it is: %s", self.name, name, gone)
            else:
                log.info("plugin %s: queue %r deleted", self.name, name)
                return True
            return False

    def _lost(self, why: str) -> None:
        log.warning("plugin %s: no requests from queue %r: %s", self.name, self.queue.spec.name, why)


def _has_once(plugin: Plugin) -> bool:
    return any(target.mark.once for target in plugin.api)


def _exclusive(plugin: Plugin, connector: Connector) -> bool:
    """Tell whether to subscribe exclusively: as the descriptor says, or for @once methods where the adapter can."""
    if plugin.described.exclusive:
        return True
    return _has_once(plugin) and find(connector.url, connector.adapter).subscribes_exclusively


class _RequestHooks:
    """The hooks that requests go through. ``gofer_call`` may be replaced, by one that passes a barrier first."""

    __slots__ = ("gofer_accept", "gofer_call", "gofer_finished", "gofer_route")

    def __init__(self, hooks: Any) -> None:
        self.gofer_accept = hooks.gofer_accept
        self.gofer_call = hooks.gofer_call
        self.gofer_finished = hooks.gofer_finished
        self.gofer_route = hooks.gofer_route
