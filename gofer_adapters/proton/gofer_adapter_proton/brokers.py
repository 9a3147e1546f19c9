"""The dialects: how each broker is addressed, understood, and asked for queues and exchanges.

AMQP 1.0 itself has no declarations. What a broker cannot do is an AdapterError that names it and says what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from gofer.errors import AdapterError
from gofer.messaging import adapter as api
from gofer.messaging.address import Address
from proton import Message

from gofer_adapter_proton.errors import NOT_FOUND, Refused

__all__ = ["Ask", "Broker", "Question", "broker_of"]

#: A request, which a message answers; or the address of a link to attach, to see whether that is possible, and whether
#: we are its receiver.
Question = Message | tuple[str, bool]
#: Questions, one after the other. It is sent the answer (None: attached), or thrown Refused.
Ask = Generator[Question, Message | None, Any]

# RabbitMQ takes no longer time than this (49 days).
_LONGEST = 4_294_967_295


class Broker:
    """A broker that is not known: its queues are there, or made when somebody sends or subscribes to them."""

    name = "this broker"
    #: The address of its management, and whether that answers to a queue of its choice.
    management, dynamic = "", False
    #: Messages to any address go over one link.
    relay = False
    #: A released message is to be marked as failed, so that it is told as redelivered.
    release_fails = False
    #: A rejected message is dropped or dead-lettered. False: it would come again, so it is accepted instead.
    rejects = True
    #: It makes a queue that does not exist when somebody subscribes to it.
    makes_queues = False
    #: It gives credit back when it is asked to.
    drains = True
    #: It says of a message whether that was delivered before.
    tells_redelivered = True

    def cannot(self, what: api.Operation | str, hint: str = "use its own tools, or another adapter") -> AdapterError:
        """Return the error of something that this broker cannot do over AMQP 1.0."""
        if not isinstance(what, str):
            words = re.sub(r"(?<!^)([A-Z])", r" \1", type(what).__name__).lower()
            what = f"{words} {getattr(what, what.__struct_fields__[0])!r}"
        return AdapterError(f"{self.name} cannot {what} over AMQP 1.0; {hint}")

    def target(self, address: Address) -> str:
        """Return the address that a message is sent to. Raises AdapterError: there is none."""
        return str(address)

    def source(self, queue: str) -> str:
        """Return the address that a queue's messages come from."""
        return queue

    def silent_about(self, address: Address) -> bool:
        """Whether a message to a queue that does not exist is lost, or makes one, without a word."""
        return False

    def redelivered(self, first: bool, count: int) -> bool | None:
        """Tell from a message's header whether it was delivered before."""
        return count > 0 if self.tells_redelivered else None

    def look(self, queue: str) -> Ask:
        """Make sure that a queue exists. Raises Refused."""
        yield self.source(queue), True

    def look_exchange(self, exchange: str) -> Ask:
        """Make sure that an exchange exists. Raises Refused, or AdapterError: it has none."""
        yield from ()
        raise self.cannot(f"use exchange {exchange!r}", "send to a queue, or use another adapter")

    def ask(self, operation: api.Operation) -> Ask:
        """Do an operation whose queue and exchange exist; return its value. Raises Refused or AdapterError."""
        if not isinstance(operation, api.DeclareQueue) or operation.exclusive:
            raise self.cannot(operation)
        yield self.target(Address("", operation.name)), False
        wanted = ["auto_delete"] * operation.auto_delete + ["durable=False"] * (not operation.durable)
        if wanted or operation.kind != "classic":
            return f"{self.name} decides itself how queues are: not {', '.join(wanted) or operation.kind}"
        return api.NO_EXPIRY if operation.expires is not None else None


class _RabbitMQ(Broker):
    """RabbitMQ 4: requests like those of HTTP, over a pair of links to ``/management``."""

    name, management, relay = "RabbitMQ 4", "/management", True

    def target(self, address: Address) -> str:
        if not address.exchange:
            return self.source(address.key)
        return f"/exchanges/{_quoted(address.exchange)}" + (f"/{_quoted(address.key)}" if address.key else "")

    def source(self, queue: str) -> str:
        return f"/queues/{_quoted(queue)}"

    def redelivered(self, first: bool, count: int) -> bool | None:
        return not first

    def look(self, queue: str) -> Ask:
        yield from self._http("GET", self.source(queue))

    def look_exchange(self, exchange: str) -> Ask:
        # A link to a missing one would end the session; this is refused for the exchange first, then for the queue.
        try:
            yield from self.ask(api.Bind(f"{exchange[:200]}.{uuid4().hex}", exchange, ""))
        except Refused as refused:
            if not refused.text.startswith("no queue"):
                raise

    def ask(self, operation: api.Operation) -> Ask:
        match operation:
            case api.DeclareQueue(name, durable, exclusive, auto_delete, expires, kind):
                arguments: dict[str, object] = {"x-queue-type": kind}
                if kind == "quorum":
                    # A release or an agent that was killed counts, too: 25 kills in a row must not lose a message.
                    arguments["x-delivery-limit"] = -1
                if expires is not None:
                    arguments["x-expires"] = round(max(1, min(_LONGEST, expires * 1000)))
                flags = {"durable": durable, "exclusive": exclusive, "auto_delete": auto_delete}
                try:
                    yield from self._http("PUT", self.source(name), {**flags, "arguments": arguments})
                except Refused as refused:
                    return (yield from self._differs(refused, self.look(name)))
            case api.DeclareExchange(name, kind, durable, auto_delete):
                body = {"type": kind, "durable": durable, "auto_delete": auto_delete, "arguments": {}}
                try:
                    yield from self._http("PUT", self.target(Address(name, "")), body)
                except Refused as refused:
                    return (yield from self._differs(refused, self.look_exchange(name)))
            case api.DeleteQueue(name):
                yield from self._http("DELETE", self.source(name))
            case api.CheckQueue(name):
                found = yield from self._http("GET", self.source(name))
                return None if found.body["consumer_count"] else f"queue {name!r} has no consumer"
            case api.PurgeQueue(name):
                yield from self._http("DELETE", f"{self.source(name)}/messages")
            case api.DeleteExchange(name):
                yield from self._http("DELETE", self.target(Address(name, "")))
            case api.Bind(queue, exchange, key):
                body = {"source": exchange, "destination_queue": queue, "binding_key": key, "arguments": {}}
                yield from self._http("POST", "/bindings", body)
            case api.Unbind(queue, exchange, key):
                where = f"src={_quoted(exchange)};dstq={_quoted(queue)};key={_quoted(key)};args="
                yield from self._http("DELETE", f"/bindings/{where}")
        return None

    def _differs(self, refused: Refused, look: Ask) -> Ask:
        """Return the broker's words when something is there with other properties; else raise them."""
        if refused.condition == "409":
            try:
                yield from look
            except Refused:
                pass  # nothing is there that would differ: the properties themselves are refused
            else:
                return refused.text
        raise refused

    def _http(self, method: str, path: str, body: dict[str, Any] | None = None) -> Ask:
        answer: Any = yield Message(id="1", subject=method, address=path, reply_to="$me", body=body)
        status, text = str(answer.subject), str(answer.body)
        if not status.startswith("2"):
            missing = status == "404" or text.startswith(("no queue", "no exchange"))
            raise Refused(NOT_FOUND if missing else status, text)
        return answer


class _RabbitMQ3(Broker):
    """RabbitMQ 3 with its plugin: addresses that make queues, and nothing else."""

    # What it does with a request to give credit back ends the session: {function_clause, send_drained}. And its flag
    # of messages that were delivered before is wrong.
    name, drains, tells_redelivered = "RabbitMQ 3", False, False

    def target(self, address: Address) -> str:
        exchange, key = address
        return f"/exchange/{_quoted(exchange)}/{_quoted(key)}" if exchange else self.source(key)

    def source(self, queue: str) -> str:
        return f"/amq/queue/{_quoted(queue)}"

    def silent_about(self, address: Address) -> bool:
        return not address.exchange

    def look_exchange(self, exchange: str) -> Ask:
        yield self.target(Address(exchange, "any")), False

    def ask(self, operation: api.Operation) -> Ask:
        if isinstance(operation, api.DeclareQueue) and not operation.exclusive:
            yield f"/queue/{_quoted(operation.name)}", False
        return (yield from super().ask(operation))


class _BrokerJ(Broker):
    """Qpid Broker-J: requests to ``$management``."""

    name, management, relay = "Qpid Broker-J", "$management", True
    release_fails, rejects = True, False

    def __init__(self) -> None:
        self._exclusive: set[str] = set()  # queues of this connection

    def look(self, queue: str) -> Ask:
        yield from self._manage("READ", "Queue", queue)

    def look_exchange(self, exchange: str) -> Ask:
        yield from self._manage("READ", "Exchange", exchange)

    def ask(self, operation: api.Operation) -> Ask:
        match operation:
            case api.DeclareQueue(name, durable, exclusive, auto_delete, expires):
                lifetime = "DELETE_ON_NO_OUTBOUND_LINKS" if auto_delete else "PERMANENT"
                wanted = {"durable": durable, "lifetimePolicy": lifetime}
                if exclusive:
                    wanted |= {"exclusive": "CONNECTION", "lifetimePolicy": "DELETE_ON_CONNECTION_CLOSE"}
                made, differs = yield from self._create("Queue", name, wanted)
                if exclusive and made:
                    self._exclusive.add(name)
                elif exclusive and name not in self._exclusive:
                    raise AdapterError(f"queue {name!r} is there, and is not exclusive to this connection")
                return differs or (api.NO_EXPIRY if expires is not None else None)
            case api.DeclareExchange(name, kind, durable, auto_delete):
                lifetime = "DELETE_ON_NO_LINKS" if auto_delete else "PERMANENT"
                wanted = {"qpid-type": kind, "durable": durable, "lifetimePolicy": lifetime}
                # Or what has no route would be dropped, and confirmed.
                wanted["unroutableMessageBehaviour"] = "REJECT"
                return (yield from self._create("Exchange", name, wanted))[1]
            case api.DeleteQueue(name):
                yield from self._manage("DELETE", "Queue", name)
            case api.CheckQueue(name):
                found = yield from self._manage("getStatistics", "Queue", name, statistics='["consumerCount"]')
                return None if found.body["consumerCount"] else f"queue {name!r} has no consumer"
            case api.PurgeQueue(name):
                yield from self._manage("clearQueue", "Queue", name)
            case api.DeleteExchange(name):
                yield from self._manage("DELETE", "Exchange", name)
            case api.Bind(queue, exchange, key):
                yield from self._manage("bind", "Exchange", exchange, destination=queue, bindingKey=key)
            case api.Unbind(queue, exchange, key):
                yield from self._manage("unbind", "Exchange", exchange, destination=queue, bindingKey=key)
        return None

    def _create(self, kind: str, name: str, wanted: dict[str, Any]) -> Ask:
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
        self, operation: str, kind: str, name: str | None, body: dict[str, Any] | None = None, **more: str
    ) -> Ask:
        properties = {"operation": operation, "type": f"org.apache.qpid.{kind}", **more}
        if name is not None:
            properties |= {"index": "object-path", "key": _path(name)}
        request = Message(address=self.management, properties=properties, body=body or {}, correlation_id="1")
        answer: Any = yield request
        found = answer.properties or {}
        status = int(found.get("statusCode", 0))
        if not 200 <= status < 300:
            text = f"{kind} {name or ''}: {found.get('statusDescription') or status}"
            raise Refused(NOT_FOUND if status == 404 else str(status), text)
        return answer


class _Artemis(Broker):
    """ActiveMQ Artemis: requests to ``activemq.management``; a queue has an address of the same name."""

    name, management, dynamic, makes_queues = "ActiveMQ Artemis", "activemq.management", True, True
    release_fails = True

    def target(self, address: Address) -> str:
        if address.exchange:
            raise self.cannot(f"send to exchange {address.exchange!r}", "it has none: send to a queue")
        return address.key

    def silent_about(self, address: Address) -> bool:
        return True

    def look(self, queue: str) -> Ask:
        yield from self._call(f"queue.{queue}", "isPaused")

    def ask(self, operation: api.Operation) -> Ask:
        match operation:
            case api.DeclareQueue(name, durable, False, auto_delete, expires):
                wanted = {"durable": durable, "auto-delete": auto_delete or expires is not None}
                more = {"name": name, "address": name, "routing-type": "ANYCAST", "auto-delete-message-count": -1}
                if expires is not None:
                    more["auto-delete-delay"] = round(max(1, expires * 1000))
                try:
                    yield from self._call("broker", "createQueue", json.dumps({**more, **wanted}))
                except Refused as refused:
                    row = yield from self._row(name)
                    if row is None:
                        raise refused from None
                    found = {"durable": row["durable"], "auto-delete": row["autoDelete"]}
                    differs = [f"{key} is {found[key]}" for key in wanted if found[key] != str(wanted[key]).lower()]
                    return ", ".join(differs) or None
            case api.DeleteQueue(name):
                yield from self._call("broker", "destroyQueue", name, True, True)
            case api.CheckQueue(name):
                row = yield from self._row(name)
                return None if row is None or int(row["consumerCount"]) else f"queue {name!r} has no consumer"
            case api.PurgeQueue(name):
                yield from self._call(f"queue.{name}", "removeMessages", "")
            case _:
                raise self.cannot(operation)
        return None

    def _row(self, queue: str) -> Ask:
        """Return what Artemis tells of a queue; None: there is none."""
        only = json.dumps({"field": "name", "operation": "EQUALS", "value": queue})
        found = json.loads((yield from self._call("broker", "listQueues", only, 1, 10)))
        return next((row for row in found["data"] if row["name"] == queue), None)

    def _call(self, resource: str, operation: str, *arguments: object) -> Ask:
        properties = {"_AMQ_ResourceName": resource, "_AMQ_OperationName": operation}
        answer: Any = yield Message(address=self.management, properties=properties, body=json.dumps(arguments))
        value = json.loads(answer.body) if answer.body else [None]
        if not (answer.properties or {}).get("_AMQ_OperationSucceeded"):
            raise Refused(NOT_FOUND if "AMQ229067" in str(value[0]) else "", str(value[0]))
        return value[0] if value else None


class _Qpidd(Broker):
    """Qpid's broker in C++: QMF2 over ``qmf.default.direct``. Made from its documentation, and never tried on one."""

    name, management, dynamic = "qpidd", "qmf.default.direct/broker", True

    def look(self, queue: str) -> Ask:
        yield from self._query("queue", queue)

    def look_exchange(self, exchange: str) -> Ask:
        yield from self._query("exchange", exchange)

    def ask(self, operation: api.Operation) -> Ask:
        match operation:
            case api.DeclareQueue(name, durable, exclusive, auto_delete, expires):
                flags: dict[str, object] = {"durable": durable, "exclusive": exclusive, "auto-delete": auto_delete}
                if expires is not None:
                    flags |= {"auto-delete": True, "qpid.auto_delete_timeout": max(1, round(expires))}
                return (yield from self._create("queue", name, flags))
            case api.DeclareExchange(name, kind, durable, auto_delete):
                flags = {"exchange-type": kind, "durable": durable, "auto-delete": auto_delete}
                return (yield from self._create("exchange", name, flags))
            case api.DeleteQueue(name):
                yield from self._method("delete", {"type": "queue", "name": name, "options": {}})
            case api.DeleteExchange(name):
                yield from self._method("delete", {"type": "exchange", "name": name, "options": {}})
            case api.PurgeQueue(name):
                where = {"_object_name": f"org.apache.qpid.broker:queue:{name}"}
                yield from self._method("purge", {"request": 0, "filter": {}}, where)
            case api.CheckQueue(name):
                found = yield from self._query("queue", name)
                return None if found["_values"]["consumerCount"] else f"queue {name!r} has no consumer"
            case api.Bind(queue, exchange, key):
                yield from self._create("binding", f"{exchange}/{queue}/{key}", {})
            case api.Unbind(queue, exchange, key):
                binding: dict[str, object] = {"type": "binding", "name": f"{exchange}/{queue}/{key}", "options": {}}
                yield from self._method("delete", binding)
        return None

    def _create(self, kind: str, name: str, flags: dict[str, object]) -> Ask:
        arguments = {"type": kind, "name": name, "properties": flags, "strict": True}
        return (yield from self._method("create", arguments))

    def _query(self, kind: str, name: str) -> Ask:
        where = {"_object_name": f"org.apache.qpid.broker:{kind}:{name}"}
        rows = yield from self._send("_query_request", {"_what": "OBJECT", "_object_id": where})
        if not rows:
            raise Refused(NOT_FOUND, f"there is no {kind} {name!r}")
        return rows[0]

    def _method(self, method: str, arguments: dict[str, object], where: dict[str, str] | None = None) -> Ask:
        """Call a method of the broker; return its words when what is to be made is there with other properties."""
        where = where or {"_object_name": "org.apache.qpid.broker:broker:amqp-broker"}
        body = {"_object_id": where, "_method_name": method, "_arguments": arguments}
        try:
            yield from self._send("_method_request", body)
        except Refused as refused:
            # Making what is there as it is meant to be succeeds; deleting a binding that is not there does not matter.
            if (method == "create" and "exist" in refused.text) or arguments.get("type") == "binding":
                return refused.text
            raise
        return None

    def _send(self, opcode: str, body: dict[str, Any]) -> Ask:
        properties = {"x-amqp-0-10.app-id": "qmf2", "qmf.opcode": opcode, "method": "request"}
        request = Message(subject="broker", properties=properties, body=body, correlation_id="1")
        answer: Any = yield request
        if (answer.properties or {}).get("qmf.opcode") == "_exception":
            raise Refused("", str(answer.body.get("_values", {}).get("error_text", answer.body)))
        return answer.body


def broker_of(properties: Mapping[str, object], capabilities: list[str]) -> Broker:
    """Return the dialect of a broker, as its connection's properties tell."""
    product, version = str(properties.get("product", "")), str(properties.get("version", ""))
    major = version.partition(".")[0]
    if product == "RabbitMQ":
        return _RabbitMQ() if major.isdecimal() and int(major) >= 4 else _RabbitMQ3()
    for word, kind in (("Broker-J", _BrokerJ), ("artemis", _Artemis), ("qpid-cpp", _Qpidd)):
        if word in product:
            return kind()
    broker = Broker()
    broker.name, broker.relay = product or broker.name, "ANONYMOUS-RELAY" in capabilities
    return broker


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _path(name: str) -> str:
    """Write a name as Broker-J has it in paths."""
    return name.replace("\\", "\\\\").replace("/", "\\/")
