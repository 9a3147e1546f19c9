"""Where the plugins of an agent take their requests: at most one queue each, and the queues that they are leaving."""

from __future__ import annotations

import logging
import threading
from time import monotonic
from typing import TYPE_CHECKING

from gofer.agent.assembly import Refused, blamed
from gofer.agent.attachment import Attachment
from gofer.agent.barrier import Barrier
from gofer.agent.config import Problem, broker_of
from gofer.agent.plugin import Plugin, State
from gofer.agent.trust import check_trust
from gofer.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from gofer.agent.container import PluginContainer

__all__ = ["Attachments"]

log = logging.getLogger(__name__)

_PATIENCE = 10.0  # seconds for a broker that is to take back what was not started


class Attachments:
    """The attachments of one container, by their plugins' names. Any thread."""

    def __init__(self, container: PluginContainer) -> None:
        """Keep the container. Nothing is attached."""
        self._container = container
        self._lock = threading.Lock()  # held for a moment only
        self._at: dict[str, Attachment] = {}
        self._leaving: set[Attachment] = set()
        self._stopping = False
        #: Whether nothing is attached for the moment; and what will be when that is over.
        self.closed = False
        self._held: dict[str, None] = {}
        #: Whether some plugin is required, so that calls are looked at on their way through the hooks.
        self.watched = False
        self.barrier = Barrier()

    def has(self, name: str) -> bool:
        """Tell whether a plugin is attached, or will be when requests are taken again."""
        return name in self._at or name in self._held

    def watch(self) -> None:
        """Look at calls on their way through the hooks from now on."""
        with self._lock:
            if not self.watched:
                self.watched = True
                for attachment in self._at.values():
                    attachment.watch()

    def close(self, passing: Collection[str] = ()) -> None:
        """Take no requests for any plugin: what runs goes on, what has not started is given back. Until ``open``.

        Returns when the hooks have decided about all calls that have started.

        Args:
            passing: the names of plugins whose calls end before their hooks go.
        """
        with self._lock:
            if self.closed or self._stopping:
                return
            self.closed = True
            suspended = list(self._at.values())
            self._held.update(dict.fromkeys(self._at))
            self._at.clear()
            self._leaving.update(suspended)
            for attachment in suspended:
                attachment.suspend()
        if not self.barrier.close(passing, _PATIENCE):
            log.warning("hooks have not decided about all calls in %g s; nothing waits for them any more", _PATIENCE)
        for attachment in suspended:
            self._in_background(attachment, lambda one=attachment: self._retire(one))  # type: ignore[misc]  # mypy cannot infer a lambda's default

    def open(self, first: Collection[str]) -> list[Plugin]:
        """Attach what is held, and return it. A plugin that cannot be attached is quarantined.

        Args:
            first: the names of those to begin with.
        """
        attached = []
        with self._lock:
            self.closed = False
            names = sorted(self._held, key=lambda name: name not in first)
            self._held.clear()
            leaving = list(self._leaving)
        self.barrier.open()
        for attachment in leaving:
            attachment.given_back.wait(_PATIENCE)  # or it would be in nobody's hands
        for name in names:
            plugin = self._container.plugins.get(name)
            if plugin is None or not plugin.is_running:
                continue
            try:
                with blamed(plugin, "messaging", "url"):
                    self.attach(plugin)
            except Refused as refused:
                self._container.quarantine(refused)
            else:
                attached.append(plugin)
        return attached

    def of(self, name: str) -> Attachment | None:
        """Return the attachment of a plugin; None: it has none."""
        return self._at.get(name)

    def attach(self, plugin: Plugin) -> None:
        """Do what ``Plugin.attach`` says."""
        with self._lock:
            if plugin.state is State.LOADING:
                plugin.wants_queue = True
                return
            if plugin.state is not State.RUNNING or self._stopping:
                raise PluginError(f"plugin {plugin.name!r} cannot be attached: it is {plugin.state.value}")
            if self.closed:
                self._held[plugin.name] = None
                return
            running = [one for one in self._container.plugins.values() if one.is_running]
            if (problem := check_trust(plugin, running)) is not None:  # its code may have set another authenticator
                raise Refused(plugin, problem)
            before = self._at.get(plugin.name)
            if before is not None and before.serves(plugin):
                before.follow(plugin)  # it may have another authenticator
                return
            self._refuse_shared(plugin)
            attachment = self._at[plugin.name] = Attachment(self._container, plugin)
            spared = [one for one in self._leaving if one.has_queue_of(attachment)]
            if before is not None:
                self._leaving.add(before)
            attachment.start()
        for one in spared:  # it would empty and delete the queue
            self._in_background(one, one.spare)
        if before is not None:
            log.info("plugin %s: attached to %s; it was at %s", plugin.name, attachment.address, before.address)
            self._in_background(before, lambda: self._retire(before))

    def detach(self, plugin: Plugin) -> None:
        """Do what ``Plugin.detach`` says."""
        with self._lock:
            if plugin.state is State.LOADING:
                plugin.wants_queue = False
                return
            self._held.pop(plugin.name, None)
            attachment = self._at.pop(plugin.name, None)
            if attachment is None:
                return
            self._leaving.add(attachment)
        deadline = monotonic() + self._container.config.main.shutdown_timeout
        self._in_background(attachment, lambda: self._detach(attachment, deadline))

    def _detach(self, attachment: Attachment, deadline: float) -> None:
        if attachment.queue.managed == 2:
            if not attachment.leave(deadline, detached=True):
                attachment.retire()
        else:
            attachment.stop(deadline)
        with self._lock:
            self._leaving.discard(attachment)

    def leave(self, plugin: Plugin, state: State, deadline: float, *, for_good: bool) -> State:
        """Take a plugin from its queue, and give it a new state; return the one that it had.

        Args:
            for_good: what was accepted is finished; else it is given back.
        """
        with self._lock:
            self._held.pop(plugin.name, None)
            attachment = self._at.pop(plugin.name, None)
            was, plugin.state = plugin.state, state if plugin.state is not State.DISABLED else State.DISABLED
        if attachment is not None:
            if for_good:
                self._leaving.add(attachment)
                if attachment.leave(deadline):
                    self._leaving.discard(attachment)
                else:
                    self._in_background(attachment, lambda: self._retire(attachment))
            else:
                attachment.stop(deadline)
        return was

    def stop(self, deadline: float) -> list[threading.Thread]:
        """Stop all at the same time, each in a thread of its own; nothing is attached any more. May be repeated."""
        with self._lock:
            self._stopping = True
            attachments = [*self._at.values(), *self._leaving]
            self._at.clear()
            self._leaving.clear()
        return [self._in_background(one, lambda one=one: one.stop(deadline)) for one in attachments]  # type: ignore[misc]  # mypy cannot infer a lambda's default

    # -- for a plugin that is loaded again ------------------------------------------------------------------------

    def hand_over(self, old: Plugin, new: Plugin) -> None:
        """Have the workers of the new one run what waits for those of the old one, and what comes."""
        with self._lock:
            mine = [one for one in (*self._at.values(), *self._leaving) if one.name == old.name]
        for attachment in mine:
            attachment.exchange(old, new)
        old.workers.hand_over(new.workers)  # what came another way, or comes late

    def needed(self, new: Plugin) -> Attachment | None:
        """Make the attachment that a plugin needs and that there is not yet. Nothing is taken from its queue yet.

        Raises:
            Refused: its queue is that of another plugin.
            ConfigError, AdapterError: as :class:`Attachment`.
        """
        present = self._at.get(new.name)
        wants = new.wants_queue if new.wants_queue is not None else new.url is not None
        if self.closed or not wants or (present is not None and present.serves(new)):
            return None
        self._refuse_shared(new)
        return Attachment(self._container, new)

    def follow(self, new: Plugin, made: Attachment | None) -> None:
        """Have the attachments of the old one be those of the new one; one that it does not need is left."""
        with self._lock:
            present = self._at.get(new.name)
            for one in (*self._at.values(), *self._leaving):
                if one.name == new.name:
                    one.follow(new)
            wants = new.wants_queue if new.wants_queue is not None else new.url is not None
            stays = wants and made is None
            if self.closed:
                self._held.pop(new.name, None)
                if wants:
                    self._held[new.name] = None
            if self._stopping or (present is not None and not stays):
                self._at.pop(new.name, None)
                if present is not None and not self._stopping:
                    self._leaving.add(present)
            if made is not None and not self._stopping:
                self._at[new.name] = made
        if made is not None:
            if self._stopping:
                made.discard()
            else:
                made.start()
        if present is not None and present in self._leaving:
            self._in_background(present, lambda: self._retire(present))

    def _refuse_shared(self, plugin: Plugin) -> None:
        """Refuse a queue that another plugin reads: each would get requests that are for the other."""
        for other in list(self._at.values()):
            if other.name == plugin.name or plugin.url is None or other.queue.spec.name != plugin.uuid:
                continue
            if broker_of(plugin.url) == broker_of(other.link.connector.url):
                text = f"{plugin.uuid!r} is the queue of plugin {other.name!r} ({other.plugin.descriptor.file})"
                text += "; allowed: one plugin of an agent for each queue"
                raise Refused(plugin, Problem("error", str(plugin.descriptor.file), "model", "queue", text))

    def _retire(self, attachment: Attachment) -> None:
        attachment.retire()
        with self._lock:
            self._leaving.discard(attachment)

    @staticmethod
    def _in_background(attachment: Attachment, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, name=f"gofer-{attachment.name}-stop", daemon=True)
        thread.start()
        return thread
