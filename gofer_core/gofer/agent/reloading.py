"""Loading plugins again while they run: their new code is imported beside the old, and takes its place, or does not.

What is accepted meanwhile waits, and is run by the new code; what runs ends in the old. Old and new code are never
loaded (in the sense of ``@load``) at the same time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from gofer.agent.actions import Actions
from gofer.agent.assembly import (
    Refused,
    add_extension,
    ask_extensions,
    blamed,
    find_plugin,
    import_code,
    run_load,
    run_unload,
)
from gofer.agent.assembly import take_up as take_up_hooks
from gofer.agent.bounded import within
from gofer.agent.config import Descriptor, Problem
from gofer.agent.modules import Aside
from gofer.agent.plugin import Plugin, State
from gofer.agent.trust import check_trust
from gofer.errors import PluginError
from gofer.rmi.server.workers import Workers

if TYPE_CHECKING:
    from types import ModuleType

    from gofer.agent.attachment import Attachment
    from gofer.agent.container import PluginContainer
    from gofer.rmi.api import API

__all__ = ["Reload", "company", "see_off"]

log = logging.getLogger(__name__)


def company(plugins: Collection[Plugin], first: Plugin) -> list[Plugin]:
    """Return the running plugins that are loaded again with one, that one included, those needed before who needs them.

    They are those that took something from it when they were loaded, and those that share its module; and theirs.
    """
    running = [plugin for plugin in plugins if plugin.state is State.RUNNING]
    found = [first]
    for one in found:
        module = None if one.source is None else one.source.module
        for other in running:
            shares = other.source is not None and other.source.module == module
            if other not in found and (one.name in other.needs or shares):
                found.append(other)
    names = {plugin.name for plugin in found}
    ordered: dict[str, Plugin] = {}

    def add(plugin: Plugin, on_the_way: frozenset[str]) -> None:
        for other in found:
            if other.name in plugin.needs & names - on_the_way:
                add(other, on_the_way | {other.name})
        ordered.setdefault(plugin.name, plugin)

    for plugin in found:
        add(plugin, frozenset({plugin.name}))
    return list(ordered.values())


class Reload:
    """One or several plugins that are loaded again: all of them, or none. Used once, by the thread that loads.

    Args:
        olds: running plugins, those needed before who needs them (see :func:`company`).
        descriptors: what describes them now, by their names.
    """

    def __init__(
        self, container: PluginContainer, olds: Sequence[Plugin], descriptors: Mapping[str, Descriptor]
    ) -> None:
        self._container = container
        self._hooks = container.hooks
        self._most = max(container.imports.patience, container.config.main.shutdown_timeout)  # for a @load or @unload
        self._aside = Aside()
        self._pairs: list[tuple[Plugin, Plugin]] = []
        for old in olds:
            new = Plugin(container, descriptors[old.name])
            new.counters = old.counters
            self._pairs.append((old, new))
        self._new = {new.name: new for _, new in self._pairs}
        for new in self._new.values():
            new.company = self._new
        self._apis: dict[str, tuple[API, Sequence[Any]]] = {}  # of others, which get more, or less, from these
        self._made: dict[str, Attachment] = {}
        self._swapped = False

    def run(self, timeout: float) -> list[Plugin]:
        """Load them; what runs in the old ones has ``timeout`` seconds, and goes on after that beside the new ones.

        Raises:
            Refused: one of the new ones cannot be loaded; the old ones run on. If one of these could not be loaded
                again either, after it had been unloaded for the sake of the new one, it is quarantined.
        """
        try:
            return self._run(timeout)
        finally:
            for new in self._new.values():
                new.company = {}
                new.reloaded.set()

    def _run(self, timeout: float) -> list[Plugin]:
        deadline = monotonic() + timeout
        try:
            self._import(timeout)
            self._extend()
        except BaseException:
            self._aside.restore()
            raise
        self._pause()
        loaded: list[Plugin] = []
        try:
            self._drain(deadline)
            for old, _ in reversed(self._pairs):
                self._unload(old)
            self._swap()
            for new in self._new.values():
                self._load(new)
                loaded.append(new)
            self._check_trust()  # again: what is loaded may have set its authenticator itself
            for new in self._new.values():
                with blamed(new, "messaging", "url"):
                    made = self._container.attachments.needed(new)
                if made is not None:
                    self._made[new.name] = made
        except BaseException:
            self._go_back(loaded)
            raise
        self._commit()
        return list(self._new.values())

    # -- the new code, beside the old -----------------------------------------------------------------------------

    def _import(self, timeout: float) -> None:
        """Import the new code, all of it within the seconds that there are."""
        olds = [old for old, _ in self._pairs]
        others = [
            one.source.module
            for one in self._container.plugins.values()
            if one.source is not None and one not in olds and one.module is not None
        ]
        for new in self._new.values():
            find_plugin(self._container.root, new)
        for one in (*olds, *self._new.values()):  # the new one's may be others
            if one.source is not None:
                self._aside.take(one.source.tops, one.source.module, others)

        def work() -> None:
            for new in self._new.values():
                import_code(self._hooks, new, self._aside, hooked=False)

        if not within(timeout, work, "gofer-reload"):
            late = next((new for new in self._new.values() if new.module is None), next(iter(self._new.values())))
            text = f"importing it has taken {timeout:g} s; given up"
            raise Refused(late, Problem("error", str(late.descriptor.file), "main", "plugin", text))

    def _extend(self) -> None:
        """Add what hooks and descriptors give to the new ones, and plan what these give to others."""
        done: set[str] = set()
        for new in self._new.values():
            self._extend_one(new, done)
        for new in self._new.values():
            if new.descriptor.extends is not None:
                with new.entered(), blamed(new, "main", "extends"):
                    self._container.rounds.check_extends(new)
                    target = self._container.find(new.descriptor.extends)
                    if target.state not in (State.LOADING, State.RUNNING):
                        raise PluginError(f"plugin {target.name!r} is {target.state.value}")
        self._check_trust()
        planned: dict[str, bool] = {}
        for other in self._container.plugins.values():
            self._plan(other, planned)

    def _check_trust(self) -> None:
        present = [self._new.get(one.name, one) for one in self._container.plugins.values()]
        for new in self._new.values():
            problem = check_trust(new, [one for one in present if one.name in self._new or one.is_running])
            if problem is not None:
                raise Refused(new, problem)

    def _extend_one(self, plugin: Plugin, done: set[str]) -> None:
        if plugin.name in done:
            return
        done.add(plugin.name)
        for more in ask_extensions(self._hooks, plugin):
            if isinstance(more, Plugin) and self._new.get(more.name) is more:
                self._extend_one(more, done)
            add_extension(plugin, more)

    def _plan(self, other: Plugin, planned: dict[str, bool]) -> bool:
        """Build the API that another plugin will have; tell whether that is another one than it has."""
        if other.name in self._new or other.state is not State.RUNNING:
            return False
        if other.name not in planned:
            planned[other.name] = False  # for those that extend each other
            added, asked = self._added(other)
            changed = [self._plan(more, planned) for more in added if isinstance(more, Plugin)]
            if added != list(other.added) or any(changed):
                with blamed(asked or next(iter(self._new.values())), "main", "extends"):
                    self._apis[other.name] = other.with_added(added, self._api_of), added
                planned[other.name] = True
        return planned[other.name]

    def _added(self, other: Plugin) -> tuple[list[Any], Plugin | None]:
        """Return what will be added to another plugin's API, and one of the new ones whose descriptor asks for that."""
        asking = [new for new in self._new.values() if new.descriptor.extends == other.name]
        added: list[Any] = []
        for more in other.added:
            new = self._new.get(more.name) if isinstance(more, Plugin) else None
            if new is None:
                added.append(more)
            elif new in asking or more.descriptor.extends != other.name:
                added.append(new)
        added += [new for new in asking if new not in added]
        return added, asking[0] if asking else None

    def _api_of(self, more: Any) -> Any:
        if not isinstance(more, Plugin):
            return more
        return self._apis[more.name][0] if more.name in self._apis else more.api

    # -- from the old to the new ----------------------------------------------------------------------------------

    def _pause(self) -> None:
        """Have what is not yet started wait for the new ones."""
        self._container.gate.pause(self._new)
        for old, new in self._pairs:
            old.actions.stop()
            self._container.attachments.hand_over(old, new)

    def _drain(self, deadline: float) -> None:
        for old, _ in self._pairs:
            running = len(old.workers.running()) + old.loop.running
            if running:
                log.info("plugin %s: its new code waits for %d calls of the old one to end", old.name, running)
        for old, _ in self._pairs:
            old.workers.stop(max(0.0, deadline - monotonic()))
            old.loop.wait(max(0.0, deadline - monotonic()))

    def _load(self, plugin: Plugin) -> None:
        def load() -> None:
            run_load(self._hooks, plugin)

        def undo() -> None:
            self._unload(plugin)

        if not within(self._most, load, f"gofer-{plugin.name}-load", late=undo):
            text = f"its @load or a gofer_load hook has taken {self._most:g} s; given up"
            raise Refused(plugin, Problem("error", str(plugin.descriptor.file), "main", "plugin", text))

    def _unload(self, plugin: Plugin) -> None:
        self._container.hook_calls.flush(1.0)  # its own hooks may be told of what has ended
        run_unload(self._hooks, plugin, self._most)

    def _swap(self) -> None:
        self._swapped = True
        self._exchange_hooks([new.module for new in self._new.values()], [old.module for old, _ in self._pairs])
        self._container.plugins.update(self._new)

    def _exchange_hooks(self, come: Sequence[ModuleType | None], go: Sequence[ModuleType | None]) -> None:
        # First the new ones: a hook that refuses what is not allowed must not be missing, not for a moment.
        for module in come:
            if module is not None:
                take_up_hooks(self._hooks, module)
        for module in go:
            if module is not None and module not in come and self._hooks.is_registered(module):
                self._hooks.unregister(module)

    def _go_back(self, loaded: Sequence[Plugin]) -> None:
        """Have the old ones run again: a new one could not be loaded."""
        for new in reversed(loaded):
            self._unload(new)
        for made in self._made.values():
            made.discard()
        self._aside.restore()
        if self._swapped:
            self._exchange_hooks([old.module for old, _ in self._pairs], [new.module for new in self._new.values()])
            self._container.plugins.update({old.name: old for old, _ in self._pairs})
        for old, new in self._pairs:
            try:
                if self._swapped:
                    self._load(old)
            except Refused as again:
                old.state = State.LOADING  # what it was loaded for is undone already
                self._container.quarantine(again)
                new.workers.stop(0.0)
                continue
            old.workers = Workers(old.name, old.descriptor.threads)
            self._container.attachments.hand_over(new, old)
            old.workers.start()
            stopped, old.actions = old.actions, Actions(old, self._container.clock)
            old.actions.start(stopped)
            new.workers.stop(0.0)

    def _commit(self) -> None:
        for name, (api, added) in self._apis.items():
            self._container.plugins[name].take(api, added)
        for old, new in self._pairs:
            new.state, old.state = State.RUNNING, State.STOPPED
        for old, new in self._pairs:
            self._container.attachments.follow(new, self._made.get(new.name))
            new.workers.start()
            new.actions.start(old.actions)
        for old, _ in self._pairs:
            if old.workers.running() or old.loop.running:
                text = "plugin %s: loaded again; %d calls of its old code go on"
                log.warning(text, old.name, len(old.workers.running()) + old.loop.running)
            see_off(old, self._container.parting)


def see_off(old: Plugin, parting: set[Plugin]) -> None:
    """Let go of a plugin when its last call has ended: now, or in a thread that waits for that.

    Args:
        parting: where it stands meanwhile.
    """
    if not old.workers.running() and not old.loop.running:
        _let_go(old)
        return

    def wait() -> None:
        while old.workers.stop(60.0)[1]:
            pass
        while not old.loop.wait(60.0):
            pass
        _let_go(old)
        parting.discard(old)

    parting.add(old)
    threading.Thread(target=wait, name=f"gofer-{old.name}-old", daemon=True).start()


def _let_go(old: Plugin) -> None:
    old.loop.stop(0.0)
    old.forks.stop()
    old.dismiss()
