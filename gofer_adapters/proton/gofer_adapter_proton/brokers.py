"""The dialects: how each broker is addressed, understood, and asked for queues and exchanges.

AMQP 1.0 itself has no declarations. What a broker cannot do is an AdapterError that names it and says what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Mapping
from typing import Any, ClassVar, NamedTuple
from urllib.parse import quote

from gofer.errors import AdapterError, MessagingError, NotFound
from gofer.messaging import adapter as api
from gofer.messaging.address import Address
from gofer.messaging.endings import BrokerClosed, LoginRefused, NoVirtualHost
from proton import Condition, Message
from proton import Delivery as Transfer

__all__ = ["NOT_FOUND", "Ask", "Broker", "Question", "Refused", "broker_of"]

NOT_FOUND = "amqp:not-found"
# The conditions of a declaration of what is there: with other properties; or it is to be read with which.
_DIFFERS, _EXISTS = "differs", "exists"
#: A request, which a message answers; or the address of a link to attach, to see whether that is possible, and whether
#: we are its receiver.
Question = Message | tuple[str, bool]
#: Questions, one after the other. It is sent the answer (None: attached), or thrown Refused.
Ask = Generator[Question, Message | None, Any]

# The name of a queue that RabbitMQ does not have.
_NO_QUEUE = "gofer.no-such-queue"


class Refused(Exception):
    """The broker refused a link, a message or a request: a condition of AMQP 1.0, and the broker's own words."""

    def __init__(self, condition: str, text: str) -> None:
        super().__init__(condition, text)
        self.condition, self.text = condition, text or condition

    @classmethod
    def of(cls, condition: Condition | None, otherwise: str) -> Refused:
        """Make it of what a frame says; ``otherwise``: what to say when it says nothing."""
        if condition is None:
            return cls("", otherwise)
        return cls(str(condition.name), str(condition.description or condition.name or otherwise))

    def ending(self, opened: bool) -> Exception:
        """Return what it means when it ends the connection."""
        if self.condition == "amqp:unauthorized-access":
            return LoginRefused(self.text)  # RabbitMQ 3 tells of a virtual host, too, when it is first used
        no_host = not opened and self.condition in (NOT_FOUND, "amqp:not-allowed", "amqp:invalid-field")
        return (NoVirtualHost if no_host else BrokerClosed)(self.text)

    def error(self) -> MessagingError:
        """Return the error of the operation that it answers."""
        return NotFound(self.text) if self.condition == NOT_FOUND else AdapterError(self.text)


class _UseExchange(NamedTuple):
    """An operation of our own: make sure that an exchange exists."""

    name: str


class _Existing(NamedTuple):
    """An operation of our own: read the properties of the queue or exchange that was to be declared."""

    asked: Any


class Broker:
    """A broker that is not known: its queues are there, or made when somebody sends or subscribes to them."""

    name = "this broker"
    #: The address of its management.
    management = ""
    #: What is asked for each operation that it can do.
    questions: ClassVar[Mapping[type, Callable[[Any], Question]]] = {
        api.DeclareQueue: lambda o: (o.name, False),
        api.CheckQueue: lambda o: (o.name, True),
    }
    #: The addresses of queues and exchanges, and whether names are quoted there.
    queue_address, exchange_address, quoted = "{}", "{}/{}", False
    #: Messages to any address go over one link.
    relay = False
    #: Queues are as they were declared, can be deleted after some time without use, or be exclusive to a connection.
    declares, expires, excludes = True, False, False
    #: A message to a queue that does not exist is lost, or makes one, without a word; a subscription makes one.
    silent, makes_queues = False, False
    #: A released message is to be marked as failed, so that it is told as redelivered.
    release_fails = False
    #: A rejected message is dropped or dead-lettered. False: it would come again, so it is accepted instead.
    rejects = True
    #: It gives credit back when it is asked to.
    drains = True
    #: What tells that a message was delivered before: its count, that we are not its first acquirer, or nothing.
    redelivery: str | None = "count"
    #: It knows virtual hosts as 'vhost:NAME', and takes its default for all else.
    vhosts = False

    def cannot(self, what: object, hint: str = "use its own tools, or another adapter") -> AdapterError:
        """Return the error of something that this broker cannot do over AMQP 1.0: an operation, or words."""
        words = what if isinstance(what, str) else _words(what)
        return AdapterError(f"{self.name} cannot {words} over AMQP 1.0; {hint}")

    def source(self, queue: str) -> str:
        """Return the address that a queue's messages come from."""
        return self.queue_address.format(_quoted(queue) if self.quoted else queue)

    def target(self, address: Address) -> str:
        """Return the address that a message is sent to. Raises AdapterError: there is none."""
        if not address.exchange:
            return self.source(address.key)
        if not self.exchange_address:
            raise self.cannot(f"send to exchange {address.exchange!r}", "it has none: send to a queue")
        return self.exchange_address.format(*(map(_quoted, address) if self.quoted else address))

    def settlement(self, how: api.Settlement) -> tuple[int, bool]:
        """Return the state of a delivery that is settled, and whether its delivery failed."""
        if how is api.Settlement.RELEASE:
            return (Transfer.MODIFIED, True) if self.release_fails else (Transfer.RELEASED, False)
        return (Transfer.REJECTED if how is api.Settlement.REJECT and self.rejects else Transfer.ACCEPTED), False

    def perform(self, operation: api.Operation) -> Ask:
        """Do an operation; return its value. Raises Refused or AdapterError."""
        match operation:
            case api.DeleteQueue(name) | api.PurgeQueue(name) | api.CheckQueue(name):
                consumers = yield from self.look(name)
            case api.DeleteExchange(name):
                yield from self._ask(_UseExchange(name))
            case api.Bind(queue, exchange) | api.Unbind(queue, exchange):
                yield from self.look(queue)
                yield from self._ask(_UseExchange(exchange))
        match operation:
            case api.CheckQueue(name) if consumers is not None:
                return None if consumers else f"queue {name!r} has no consumer"
            case api.DeleteQueue(name, if_empty=True):
                raise self.cannot(f"check that queue {name!r} is empty", "the queue is kept")
            case api.DeclareQueue(exclusive=True) if not self.excludes:
                raise self.cannot(operation)
            case api.DeclareQueue() | api.DeclareExchange():
                told = yield from self._declare(operation)
                for exchange, key in getattr(operation, "bindings", ()):
                    yield from self.perform(api.Bind(operation.name, exchange, key))
                return told
            case api.CheckQueue():
                raise self.cannot(operation)
        yield from self._ask(operation)

    def look(self, queue: str) -> Ask:
        """Make sure that a queue exists; return how many consumers it has, or None. Raises Refused."""
        return (yield from self._ask(api.CheckQueue(queue)))

    def _ask(self, operation: object) -> Ask:
        if type(operation) not in self.questions:
            raise self.cannot(operation)
        return self.read(operation, (yield self.questions[type(operation)](operation)))

    def _declare(self, asked: Any) -> Ask:
        differs = None
        try:
            yield from self._ask(asked)
        except Refused as refused:
            if refused.condition == _DIFFERS:
                return refused.text
            if refused.condition != _EXISTS:
                raise
            if isinstance(asked, api.DeclareQueue):
                yield self.source(asked.name), True  # refused if it is exclusive to another connection
            found, wanted = (yield from self._ask(_Existing(asked))), self.wanted(asked)
            differs = ", ".join(f"{key} is {found.get(key)}" for key in wanted if found.get(key) != wanted[key])
        if not self.declares and (asked.auto_delete or not asked.durable or asked.kind != "classic"):
            differs = f"{self.name} decides itself whether queues are durable, quorum, or deleted"
        return differs or (api.NO_EXPIRY if getattr(asked, "expires", None) and not self.expires else None)

    @staticmethod
    def wanted(asked: Any) -> dict[str, Any]:
        """Return the properties of a queue or an exchange as it is to be, in the words of a broker that tells them."""
        return {}

    def read(self, operation: object, answer: Any) -> Any:
        """Return the value of an answer; of a CheckQueue: the number of consumers. Raises Refused."""


class _RabbitMQ3(Broker):
    """RabbitMQ 3 with its plugin: addresses that make queues, and nothing else."""

    name, vhosts, declares, silent = "RabbitMQ 3", True, False, True
    queue_address, exchange_address, quoted = "/amq/queue/{}", "/exchange/{}/{}", True
    # What it does with a request to give credit back ends the session: {function_clause, send_drained}. Its flag of
    # messages that were delivered before is wrong.
    drains, redelivery = False, None
    questions: ClassVar = {
        api.DeclareQueue: lambda o: (f"/queue/{_quoted(o.name)}", False),
        api.CheckQueue: lambda o: (f"/amq/queue/{_quoted(o.name)}", True),
        _UseExchange: lambda o: (f"/exchange/{_quoted(o.name)}/any", False),
    }


def _http(request: str, *names: str, **body: object) -> Message:
    """Make a request like those of HTTP, with names in its path."""
    method, path = request.format(*map(_quoted, names)).split(" ")
    return Message(subject=method, address=path, reply_to="$me", body=body or None)


def _bind(queue: str, exchange: str, key: str) -> Message:
    return _http("POST /bindings", source=exchange, destination_queue=queue, binding_key=key, arguments={})


def _queue_of_rabbitmq(asked: api.DeclareQueue) -> Message:
    arguments: dict[str, object] = {"x-queue-type": asked.kind}
    if asked.kind == "quorum":
        # A release or an agent that was killed counts, too: 25 kills in a row must not lose a message.
        arguments["x-delivery-limit"] = -1
    if asked.expires is not None:
        arguments["x-expires"] = round(max(1, asked.expires * 1000))
    return _http("PUT /queues/{}", asked.name, exclusive=asked.exclusive, arguments=arguments, **_lasting(asked))


class _RabbitMQ(Broker):
    """RabbitMQ 4: requests like those of HTTP, over a pair of links to ``/management``."""

    name, vhosts, management, relay, expires, excludes = "RabbitMQ 4", True, "/management", True, True, True
    queue_address, exchange_address, quoted, redelivery = "/queues/{}", "/exchanges/{}/{}", True, "first"
    questions: ClassVar = {
        api.DeclareQueue: _queue_of_rabbitmq,
        api.CheckQueue: lambda o: _http("GET /queues/{}", o.name),
        api.DeleteQueue: lambda o: _http("DELETE /queues/{}", o.name),
        api.PurgeQueue: lambda o: _http("DELETE /queues/{}/messages", o.name),
        api.DeclareExchange: lambda o: _http("PUT /exchanges/{}", o.name, type=o.kind, arguments={}, **_lasting(o)),
        # A link to a missing one would end the session. This is refused for the exchange first, then for the queue.
        _UseExchange: lambda o: _bind(_NO_QUEUE, o.name, ""),
        api.DeleteExchange: lambda o: _http("DELETE /exchanges/{}", o.name),
        api.Bind: lambda o: _bind(o.queue, o.exchange, o.key),
        api.Unbind: lambda o: _http("DELETE /bindings/src={};dstq={};key={};args=", o.exchange, o.queue, o.key),
    }

    def read(self, operation: object, answer: Any) -> Any:
        status, text = str(answer.subject), str(answer.body)
        if status.startswith("2") or _NO_QUEUE in text:
            return answer.body.get("consumer_count") if isinstance(answer.body, dict) else None
        if text.startswith("inequivalent arg"):
            raise Refused(_DIFFERS, text)
        raise Refused(NOT_FOUND if status == "404" or text.startswith(("no queue", "no exchange")) else status, text)


def _manage(operation: str, kind: str, name: str, body: Mapping[str, object] | None = None, **more: str) -> Message:
    path = name.replace("\\", "\\\\").replace("/", "\\/")
    properties = {"operation": operation, "type": f"org.apache.qpid.{kind}", **more}
    if body is None:
        return Message(address="$management", properties={**properties, "index": "object-path", "key": path}, body={})
    return Message(address="$management", properties=properties, body={"object-path": path, "name": name, **body})


class _BrokerJ(Broker):
    """Qpid Broker-J: requests to ``$management``."""

    name, management, relay, excludes = "Qpid Broker-J", "$management", True, True
    release_fails, rejects = True, False
    questions: ClassVar = {
        api.DeclareQueue: lambda o: _manage("CREATE", "Queue", o.name, _BrokerJ.wanted(o)),
        api.CheckQueue: lambda o: _manage("getStatistics", "Queue", o.name, statistics='["consumerCount"]'),
        api.DeleteQueue: lambda o: _manage("DELETE", "Queue", o.name),
        api.PurgeQueue: lambda o: _manage("clearQueue", "Queue", o.name),
        api.DeclareExchange: lambda o: _manage("CREATE", "Exchange", o.name, _BrokerJ.wanted(o)),
        _UseExchange: lambda o: _manage("READ", "Exchange", o.name),
        api.DeleteExchange: lambda o: _manage("DELETE", "Exchange", o.name),
        api.Bind: lambda o: _manage("bind", "Exchange", o.exchange, destination=o.queue, bindingKey=o.key),
        api.Unbind: lambda o: _manage("unbind", "Exchange", o.exchange, destination=o.queue, bindingKey=o.key),
        _Existing: lambda o: _manage("READ", type(o.asked).__name__.removeprefix("Declare"), o.asked.name),
    }

    @staticmethod
    def wanted(asked: Any) -> dict[str, Any]:
        is_queue = isinstance(asked, api.DeclareQueue)
        unused = "DELETE_ON_NO_OUTBOUND_LINKS" if is_queue else "DELETE_ON_NO_LINKS"
        wanted = {"durable": asked.durable, "lifetimePolicy": unused if asked.auto_delete else "PERMANENT"}
        if not is_queue:
            # Or what has no route would be dropped, and confirmed.
            return wanted | {"qpid-type": asked.kind, "unroutableMessageBehaviour": "REJECT"}
        exclusive = {"exclusive": "CONNECTION", "lifetimePolicy": "DELETE_ON_CONNECTION_CLOSE"}
        return wanted | exclusive if asked.exclusive else wanted

    def read(self, operation: object, answer: Any) -> Any:
        found = answer.properties or {}
        status = int(found.get("statusCode", 0))
        if not 200 <= status < 300:
            text = f"{_words(operation)}: {found.get('statusDescription') or status}"
            raise Refused({404: NOT_FOUND, 409: _EXISTS}.get(status, str(status)), text)
        return answer.body.get("consumerCount", answer.body) if isinstance(answer.body, dict) else None


def _call(resource: str, operation: str, *arguments: object) -> Message:
    properties = {"_AMQ_ResourceName": resource, "_AMQ_OperationName": operation}
    return Message(address="activemq.management", properties=properties, body=json.dumps(arguments))


def _queue_of_artemis(asked: api.DeclareQueue) -> Message:
    queue = {"name": asked.name, "address": asked.name, "routing-type": "ANYCAST", "auto-delete-message-count": -1}
    queue |= {"durable": asked.durable, "auto-delete": asked.auto_delete or asked.expires is not None}
    if asked.expires is not None:
        queue["auto-delete-delay"] = round(max(1, asked.expires * 1000))
    return _call("broker", "createQueue", json.dumps(queue))


class _Artemis(Broker):
    """ActiveMQ Artemis: requests to ``activemq.management``; a queue has an address of the same name."""

    name, management, exchange_address, expires = "ActiveMQ Artemis", "activemq.management", "", True
    silent, makes_queues, release_fails = True, True, True
    questions: ClassVar = {
        api.DeclareQueue: _queue_of_artemis,
        api.CheckQueue: lambda o: _call(f"queue.{o.name}", "getConsumerCount"),
        api.DeleteQueue: lambda o: _call("broker", "destroyQueue", o.name, True, True),
        api.PurgeQueue: lambda o: _call(f"queue.{o.name}", "removeMessages", ""),
        _Existing: lambda o: _call(
            "broker", "listQueues", json.dumps({"field": "name", "operation": "EQUALS", "value": o.asked.name}), 1, 1
        ),
    }

    @staticmethod
    def wanted(asked: Any) -> dict[str, Any]:
        expires = asked.auto_delete or asked.expires is not None
        return {"durable": str(asked.durable).lower(), "autoDelete": str(expires).lower()}

    def read(self, operation: object, answer: Any) -> Any:
        (value, *_) = json.loads(answer.body or "[null]") or [None]
        if not (answer.properties or {}).get("_AMQ_OperationSucceeded"):
            codes = {"AMQ229067": NOT_FOUND, "AMQ229019": _EXISTS}
            raise Refused(codes.get(str(value).partition(":")[0], ""), str(value))
        return json.loads(value)["data"][0] if str(value).startswith('{"data"') else value


def _qmf(opcode: str, node: str, **body: object) -> Message:
    properties = {"x-amqp-0-10.app-id": "qmf2", "qmf.opcode": opcode, "method": "request"}
    where = {"_object_id": {"_object_name": f"org.apache.qpid.broker:{node}"}}
    return Message(subject="broker", properties=properties, body={**where, **body})


def _method(method: str, node: str = "broker:amqp-broker", **arguments: object) -> Message:
    return _qmf("_method_request", node, _method_name=method, _arguments=arguments)


def _make(kind: str, name: str, **properties: object) -> Message:
    return _method("create", type=kind, name=name, properties=properties, strict=True)


def _flags_of_qpidd(asked: api.DeclareQueue) -> dict[str, object]:
    flags = {"exclusive": asked.exclusive, **_lasting(asked, "auto-delete")}
    if asked.expires is not None:
        flags |= {"auto-delete": True, "qpid.auto_delete_timeout": max(1, round(asked.expires))}
    return flags


class _Qpidd(Broker):
    """Qpid's broker in C++: QMF2 over ``qmf.default.direct``. Made from its documentation, and never tried on one."""

    name, management, expires, excludes = "qpidd", "qmf.default.direct/broker", True, True
    questions: ClassVar = {
        api.DeclareQueue: lambda o: _make("queue", o.name, **_flags_of_qpidd(o)),
        api.CheckQueue: lambda o: _qmf("_query_request", f"queue:{o.name}", _what="OBJECT"),
        api.DeleteQueue: lambda o: _method("delete", type="queue", name=o.name, options={}),
        api.PurgeQueue: lambda o: _method("purge", f"queue:{o.name}", request=0, filter={}),
        api.DeclareExchange: lambda o: _make(
            "exchange", o.name, **{"exchange-type": o.kind}, **_lasting(o, "auto-delete")
        ),
        _UseExchange: lambda o: _qmf("_query_request", f"exchange:{o.name}", _what="OBJECT"),
        api.DeleteExchange: lambda o: _method("delete", type="exchange", name=o.name, options={}),
        api.Bind: lambda o: _make("binding", f"{o.exchange}/{o.queue}/{o.key}"),
        api.Unbind: lambda o: _method("delete", type="binding", name=f"{o.exchange}/{o.queue}/{o.key}", options={}),
    }

    def read(self, operation: object, answer: Any) -> Any:
        if (answer.properties or {}).get("qmf.opcode") == "_exception":
            text = str(answer.body.get("_values", {}).get("error_text", answer.body))
            raise Refused(_DIFFERS if "already exists" in text else "", text)
        if answer.body == []:
            raise Refused(NOT_FOUND, "there is no such queue or exchange")
        return answer.body[0]["_values"].get("consumerCount") if isinstance(answer.body, list) else None


def broker_of(properties: Mapping[str, object], capabilities: list[str]) -> Broker:
    """Return the dialect of a broker, as its connection's properties tell."""
    product, version = str(properties.get("product", "")), str(properties.get("version", ""))
    if product == "RabbitMQ":
        return _RabbitMQ3() if version.startswith(("3.", "2.")) else _RabbitMQ()
    for word, kind in (("Broker-J", _BrokerJ), ("artemis", _Artemis), ("qpid-cpp", _Qpidd)):
        if word in product:
            return kind()
    broker = Broker()
    broker.name, broker.relay = product or broker.name, "ANONYMOUS-RELAY" in capabilities
    return broker


def _words(operation: object) -> str:
    words = re.sub("([A-Z])", r" \1", type(operation).__name__).lower().strip("_ ")
    return f"{words} {getattr(operation, 'name', '') or getattr(operation, 'queue', '')!r}"


def _quoted(name: str) -> str:
    return quote(name, safe="")


def _lasting(asked: Any, auto_delete: str = "auto_delete") -> dict[str, Any]:
    return {"durable": asked.durable, auto_delete: asked.auto_delete}
