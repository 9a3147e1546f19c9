"""This machine as one of a fleet: it answers those who ask who is there.

A question comes by the topic exchange ``gofer.fleet`` to a queue of the machine's own. It is answered after a random
time, or ten thousand machines would answer at once. Nothing is run for a question, and nothing of it is kept.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from itertools import accumulate
from random import SystemRandom
from typing import TYPE_CHECKING, Any

import msgspec

from gofer.agent.config import AgentConfig
from gofer.agent.facts import Facts
from gofer.card import (
    ALL,
    EXCHANGE,
    MAX_CARD,
    NAMED_METHODS,
    Answer,
    Card,
    PluginCard,
    Question,
    key_of_group,
    read_question,
)
from gofer.errors import ConfigError, DocumentError, GoferError, NotFound
from gofer.limit import Limit, LimitedLog
from gofer.messaging.adapter import Bind, DeclareExchange, DeclareQueue, DeleteQueue, Delivery
from gofer.messaging.address import Address
from gofer.messaging.auth import sign, verify
from gofer.messaging.document import VERSION, encode, shown, timestamp
from gofer.messaging.subscription import Steps, Subscription, declare_temporary
from gofer.messaging.url import broker_of
from gofer.targets import Targets

if TYPE_CHECKING:
    from gofer.agent.endpoints import Endpoints
    from gofer.agent.links import Links
    from gofer.agent.plugin import Plugin
    from gofer.messaging.connector import Connector
    from gofer.messaging.thread_driver import ThreadConnection
    from gofer.rmi.clock import Clock, Timer

__all__ = ["Membership"]

log = logging.getLogger(__name__)

#: Seconds without the agent after which the broker deletes its queue: questions are old by then.
_EXPIRES = 600.0
_LOOK = 15.0  # seconds between two looks at whether its plugin, its address or its groups have changed
_MOST_WAITING = 50  # answers that wait for their time
_RATE, _BURST = 5.0, 50  # questions a second that are answered
_SKEW = 300.0  # seconds that the clocks of a caller and an agent may differ


class Membership:
    """Answers questions for this machine. Nothing happens before ``start``. Any thread.

    Its broker, certificates, authenticator and address are those of one plugin. With an authenticator it answers only
    questions that are signed, and signs its answers.
    """

    def __init__(
        self,
        config: AgentConfig,
        plugins: Mapping[str, Plugin],
        *,
        endpoints: Endpoints,
        links: Links,
        clock: Clock,
        facts: Any,
    ) -> None:
        """Keep all.

        Args:
            plugins: those of the agent, by name.
            facts: the caller of the hook gofer_facts.
        """
        self._messaging, self.fleet = config.messaging, config.fleet
        self._plugins = plugins
        self._endpoints = endpoints
        self._links = links
        self.clock = clock
        self._facts = Facts(facts, clock, config.fleet.interval)
        self._joined: _Joined | None = None
        self._told = ""
        self._timer: Timer | None = None
        self._stopped = False

    def start(self) -> None:
        """Join the fleet, if the configuration says so, as soon as the plugin and the broker are there."""
        if self.fleet.enabled:
            self._facts.start(first=lambda: self.clock.call_after(0.0, self._review))

    def stop(self) -> None:
        """Leave it."""
        self._stopped = True
        self._facts.stop()
        if self._timer is not None:
            self._timer.cancel()
        self._leave()

    def describe(self) -> dict[str, Any]:
        """Tell what callers hear of this machine, for `gofer agent show`."""
        joined = self._joined
        return {
            "enabled": self.fleet.enabled,
            "name": self._name,
            "groups": list(self.fleet.groups),
            "plugin": None if joined is None else joined.plugin,
            "joined": joined is not None and joined.subscription.active,
            "error": self._told or (None if joined is None else _text(joined.subscription.error)),
            "answered": 0 if joined is None else joined.answered,
            "refused": 0 if joined is None else joined.refused,
        }

    # -- private: in the clock's thread -------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return self.fleet.name or socket.gethostname()

    def _review(self) -> None:
        if self._stopped:
            return
        self._timer = self.clock.call_after(_LOOK, self._review)
        plugin = self._plugin()
        if plugin is None:
            self._leave()
            return
        try:
            connector = plugin.described.connector(self._messaging, plugin.url)
            address = plugin.identify()
        except GoferError as wrong:
            self._tell(f"this machine cannot join the fleet as plugin {plugin.name!r}: {wrong}")
            return
        self._told = ""
        joined = self._joined
        if joined is None or (joined.connector, joined.address) != (connector, address):
            self._leave()
            self._joined = joined = _Joined(self, plugin.name, connector, address, self._links.acquire(connector))
            joined.start()
        joined.plugin, joined.authenticator = plugin.name, plugin.authenticator

    def _plugin(self) -> Plugin | None:
        """Return the plugin that the machine joins by; None: it does not run."""
        wanted = self.fleet.plugin
        for name in sorted(self._plugins) if wanted is None else [wanted]:
            plugin = self._plugins.get(name)
            if plugin is not None and plugin.is_running and self._endpoints.has(name):
                return plugin
        if wanted is not None and wanted not in self._plugins:
            self._tell(f"[fleet] plugin: there is no plugin {wanted!r}; there are: {', '.join(sorted(self._plugins))}")
        else:
            self._told = f"plugin {wanted!r} takes no requests" if wanted else "no plugin has a broker"
        return None

    def _tell(self, wrong: str) -> None:
        if wrong != self._told:
            log.error("%s", wrong)
        self._told = wrong

    def _leave(self) -> None:
        joined, self._joined = self._joined, None
        if joined is not None:
            joined.stop()
            self._links.release(joined.link)

    def card(self, address: Address, connector: Connector, identity: str | None) -> Card:
        """Make the machine's card, with the addresses at one broker.

        Args:
            identity: who asks; the card tells of no class in which the rules let that caller call nothing.
        """
        plugins: dict[str, PluginCard] = {}
        room = NAMED_METHODS
        for one in sorted(self._plugins.values(), key=lambda one: one.name):
            if one.is_running:
                plugins[one.name] = told = self._plugin_card(one, connector, identity, room)
                room -= sum(map(len, told.methods))
        return Card(
            name=self._name,
            address=str(address),
            groups=list(self.fleet.groups),
            plugins=plugins,
            facts=self._facts.current(),
            version=version("gofer-core"),
        )

    def _plugin_card(self, plugin: Plugin, connector: Connector, identity: str | None, room: int) -> PluginCard:
        allowed = [target for target in plugin.api if plugin.container.may_call(identity, plugin, target)]
        methods = sorted({target.name for target in allowed})
        ends = accumulate(map(len, methods))
        return PluginCard(
            None if plugin.source is None else plugin.source.version,
            self._address_at(plugin, connector),
            sorted({target.namespace for target in allowed}),
            sorted({target.name for target in allowed if target.mark.destructive}),
            [name for name, end in zip(methods, ends, strict=True) if end <= room],
        )

    def _address_at(self, plugin: Plugin, connector: Connector) -> str | None:
        endpoint = self._endpoints.of(plugin.name)
        if endpoint is None or broker_of(endpoint.link.connector.url) != broker_of(connector.url):
            return None
        return endpoint.address


class _Joined:
    """The queue for questions at one broker."""

    def __init__(
        self,
        membership: Membership,
        plugin: str,
        connector: Connector,
        address: Address,
        link: ThreadConnection,
    ) -> None:
        self.plugin, self.connector, self.address, self.link = plugin, connector, address, link
        self.authenticator: Any = None
        self.answered = self.refused = 0
        self._card = partial(membership.card, address, connector)
        self._clock = membership.clock
        self._keys = [ALL, *map(key_of_group, membership.fleet.groups)]
        self._queue = f"fleet.{address.key}"
        self._has_exchange = False  # the broker: it outlives its restarts, so ask for it once
        self._limit = Limit(_RATE, _BURST)
        self._complain = LimitedLog(log, rate=0.1, burst=5)
        self._random = SystemRandom()
        self._waiting = 0
        self._lost = ""
        self._stopped = False
        self._interval = membership.fleet.interval
        self._timer: Timer | None = None
        self.subscription = Subscription(
            self._queue,
            100,
            self._on_delivery,
            self._prepare,
            self._on_lost,
            limit=MAX_CARD,
            dispose=self._dispose,
            keep_open=False,
        )

    def start(self) -> None:
        self.link.subscribe_nowait(self.subscription)
        self._bind_later()

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self.link.unsubscribe_nowait(self.subscription, dispose=True)

    # -- in the I/O thread --------------------------------------------------------------------------------------------

    def _prepare(self) -> Steps:
        if not self._has_exchange:
            yield DeclareExchange(EXCHANGE, "topic")
            self._has_exchange = True
        bindings = tuple((EXCHANGE, key) for key in self._keys)
        try:
            wanted = DeclareQueue(self._queue, durable=False, expires=_EXPIRES, bindings=bindings)
            yield from declare_temporary(wanted)
        except NotFound:
            self._has_exchange = False  # somebody has deleted it: the next try makes it again
            raise

    def _bind(self) -> Steps:
        for key in self._keys:
            try:
                yield Bind(self._queue, EXCHANGE, key)
            except NotFound:  # somebody has deleted the exchange
                yield DeclareExchange(EXCHANGE, "topic")
                yield Bind(self._queue, EXCHANGE, key)

    def _bound(self, _: object, error: Exception | None) -> None:
        if error is not None and not self._stopped:
            self._complain(logging.WARNING, "questions to the fleet may not reach this machine: %s", error)

    def _dispose(self) -> Steps:
        yield DeleteQueue(self._queue)

    def _on_lost(self, why: str) -> None:
        if why != self._lost and self.link.is_open:  # the connection tells of itself
            log.warning("this machine hears no questions of its fleet: %s", why)
        self._lost = why

    def _on_delivery(self, delivery: Delivery) -> None:
        self.link.accept(delivery)
        if delivery.cut or not self._limit.allows():
            self._refuse("too long, or too many of them")
            return
        self._clock.call_after(0.0, partial(self._take, delivery.body))

    # -- in the clock's thread ----------------------------------------------------------------------------------------

    def _bind_later(self) -> None:
        if not self._stopped:  # not all machines at once
            self._timer = self._clock.call_after(self._interval * self._random.uniform(0.5, 1.0), self._bind_again)

    def _bind_again(self) -> None:
        """Bind the queue as it should be: no broker says that a binding, or the exchange, was removed."""
        if self.link.is_open and self.subscription.active:
            self.link.ask_nowait(self._bind(), self._bound)
        self._bind_later()

    def _take(self, body: bytes) -> None:
        try:
            inner, signer = verify(body, self.authenticator)
            question = self._read(inner)
            if question is None or not Targets(question.who.targets).matches(msgspec.to_builtins(self._card(signer))):
                return
        except (DocumentError, ConfigError) as bad:
            self._refuse(f"{bad}: {bad.details}" if isinstance(bad, DocumentError) else str(bad))
            return
        if self._waiting >= _MOST_WAITING:
            self._refuse("too many of them")
            return
        self._waiting += 1
        pause = self._random.uniform(0.0, min(question.who.jitter, question.who.wait / 2))
        self._clock.call_after(pause, partial(self._answer, question, signer))

    def _read(self, inner: bytes) -> Question | None:
        """Return a question that is for this machine, and in time; None: it is not.

        Raises:
            DocumentError: it is not one that we may answer.
        """
        question = read_question(inner)
        exchange, _, key = str(question.routing[1]).partition("/")
        if exchange != EXCHANGE or "/" in question.replyto:
            raise DocumentError(
                "model.invalid", "MODEL: document not valid", "not sent to the fleet, or from elsewhere"
            )
        if key not in self._keys:
            return None  # the binding of a group that it has left
        if question.expires is not None and question.expires + _SKEW < time.time():
            raise DocumentError("security.expired", "SECURITY: document expired", "a question of long ago")
        return question

    def _answer(self, question: Question, signer: str | None) -> None:
        self._waiting -= 1
        if self._stopped:
            return
        answer = Answer(
            sn=question.sn,
            version=VERSION,
            routing=[None, question.replyto],
            origin=str(self.address),
            card=self._card(signer),
            timestamp=timestamp(),
        )
        body = encode(msgspec.to_builtins(answer))
        if len(body) > MAX_CARD // 2:  # signed, it is longer
            short = msgspec.structs.replace(answer.card, facts={"too_large": len(body)})
            body = encode(msgspec.to_builtins(msgspec.structs.replace(answer, card=short)))
            self._complain(logging.ERROR, "the facts of this machine are too large: a card of %d bytes", len(body))
        try:
            if self.authenticator is not None:
                body = sign(body, self.authenticator)
        except Exception as failed:  # noqa: BLE001 - an authenticator of somebody else's: cannot sign means not sent
            self._complain(logging.ERROR, "a question of the fleet is not answered: it cannot be signed: %s", failed)
            return
        # One that is not taken, since the caller has gone or the broker is away, is missed by nobody.
        sent = self.link.publish_nowait(
            Address("", question.replyto), body, ttl=question.who.wait, durable=False, confirm=False, isolated=True
        )
        self.answered += sent != 0

    def _refuse(self, why: str) -> None:
        self.refused += 1
        self._complain(logging.WARNING, "a question of the fleet is not answered: %s", shown(why))


def _text(error: object) -> str | None:
    return None if error is None else str(error)
