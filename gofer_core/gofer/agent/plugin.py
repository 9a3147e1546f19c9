"""A plugin as its own code sees it: ``plugin = Plugin.find(__name__)``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from types import ModuleType
from typing import Any, NoReturn, Protocol

from gofer.agent.actions import Actions
from gofer.agent.config import AgentConfig, Descriptor, LiveSettings, as_changed, made_elsewhere, stable_uuid
from gofer.agent.failures import not_identified, why_not_loaded
from gofer.agent.helper_process import HELPER, greeting
from gofer.agent.sources import Source
from gofer.agent.states import NEXT, State
from gofer.errors import PluginError
from gofer.messaging.address import Address
from gofer.messaging.url import URL
from gofer.rmi.api import API, Target
from gofer.rmi.clock import Clock
from gofer.rmi.model.coroutines import Loop
from gofer.rmi.model.fork import Forks
from gofer.rmi.server.administration import Administration
from gofer.rmi.server.counters import Counters
from gofer.rmi.server.logins import Logins
from gofer.rmi.server.workers import Workers
from gofer.root import Root

__all__ = ["Container", "Plugin", "State", "current"]

log = logging.getLogger(__name__)

#: What plugins of gofer 2.12 had, and what to write instead.
_GONE = {
    "export": "write plugin['Name']",
    "node": "plugin.queue is its address, plugin.url its broker",
    "pool": "it was not meant for plugins; `gofer agent requests` lists what runs and waits",
    "scheduler": "requests are no files; plugin.pending is how many it has accepted that have not ended",
}

_current: ContextVar[Plugin] = ContextVar("gofer_plugin")


def current() -> Plugin | None:
    """Return the plugin whose code runs here; None: it is nobody's."""
    return _current.get(None)


class Container(Protocol):
    """What a plugin asks its container: :class:`gofer.agent.container.PluginContainer` says what each does."""

    root: Root
    config: AgentConfig
    clock: Clock
    plugins: dict[str, Plugin]
    requests: Administration
    logins: Logins

    def seek(self, name: str) -> Plugin | None: ...
    def unknown(self, name: str) -> str: ...
    def check_added(self, plugin: Plugin, more: Any) -> None: ...
    def unload(self, which: str) -> None: ...
    def attach(self, plugin: Plugin) -> None: ...
    def detach(self, plugin: Plugin) -> None: ...
    def is_attached(self, name: str) -> bool: ...
    def open_requests(self, plugin: Plugin) -> int: ...
    def may_call(self, identity: str | None, plugin: Plugin, target: Target) -> bool: ...


class Plugin:
    """A described plugin: its settings, its identity at a broker, and its remote API. Made by the container.

    ``url`` and ``queue`` come from the descriptor, as all of ``cfg``; a ``@load`` function may set them, and the plugin
    is attached after that. Set later, they count from the next ``attach`` on. All of it may be used from any thread.

    A reload creates a new Plugin. The old one serves the old code until the last of its calls has ended; an old
    reference forwards to the new one.
    """

    def __init__(self, container: Container, descriptor: Descriptor) -> None:
        """Take the identity that the descriptor gives. Nothing is imported yet."""
        self.container = container
        self.descriptor = descriptor
        self._state = State.LOADING if descriptor.enabled else State.DISABLED
        #: Why it is quarantined, or (running) not loaded again: one line, and the traceback where its code raised.
        self.error: str | None = None
        self.trace: str | None = None
        #: Where its code came from, and the module that it became.
        self.source: Source | None = None
        self.module: ModuleType | None = None
        self.api = API(descriptor.name)
        #: Whether its ``@load`` functions have run.
        self.loaded = False
        #: What is in its API beside what its module has: what its code has added, and what hooks have given.
        self.added: list[Any] = []
        self.given: list[Any] = []
        #: Whether it was told to attach or to detach while it was loaded; None: neither, its URL decides.
        self.wants_queue: bool | None = None
        self.authenticator: Any = None
        #: Who runs its methods, and what became of its requests.
        self.workers = Workers(descriptor.name, descriptor.threads)
        self.loop = Loop(descriptor.name)
        self.forks = Forks(descriptor.name, HELPER, self._greeting)
        #: What it does by itself.
        self.actions = Actions(self, container.clock)
        #: What is to be said of a queue whose name was made up on another machine; None: nothing.
        self.foreign: str | None = None
        #: The names of the plugins that its code took something from while it was loaded.
        self.needs: set[str] = set()
        #: The name of the one that its code looks for at the moment, while it is loaded.
        self.asks: str | None = None
        #: Which one it has looked for last that there is not: a sentence.
        self.missed: str | None = None
        self.counters = Counters()
        #: For its code to keep things in; gofer does not look into it.
        self.whiteboard: dict[Any, Any] = {}
        self._foreign: tuple[str, ...] = ()
        self._cfg = LiveSettings(str(descriptor.file), descriptor.sections, texts=descriptor.file.suffix != ".json")
        self._described = 0, descriptor
        self._identity: Address | None = None  # made up where none is given

    def follow(self, descriptor: Descriptor) -> None:
        """Take a descriptor in which nothing has changed but who may call. For the container."""
        changes, found = self._described
        self._described = changes, descriptor if found is self.descriptor else found
        self.descriptor = descriptor

    def __repr__(self) -> str:
        return f"<Plugin {self.name} {self.state.value}>"

    def __getattr__(self, name: str) -> NoReturn:
        instead = _GONE.get(name)
        text = f"a plugin has no {name!r}"
        raise AttributeError(f"{text} any more; {instead}" if instead else text, name=name, obj=self)

    @staticmethod
    def find(name: str) -> Plugin | Any:  # Any for None: nobody looks whether their own plugin is there
        """Return a plugin by its name, or by the ``__name__`` of its module or of a module in its package.

        For a plugin's own code: at import, in hooks, and in the methods that are called. One that is not loaded yet,
        because its descriptor comes later, is loaded first.

        Returns:
            None: there is no plugin of that name. The log says so.

        Raises:
            PluginError: this is a thread that the plugin has started by itself.
        """
        here = _current.get(None)
        if here is None:
            raise PluginError(
                f"Plugin.find({name!r}) outside of a plugin's import, hooks and calls; find it there, and hand it over"
            )
        if here.has_name(name):
            return here
        here.asks = name
        try:
            found = here.container.seek(name)
        finally:
            here.asks = None
        if found is None:
            here.missed = here.container.unknown(name)
            log.info("plugin %s has looked for another one: %s", here.name, here.missed)
        return found

    @staticmethod
    def all() -> list[Plugin]:
        """Return all plugins of this agent that are described, for a plugin's own code (see ``find``).

        Raises:
            PluginError: this is a thread that the plugin has started by itself.
        """
        here = _current.get(None)
        if here is None:
            raise PluginError("Plugin.all() outside of a plugin's import, hooks and calls; call it there")
        return list(here.container.plugins.values())

    def entered(self) -> AbstractContextManager[object]:
        """Have ``Plugin.find`` work within ``with``: what is done there is done by this plugin's code."""
        return _Entered(self)

    def _greeting(self) -> bytes:
        levels = self.container.config.logging.levels
        described = [one.descriptor for one in list(self.container.plugins.values())]
        return greeting(self.container.root, self.name, described, levels=levels)

    def has_name(self, name: str) -> bool:
        """Tell whether a name, or the ``__name__`` of a module, means this plugin."""
        module = None if self.source is None else self.source.module
        return name == self.name or (module is not None and (name == module or name.startswith(f"{module}.")))

    @property
    def name(self) -> str:
        """The plugin's name, unique in its agent."""
        return self.descriptor.name

    @property
    def enabled(self) -> bool:
        """Whether its descriptor switches it on."""
        return self.descriptor.enabled

    @property
    def state(self) -> State:
        """What it does at the moment."""
        return self._state

    def become(self, state: State) -> None:
        """Go to another state; to the same again is nothing. For the container."""
        if state is not self._state:
            if state not in NEXT[self._state]:
                raise RuntimeError(f"plugin {self.name!r} cannot become {state.value}: it is {self._state.value}")
            self._state = state

    def require_authentication(self) -> None:
        """Refuse to be loaded where no caller could show who it is: for ``@load`` functions.

        Raises:
            PluginError: there is no authenticator, and passwords cannot be checked. The text says what to set.
        """
        unavailable = None if self.authenticator is not None else self.container.logins.unavailable()
        if unavailable is not None:
            raise PluginError(not_identified(unavailable))

    @property
    def is_running(self) -> bool:
        """Whether it answers requests, now or with its new code."""
        return self._state in (State.RUNNING, State.RELOADING)

    @property
    def is_alive(self) -> bool:
        """Whether its code runs, or is about to."""
        return self._state in (State.LOADING, State.RUNNING, State.RELOADING)

    @property
    def wants_to_attach(self) -> bool:
        """Whether it is to take requests from a queue when it runs."""
        return self.url is not None if self.wants_queue is None else self.wants_queue

    @property
    def cfg(self) -> LiveSettings:
        """The descriptor: ``plugin.cfg.foobar.timeout``; ``plugin.cfg()`` is the same. May be set."""
        return self._cfg

    @property
    def described(self) -> Descriptor:
        """What ``cfg`` says now: the descriptor, unless the plugin's code has changed that.

        Raises:
            ConfigError: what the code has set cannot be used.
        """
        changes, found = self._described
        if changes != self._cfg._changes[0]:
            changes = self._cfg._changes[0]
            found, problems = as_changed(self.descriptor, self._cfg)
            for problem in problems:
                log.warning("plugin %s has set: %s", self.name, problem)
            self._described = changes, found
        return found

    @property
    def url(self) -> URL | None:
        """The broker's URL, None when the plugin has none. May be set to text. ``str()`` of it shows no password."""
        return self.described.url

    @url.setter
    def url(self, url: str | URL | None) -> None:
        self._cfg.messaging.url = None if url is None else URL.parse(url).text
        if url is None and "url_file" in self._cfg.messaging:
            del self._cfg.messaging.url_file

    @property
    def queue(self) -> str | None:
        """The plugin's address: ``queue`` or ``exchange/queue``. May be set."""
        address = self._address
        return None if address is None else str(address)

    @queue.setter
    def queue(self, address: str | None) -> None:
        self._identity = self.foreign = None
        if "uuid" in self._cfg.messaging:  # the older name of the same
            del self._cfg.messaging.uuid
        if address is None:
            self._cfg.model.queue = None
        else:
            parsed = Address.parse(address)
            self._cfg.model.queue = str(Address(parsed.exchange or self.descriptor.exchange, parsed.key))

    @property
    def uuid(self) -> str | None:
        """The name of the queue alone, which is the identity of the agent. May be set, as ``queue``."""
        address = self._address
        return None if address is None else address.key

    @uuid.setter
    def uuid(self, name: str | None) -> None:
        self.queue = name

    @property
    def _address(self) -> Address | None:
        return self.described.queue or self._identity

    @property
    def attached(self) -> bool:
        """Whether the plugin takes requests from a queue (or will as soon as its broker is there)."""
        return self.container.is_attached(self.name)

    def attach(self) -> None:
        """Take requests from the queue, at once or as soon as the broker is there.

        Attached already, it goes to the queue and the broker that it has now, if these have changed: what it has
        accepted from the former ends, and what waits there stays. Otherwise only another authenticator is taken up.

        A plugin with a URL and no queue gets a uuid for one, kept for the next time.

        Raises:
            PluginError: it has no URL, or does not run.
            ConfigError: its identity cannot be kept, or what was set cannot be used.
            AdapterError: no adapter serves the URL.
        """
        self.container.attach(self)

    @property
    def pending(self) -> int:
        """How many requests it has accepted that have not ended, those that run included."""
        return self.container.open_requests(self)

    def shutdown(self) -> None:
        """Unload the plugin, as ``PluginContainer.unload`` does: what it has accepted ends first.

        Raises:
            PluginError: it is not loaded.
        """
        self.container.unload(self.name)

    def detach(self) -> None:
        """Take no more requests. What was accepted is finished meanwhile. Returns at once, so a method may do it, too.

        With ``[model] managed=2``, what waits in the queue is rejected, and the queue deleted, unless another agent
        reads it; else what waits there, and what has not started, stays for the next ``attach``.
        """
        self.container.detach(self)

    def identify(self) -> Address:
        """Return the address, making one up (and keeping it) for a plugin that has none."""
        if self._address is None:
            queue = stable_uuid(self.container.root, self.name)
            self._identity = Address(self.described.exchange, queue)
            self.foreign = made_elsewhere(self.container.root, self.name, queue)
        return self._address or self.identify()

    # -- its API --------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str | tuple[str, str]) -> Any:
        """Return a class or a function of the remote API by its name, to subclass, use, or add to another plugin's.

        ``animals["Dog", "2"]`` is version 2 of a class.

        Raises:
            PluginError: there is none; the text names the plugin and what it has.
        """
        name = name if isinstance(name, str) else "@".join(name)
        if self._successor is not self:
            return self._successor[name]
        self._note_need()
        if self.module is None:
            raise PluginError(f"plugin {self.name!r} has no {name!r} to give: {why_not_loaded(self, current())}")
        found = self.api.get(name)
        if found is None:
            known = ", ".join(sorted([*self.api.classes, *self.api.functions])) or "nothing"
            raise PluginError(f"plugin {self.name!r} has no remote class or function {name!r}; it has: {known}")
        return found

    def __iadd__(self, other: Plugin | ModuleType | type | Callable[..., Any]) -> Plugin:
        """Take more into the remote API: ``plugin += animals``, ``plugin += animals['Dog']``.

        Raises:
            PluginError: it has something else of that name already (while it is imported, this is told at the end of
                that), or the other has not been loaded, or has an authenticator that this one's callers would get past.
        """
        if isinstance(other, Plugin):
            other = other._successor
            other._note_need()
            if other.module is None:
                raise PluginError(f"plugin {other.name!r} has nothing to add: {why_not_loaded(other, current())}")
        if self.is_running:  # one that is being loaded is checked at the end of that
            self.container.check_added(self, other)
        if self.module is not None:  # before that its own API is not known, and expose() does it
            self.api.add(other.api if isinstance(other, Plugin) else other)
        if not any(more is other for more in self.added):
            self.added.append(other)
        return self

    @property
    def _successor(self) -> Plugin:
        """The plugin of this name, where this one is no longer that."""
        return self if self._state is not State.STOPPED else self.container.plugins.get(self.name, self)

    def _note_need(self) -> None:
        here = current()
        if here is not None and here is not self and here.state is State.LOADING:
            here.needs.add(self.name)

    def expose(self, module: ModuleType, foreign: Sequence[str] = ()) -> None:
        """Build the API of the imported module and of what its code has added to it.

        Args:
            foreign: the modules of other plugins; what they define is not exposed here by being imported.

        Raises:
            PluginError: a name clash.
        """
        self._foreign = tuple(foreign)
        api = API.of_module(module, [self.name], self._foreign)
        for more in self.added:
            api.add(more.api if isinstance(more, Plugin) else more)
        self.api, self.module = api, module

    def own_api(self, modules: Iterable[str]) -> API:
        """Build the API of its module alone. ``modules``: those of all plugins."""
        if self.module is None:
            return API(self.name)
        others = [one for one in modules if one != self.module.__name__]
        return API.of_module(self.module, [self.name], dict.fromkeys([*self._foreign, *others]))

    def dismiss(self, error: str | None = None, trace: str | None = None) -> None:
        """Let go of the module: the plugin no longer runs."""
        self.error, self.trace = error, trace
        self.module = None
        self.api = API(self.name)
        self.added, self.given = [], []


class _Entered:
    """Makes a plugin the current one. A class, for it is entered for every call."""

    __slots__ = ("_plugin", "_token")

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin

    def __enter__(self) -> None:
        self._token: Token[Plugin] = _current.set(self._plugin)

    def __exit__(self, *raised: object) -> None:
        _current.reset(self._token)
