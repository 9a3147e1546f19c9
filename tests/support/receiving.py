"""A receiver over a real local broker, without the agent around it: for tests of the agent's half of gofer.rmi."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pluggy
from gofer import hooks
from gofer.hooks import hookimpl
from gofer.messaging.adapter import DeclareQueue, Delivery
from gofer.messaging.address import Address
from gofer.messaging.auth import Authenticator
from gofer.messaging.connector import Connector
from gofer.messaging.local.server import serving
from gofer.messaging.subscription import Subscription
from gofer.messaging.thread_driver import ThreadConnection
from gofer.messaging.url import URL
from gofer.rmi.api import API, Target
from gofer.rmi.clock import Clock
from gofer.rmi.model.coroutines import Loop
from gofer.rmi.request import Received
from gofer.rmi.server.administration import Administration
from gofer.rmi.server.channel import Channel
from gofer.rmi.server.consumer import Consumer
from gofer.rmi.server.early_cancels import Tombstones
from gofer.rmi.server.hooks import HookCalls
from gofer.rmi.server.in_flight import Registry
from gofer.rmi.server.lifecycle import Lifecycle
from gofer.rmi.server.logins import Logins
from gofer.rmi.server.nonces import Nonces
from gofer.rmi.server.persistence import Persistence
from gofer.rmi.server.request_log import RequestLog
from gofer.rmi.server.window import Window
from gofer.rmi.server.workers import Workers
from gofer.rmi.store import Database

from support import kennel
from support.connections import connection_to, declaring
from support.waiting import eventually

__all__ = ["QUEUE", "Caller", "PluginForTests", "Served", "driven", "request", "served"]

QUEUE = "kennel-queue"


def request(classname: str, method: str, *args: Any, **more: Any) -> dict[str, Any]:
    """Make a request's document; ``more`` goes into the envelope, ``kws`` and ``cntr`` into the request itself."""
    inner = {key: more.pop(key) for key in ("kws", "kwargs", "cntr") if key in more}
    return {
        "sn": str(uuid.uuid4()),
        "version": "2.0",
        "routing": [None, QUEUE],
        "replyto": "replies",
        "request": {"classname": classname, "method": method, "args": list(args), **inner},
        **more,
    }


class _Core:
    """What the agent's core does at the hooks."""

    def __init__(self, finished: list[tuple[str, str]]) -> None:
        self.finished = finished

    @hookimpl(trylast=True)
    def gofer_call(self, invoke: Callable[[], Any]) -> Any:
        return invoke()

    @hookimpl
    def gofer_finished(self, request: Received, outcome: str) -> None:
        self.finished.append((request.target, outcome))


@dataclass
class PluginForTests:
    """A :class:`gofer.rmi.service.Service` and what its hooks are given as ``plugin``, in one."""

    api: API
    manager: pluggy.PluginManager
    workers: Workers
    loop: Loop
    name: str = "kennel"
    address: str = QUEUE
    admin: API | None = None
    authenticator: Authenticator | None = None
    audience: tuple[str, ...] = ()
    latency: float = 0.0
    max_age: float | None = None
    timeout: float | None = None
    typed: bool = True
    guarded: bool = False
    max_message: int = 1 << 20

    @property
    def plugin(self) -> PluginForTests:
        return self

    @property
    def hook(self) -> Any:
        return self.manager.hook

    def authorize(self, request: Received, target: Target | None = None) -> None:
        """Everybody may call everything."""

    def forks(self, target: Target) -> None:
        """There is no agent that could start a process for its calls."""

    def holds_no_thread(self, classname: str, method: str) -> bool:
        target = self.api.look_up(classname, method)
        return target is not None and target.holds_no_thread

    def entered(self) -> nullcontext[None]:
        return nullcontext()


@contextmanager
def driven(path: Path, **more: Any) -> Iterator[ThreadConnection]:
    """A connection to the broker at a path."""
    link = connection_to(Connector(URL.parse(f"local://{path}"), **{"reconnect_max": 0.2, **more}))
    try:
        yield link
    finally:
        link.close()


class Caller:
    """What stands at the other end: sends documents, and keeps the replies."""

    def __init__(self, link: ThreadConnection) -> None:
        self.link = link
        self.replies: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self._subscriptions: list[Subscription] = []
        link.ask(DeclareQueue(QUEUE))
        self.listen("replies")

    def listen(self, queue: str) -> None:
        self._subscriptions.append(Subscription(queue, 1000, self._heard, declaring(DeclareQueue(queue))))
        self.link.subscribe(self._subscriptions[-1], 10.0)

    def _heard(self, delivery: Delivery) -> None:
        self.link.accept(delivery)
        self.bodies.append(delivery.body)
        self.replies.append(json.loads(delivery.body))

    def send(self, document: dict[str, Any] | bytes, to: str = QUEUE) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        assert self.link.publish_nowait(Address.parse(to), body)

    def heard(self, sn: str | None) -> list[dict[str, Any]]:
        """All replies for a serial number so far."""
        return [reply for reply in list(self.replies) if reply.get("sn") == sn]

    def words(self, sn: str | None) -> list[str]:
        """The kinds of replies for a serial number so far, in their order."""
        return [reply.get("status") or "result" for reply in self.heard(sn)]

    def until(self, sn: str | None, words: list[str]) -> None:
        """Wait until the replies so far are of these kinds."""
        eventually(lambda: self.words(sn) == words)

    def end(self, sn: str | None, timeout: float = 40.0) -> dict[str, Any]:
        """Wait for the reply that ends a request: a result or a rejection."""

        def ends() -> list[dict[str, Any]]:
            return [reply for reply in self.heard(sn) if "result" in reply or reply.get("status") == "rejected"]

        return eventually(ends, timeout, f"the end of {sn}, heard: {self.replies[-5:]}")[0]

    def call(self, document: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its end."""
        self.send(document)
        return self.end(document["sn"])

    def value(self, classname: str, method: str, *args: Any, **more: Any) -> Any:
        """Call, and return the value."""
        end = self.call(request(classname, method, *args, **more))
        assert "retval" in end.get("result", ()), end
        return end["result"]["retval"]

    def error(self, classname: str, method: str, *args: Any, **more: Any) -> dict[str, Any]:
        """Call, and return the exception."""
        end = self.call(request(classname, method, *args, **more))
        assert "xclass" in end.get("result", ()), end
        result: dict[str, Any] = end["result"]
        return result


@dataclass
class Served:
    """A consumer that runs, and all that it stands on."""

    path: Path
    plugin: PluginForTests
    consumer: Consumer
    link: ThreadConnection
    clock: Clock
    registry: Registry
    persistence: Persistence
    nonces: Nonces
    lifecycle: Lifecycle
    caller: Caller
    finished: list[tuple[str, str]]
    store: Database
    requests: Administration
    hook_calls: HookCalls
    request_log: RequestLog

    @property
    def counted(self) -> dict[str, int]:
        """The counters that are not 0."""
        return {name: count for name, count in self.consumer.channel.counters.snapshot().items() if count}

    def seen(self, name: str, count: int) -> None:
        """Wait until a counter has a value."""
        counters = self.consumer.channel.counters
        eventually(lambda: counters[name] == count, what=f"{name} {count}, counted: {self.counted}")

    def idle(self) -> None:
        """Wait until nothing is in work: all results are settled, the hooks have been told, and the log is written."""
        channel = self.consumer.channel
        eventually(lambda: not channel.open and not channel.publisher.pending and not self.plugin.workers.running())
        assert self.hook_calls.flush(30)
        assert self.request_log.flush(30)

    def another(self) -> Consumer:
        """One more consumer of the same agent, for the same plugin."""
        channel = Channel(self.plugin, self.link, self.lifecycle.run, self.lifecycle.make_progress)
        return Consumer(channel, self.registry, self.persistence, self.nonces, self.lifecycle)


@contextmanager
def served(
    folder: Path,
    *,
    threads: int = 2,
    give_up: float = 0.5,
    prefetch: int = 200,
    window: int = 64,
    patience: float = 1.0,
    logins: Logins | None = None,
    **options: Any,
) -> Iterator[Served]:
    """Serve the kennel from a queue of a local broker of its own; ``options`` are those of PluginForTests.

    What one of these has kept in a folder is there for the next one in it.
    """
    path = folder / "broker.sock"
    manager = pluggy.PluginManager("gofer")
    manager.add_hookspecs(hooks)
    finished: list[tuple[str, str]] = []
    manager.register(_Core(finished))
    kennel.gate.reset()
    plugin = PluginForTests(
        API.of_module(kennel, ["kennel"]), manager, Workers("kennel", threads), Loop("kennel"), **options
    )
    with serving(str(path)), driven(path) as far, driven(path) as link:
        caller = Caller(far)
        clock, registry, store = Clock(), Registry(), Database(folder, lambda: None)
        nonces, tombstones = Nonces(store), Tombstones(store)
        in_memory = Window(registry, store, most=window)
        persistence = Persistence(registry, store, nonces, in_memory, patience=patience)
        hook_calls, request_log = HookCalls(), RequestLog()
        lifecycle = Lifecycle(
            registry,
            persistence,
            in_memory,
            tombstones,
            clock,
            logins=logins,
            hooks=hook_calls,
            request_log=request_log,
        )
        channel = Channel(plugin, link, lifecycle.run, lifecycle.make_progress, give_up=give_up, prefetch=prefetch)
        consumer = Consumer(channel, registry, persistence, nonces, lifecycle)
        administration = Administration(
            registry=registry,
            store=store,
            window=in_memory,
            lifecycle=lifecycle,
            tombstones=tombstones,
            clock=clock,
            plugins=lambda: [plugin],
            find=lambda name: channel,
        )
        clock.start()
        plugin.workers.start()
        tombstones.restore(plugin.name)
        nonces.restore()
        consumer.recover()
        consumer.start(QUEUE, 10.0)
        try:
            yield Served(
                path, plugin, consumer, link, clock, registry, persistence, nonces, lifecycle, caller,
                finished, store,
                administration, hook_calls, request_log,
            )  # fmt: skip
        finally:
            kennel.gate.open.set()
            consumer.stop(5.0)
            plugin.workers.stop(5.0)
            plugin.loop.stop(5.0)
            clock.stop()
            store.stop()
            hook_calls.stop()
            administration.stop()
            lifecycle.stop()
