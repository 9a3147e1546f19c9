"""The dialects: how each broker is asked for queues and exchanges, addressed, and understood.

AMQP 1.0 itself has no declarations. What a broker cannot do is an AdapterError that names it and says what to do.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from typing import Any, ClassVar
from urllib.parse import quote
from uuid import uuid4

from gofer.errors import AdapterError
from gofer.messaging.adapter import DeclareExchange, DeclareQueue
from gofer.messaging.address import Address
from proton import Message

from gofer_adapter_proton.errors import NOT_FOUND, Refused
from gofer_adapter_proton.links import Question

__all__ = ["Broker", "broker_of"]

_Ask = Generator[Question, Message | None, str | None]
_Answer = Generator[Question, Message | None, Message]
# RabbitMQ takes no longer time than this (49 days).
_LONGEST = 4_294_967_295


def broker_of(properties: Mapping[str, object], capabilities: list[str]) -> Broker:
    """Return the dialect of a broker, as its connection's properties tell."""
    product, version = str(properties.get("product", "")), str(properties.get("version", ""))
    for kind in (RabbitMQ, RabbitMQ3, BrokerJ, Artemis, Qpidd):
        if kind.is_it(product, version, capabilities):
            return kind()
    broker = Broker()
    broker.name, broker.relay = product or broker.name, "ANONYMOUS-RELAY" in capabilities
    return broker


class Broker:
    """A broker that is not known: its queues are there, or made when somebody sends or subscribes to them."""

    name = "this broker"
    #: The address of its management, and whether that answers to a queue of its choice.
    management: ClassVar[str] = ""
    dynamic: ClassVar[bool] = False
    #: Messages to any address go over one link.
    relay = False
    #: A released message is to be marked as failed, so that it is told as redelivered.
    release_fails: ClassVar[bool] = False
    #: A rejected message is dropped or dead-lettered. False: it would come again, so it is accepted instead.
    rejects: ClassVar[bool] = True
    #: It makes a queue that does not exist when somebody subscribes to it.
    makes_queues: ClassVar[bool] = False
    #: It gives credit back when it is asked to.
    drains: ClassVar[bool] = True

    def cannot(self, what: str, instead: str = "use the broker's own tools, or another adapter") -> AdapterError:
        """Return the error of something that this broker cannot do over AMQP 1.0."""
        return AdapterError(f"{self.name} cannot {what} over AMQP 1.0; {instead}")

    def target(self, address: Address) -> str:
        """Return the address that a message is sent to. Raises AdapterError: there is none."""
        return str(address)

    def source(self, queue: str) -> str:
        """Return the address that a queue's messages come from."""
        return queue

    def says_nothing_of(self, address: Address) -> bool:
        """Whether a message to a queue that does not exist is lost, or makes one, without a word."""
        return False

    def redelivered(self, first: bool, count: int) -> bool | None:
        """Tell from a message's header whether it was delivered before."""
        return count > 0 or None

    def look(self, queue: str) -> _Ask:
        """Make sure that a queue exists. Raises Refused."""
        return (yield self.source(queue), True) and None

    def look_exchange(self, exchange: str) -> _Ask:
        """Make sure that an exchange exists. Raises Refused."""
        yield from ()
        raise self.cannot(f"tell whether there is an exchange {exchange!r}")

    def declare_queue(self, queue: DeclareQueue) -> _Ask:
        """Declare a queue; return how the one that is there differs."""
        if queue.exclusive:
            raise self.cannot(f"declare the exclusive queue {queue.name!r}")
        yield self.target(Address("", queue.name)), False
        return self.differs(queue)

    def differs(self, queue: DeclareQueue) -> str | None:
        """Return what a queue that the broker makes by itself has not."""
        wanted = [name for name in ("auto_delete", "expires") if getattr(queue, name)]
        wanted += ["durable=False"] * (not queue.durable) + ["kind=quorum"] * (queue.kind == "quorum")
        return f"{self.name} decides itself how queue {queue.name!r} is: not {', '.join(wanted)}" if wanted else None

    def delete_queue(self, name: str) -> _Ask:
        """Delete a queue."""
        yield from ()
        raise self.cannot(f"delete queue {name!r}")

    def purge(self, name: str) -> _Ask:
        """Drop what waits in a queue."""
        yield from ()
        raise self.cannot(f"purge queue {name!r}")

    def declare_exchange(self, exchange: DeclareExchange) -> _Ask:
        """Declare an exchange; return how the one that is there differs."""
        yield from ()
        raise self.cannot(f"declare exchange {exchange.name!r}")

    def delete_exchange(self, name: str) -> _Ask:
        """Delete an exchange."""
        yield from ()
        raise self.cannot(f"delete exchange {name!r}")

    def bind(self, queue: str, exchange: str, key: str) -> _Ask:
        """Bind a queue to an exchange."""
        yield from ()
        raise self.cannot(f"bind queue {queue!r} to exchange {exchange!r}")

    def unbind(self, queue: str, exchange: str, key: str) -> _Ask:
        """Undo ``bind``."""
        yield from ()
        raise self.cannot(f"unbind queue {queue!r} from exchange {exchange!r}")


class RabbitMQ(Broker):
    """RabbitMQ 4: requests like those of HTTP, over a pair of links to ``/management``."""

    name, management, relay = "RabbitMQ 4", "/management", True

    @staticmethod
    def is_it(product: str, version: str, capabilities: list[str]) -> bool:
        """Tell whether it is this one."""
        return product == "RabbitMQ" and version.partition(".")[0].isdecimal() and int(version.partition(".")[0]) >= 4

    def target(self, address: Address) -> str:
        """Return the address that a message is sent to."""
        if not address.exchange:
            return f"/queues/{_quoted(address.key)}"
        return f"/exchanges/{_quoted(address.exchange)}" + (f"/{_quoted(address.key)}" if address.key else "")

    def source(self, queue: str) -> str:
        """Return the address that a queue's messages come from."""
        return f"/queues/{_quoted(queue)}"

    def redelivered(self, first: bool, count: int) -> bool | None:
        """Tell from a message's header whether it was delivered before."""
        return not first

    def look(self, queue: str) -> _Ask:
        """Make sure that a queue exists."""
        yield from self._http("GET", self.source(queue))
        return None

    def look_exchange(self, exchange: str) -> _Ask:
        """Make sure that an exchange exists."""
        # A link to a missing one would end the session; this is refused for the exchange first, then for the queue.
        try:
            yield from self.bind(f"{exchange[:200]}.{uuid4().hex}", exchange, "")
        except Refused as refused:
            if not refused.text.startswith("no queue"):
                raise
        return None

    def declare_queue(self, queue: DeclareQueue) -> _Ask:
        """Declare a queue."""
        arguments: dict[str, object] = {"x-queue-type": queue.kind}
        if queue.kind == "quorum":
            # A message that is released or whose agent was killed counts, too: 25 kills in a row must not lose it.
            arguments["x-delivery-limit"] = -1
        if queue.expires is not None:
            arguments["x-expires"] = round(max(1, min(_LONGEST, queue.expires * 1000)))
        flags = {"durable": queue.durable, "exclusive": queue.exclusive, "auto_delete": queue.auto_delete}
        try:
            yield from self._http("PUT", self.source(queue.name), {**flags, "arguments": arguments})
        except Refused as refused:
            if refused.condition != "409":
                raise
            try:
                yield from self.look(queue.name)
            except Refused:
                raise refused from None  # nothing is there that would differ: the properties themselves are refused
            return refused.text
        return None

    def delete_queue(self, name: str) -> _Ask:
        """Delete a queue."""
        yield from self._http("DELETE", self.source(name))
        return None

    def purge(self, name: str) -> _Ask:
        """Drop what waits in a queue."""
        yield from self._http("DELETE", f"{self.source(name)}/messages")
        return None

    def declare_exchange(self, exchange: DeclareExchange) -> _Ask:
        """Declare an exchange."""
        body = {"type": exchange.kind, "durable": exchange.durable, "auto_delete": exchange.auto_delete}
        try:
            yield from self._http("PUT", f"/exchanges/{_quoted(exchange.name)}", {**body, "arguments": {}})
        except Refused as refused:
            if refused.condition != "409":
                raise
            return refused.text
        return None

    def delete_exchange(self, name: str) -> _Ask:
        """Delete an exchange."""
        yield from self._http("DELETE", f"/exchanges/{_quoted(name)}")
        return None

    def bind(self, queue: str, exchange: str, key: str) -> _Ask:
        """Bind a queue to an exchange."""
        body = {"source": exchange, "destination_queue": queue, "binding_key": key, "arguments": {}}
        yield from self._http("POST", "/bindings", body)
        return None

    def unbind(self, queue: str, exchange: str, key: str) -> _Ask:
        """Undo ``bind``."""
        where = f"src={_quoted(exchange)};dstq={_quoted(queue)};key={_quoted(key)};args="
        yield from self._http("DELETE", f"/bindings/{where}")
        return None

    def _http(self, method: str, path: str, body: object = None) -> _Answer:
        answer = yield Message(id="1", subject=method, address=path, reply_to="$me", body=body)
        assert answer is not None
        status, text = str(answer.subject), str(answer.body)
        if not status.startswith("2"):
            missing = status == "404" or text.startswith(("no queue", "no exchange"))
            raise Refused(NOT_FOUND if missing else status, text)
        return answer


class RabbitMQ3(Broker):
    """RabbitMQ 3 with its plugin: addresses that make queues, and nothing else."""

    # What it does with a request to give credit back ends the session: {function_clause, send_drained}.
    name, drains = "RabbitMQ 3", False

    @staticmethod
    def is_it(product: str, version: str, capabilities: list[str]) -> bool:
        """Tell whether it is this one."""
        return product == "RabbitMQ"

    def target(self, address: Address) -> str:
        """Return the address that a message is sent to."""
        if not address.exchange:
            return self.source(address.key)
        return f"/exchange/{_quoted(address.exchange)}/{_quoted(address.key)}"

    def source(self, queue: str) -> str:
        """Return the address that a queue's messages come from."""
        return f"/amq/queue/{_quoted(queue)}"

    def says_nothing_of(self, address: Address) -> bool:
        """Whether a message to a queue that does not exist is lost without a word."""
        return not address.exchange

    def redelivered(self, first: bool, count: int) -> bool | None:
        """Tell nothing: its flag says the opposite of the truth in some cases."""
        return None

    def look_exchange(self, exchange: str) -> _Ask:
        """Make sure that an exchange exists."""
        yield f"/exchange/{_quoted(exchange)}/any", False
        return None

    def declare_queue(self, queue: DeclareQueue) -> _Ask:
        """Declare a queue."""
        if queue.exclusive:
            raise self.cannot(f"declare the exclusive queue {queue.name!r}", "use the amqp adapter")
        yield f"/queue/{_quoted(queue.name)}", False
        return self.differs(queue)


class BrokerJ(Broker):
    """Qpid Broker-J: requests to ``$management``."""

    name, management, relay = "Qpid Broker-J", "$management", True
    release_fails, rejects = True, False

    def __init__(self) -> None:
        self._exclusive: set[str] = set()  # queues of this connection

    @staticmethod
    def is_it(product: str, version: str, capabilities: list[str]) -> bool:
        """Tell whether it is this one."""
        return "Broker-J" in product

    def redelivered(self, first: bool, count: int) -> bool | None:
        """Tell from a message's header whether it was delivered before."""
        return count > 0

    def look(self, queue: str) -> _Ask:
        """Make sure that a queue exists."""
        yield from self._manage("READ", "Queue", queue)
        return None

    def look_exchange(self, exchange: str) -> _Ask:
        """Make sure that an exchange exists."""
        yield from self._manage("READ", "Exchange", exchange)
        return None

    def declare_queue(self, queue: DeclareQueue) -> _Ask:
        """Declare a queue."""
        lifetime = "DELETE_ON_NO_OUTBOUND_LINKS" if queue.auto_delete else "PERMANENT"
        wanted = {"durable": queue.durable, "lifetimePolicy": lifetime}
        if queue.exclusive:
            wanted |= {"exclusive": "CONNECTION", "lifetimePolicy": "DELETE_ON_CONNECTION_CLOSE"}
        made, differs = yield from self._create("Queue", queue.name, wanted)
        if queue.exclusive and made:
            self._exclusive.add(queue.name)
        elif queue.exclusive and queue.name not in self._exclusive:
            raise AdapterError(f"queue {queue.name!r} is there, and is not exclusive to this connection")
        if differs is None and (queue.expires or queue.kind != "classic"):
            return f"{self.name} has no queues that expire, and one kind only"
        return differs

    def delete_queue(self, name: str) -> _Ask:
        """Delete a queue."""
        yield from self._manage("DELETE", "Queue", name)
        return None

    def purge(self, name: str) -> _Ask:
        """Drop what waits in a queue."""
        yield from self._manage("clearQueue", "Queue", name)
        return None

    def declare_exchange(self, exchange: DeclareExchange) -> _Ask:
        """Declare an exchange."""
        lifetime = "DELETE_ON_NO_LINKS" if exchange.auto_delete else "PERMANENT"
        wanted = {"qpid-type": exchange.kind, "durable": exchange.durable, "lifetimePolicy": lifetime}
        wanted["unroutableMessageBehaviour"] = "REJECT"
        return (yield from self._create("Exchange", exchange.name, wanted))[1]

    def delete_exchange(self, name: str) -> _Ask:
        """Delete an exchange."""
        yield from self._manage("DELETE", "Exchange", name)
        return None

    def bind(self, queue: str, exchange: str, key: str) -> _Ask:
        """Bind a queue to an exchange."""
        yield from self._manage("bind", "Exchange", exchange, destination=queue, bindingKey=key)
        return None

    def unbind(self, queue: str, exchange: str, key: str) -> _Ask:
        """Undo ``bind``."""
        yield from self._manage("unbind", "Exchange", exchange, destination=queue, bindingKey=key)
        return None

    def _create(
        self, kind: str, name: str, wanted: dict[str, object]
    ) -> Generator[Question, Message | None, tuple[bool, str | None]]:
        """Create; return whether that was done, and how what is there differs."""
        try:
            yield from self._manage("CREATE", kind, None, {"object-path": _path(name), "name": name, **wanted})
        except Refused as refused:
            if refused.condition != "409":
                raise
            found = (yield from self._manage("READ", kind, name)).body
            differs = [f"{key} is {found.get(key)}" for key in wanted if found.get(key) != wanted[key]]
            return False, ", ".join(differs) or None
        return True, None

    def _manage(
        self, operation: str, kind: str, name: str | None, body: dict[str, object] | None = None, **more: str
    ) -> _Answer:
        properties = {"operation": operation, "type": f"org.apache.qpid.{kind}", **more}
        if name is not None:
            properties |= {"index": "object-path", "key": _path(name)}
        answer = yield Message(address=self.management, properties=properties, body=body or {}, correlation_id="1")
        assert answer is not None
        found: dict[str, Any] = answer.properties or {}
        status = str(int(found.get("statusCode", 0)))
        if not status.startswith("2"):
            text = f"{kind} {name or ''}: {found.get('statusDescription') or status}"
            raise Refused(NOT_FOUND if status == "404" else status, text)
        return answer


class Artemis(Broker):
    """ActiveMQ Artemis: requests to ``activemq.management``; a queue has an address of the same name."""

    name, management, dynamic, makes_queues = "ActiveMQ Artemis", "activemq.management", True, True

    @staticmethod
    def is_it(product: str, version: str, capabilities: list[str]) -> bool:
        """Tell whether it is this one."""
        return "artemis" in product

    def target(self, address: Address) -> str:
        """Return the address that a message is sent to."""
        if address.exchange:
            raise self.cannot(f"send to exchange {address.exchange!r}", "it has none: send to a queue")
        return address.key

    def says_nothing_of(self, address: Address) -> bool:
        """Whether a message to a queue that does not exist is lost without a word."""
        return True

    def redelivered(self, first: bool, count: int) -> bool | None:
        """Tell nothing: the count does not grow when a message is released, or its connection closed."""
        return None

    def look(self, queue: str) -> _Ask:
        """Make sure that a queue exists."""
        yield from self._call(f"queue.{queue}", "isPaused")
        return None

    def declare_queue(self, queue: DeclareQueue) -> _Ask:
        """Declare a queue."""
        if queue.exclusive:
            raise self.cannot(
                f"declare the exclusive queue {queue.name!r}", "leave out exclusive, or use a random name"
            )
        expires = queue.expires is not None
        wanted = {"durable": queue.durable, "auto-delete": queue.auto_delete or expires}
        more: dict[str, object] = {"name": queue.name, "address": queue.name, "routing-type": "ANYCAST"}
        more |= {"auto-delete-message-count": -1, "auto-create-address": True}
        if queue.expires is not None:
            more["auto-delete-delay"] = round(max(1, queue.expires * 1000))
        try:
            yield from self._call("broker", "createQueue", json.dumps({**more, **wanted}))
        except Refused as refused:
            try:
                found = json.loads((yield from self._call("broker", "listQueues", self._only(queue.name), 1, 10)))
            except Refused:
                raise refused from None
            rows = [row for row in found.get("data", []) if row.get("name") == queue.name]
            if not rows:
                raise
            is_so = {"durable": rows[0].get("durable"), "auto-delete": rows[0].get("autoDelete")}
            return (
                ", ".join(f"{key} is {is_so[key]}" for key in wanted if is_so[key] != str(wanted[key]).lower()) or None
            )
        return None

    def delete_queue(self, name: str) -> _Ask:
        """Delete a queue."""
        yield from self._call("broker", "destroyQueue", name, True, True)
        return None

    def purge(self, name: str) -> _Ask:
        """Drop what waits in a queue."""
        yield from self._call(f"queue.{name}", "removeMessages", "")
        return None

    @staticmethod
    def _only(name: str) -> str:
        return json.dumps({"field": "name", "operation": "EQUALS", "value": name})

    def _call(self, resource: str, operation: str, *arguments: object) -> Generator[Question, Message | None, Any]:
        properties = {"_AMQ_ResourceName": resource, "_AMQ_OperationName": operation}
        answer = yield Message(address=self.management, properties=properties, body=json.dumps(arguments))
        assert answer is not None
        value = json.loads(answer.body) if answer.body else [None]
        if not (answer.properties or {}).get("_AMQ_OperationSucceeded"):
            text = str(value[0])
            raise Refused(NOT_FOUND if "AMQ229067" in text or "Cannot find resource" in text else "", text)
        return value[0] if value else None


class Qpidd(Broker):
    """Qpid's broker in C++. Written from its documentation, and never tried on a live one."""

    name = "qpidd"

    @staticmethod
    def is_it(product: str, version: str, capabilities: list[str]) -> bool:
        """Tell whether it is this one."""
        return product == "qpid-cpp"


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _path(name: str) -> str:
    """Write a name as Broker-J has it in paths."""
    return name.replace("\\", "\\\\").replace("/", "\\/")
