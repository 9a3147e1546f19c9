"""Operations on queues and exchanges."""

from __future__ import annotations

from collections.abc import Generator

from gofer.errors import AdapterError, MessagingError, NotFound
from gofer.messaging import adapter as api

from gofer_adapter_qpid.amqp_0_10 import Fields, Question, SessionClosed, Steps, drain
from gofer_adapter_qpid.sessions import Home, error_of

__all__ = ["steps"]

_Asking = Generator[Question, Fields, str | None]


def steps(home: Home, id: int, operation: api.Operation) -> Steps:
    """Ask what an operation needs that ``ask`` has passed; its Done becomes an event."""
    try:
        done = api.Done(id, (yield from _ask(home, operation)))
    except (SessionClosed, MessagingError) as error:
        done = api.Done(id, error=error_of(error) if isinstance(error, SessionClosed) else error)
    home.events.append(done)


def _ask(home: Home, operation: api.Operation) -> _Asking:
    match operation:
        case api.DeclareQueue():
            told = yield from _declare_queue(home, operation)
            for exchange, key in operation.bindings:
                yield from _ask(home, api.Bind(operation.name, exchange, key))
            return told
        case api.DeclareExchange():
            return (yield from _declare_exchange(operation))
        case api.CheckQueue(name):
            if not (found := (yield "queue.query", {"queue": name})).get("queue"):
                raise NotFound(f"no queue {name!r}")
            return None if found.get("subscriber_count") else "it has no consumer"
        case api.DeleteExchange(name):
            home.publisher.forget_exchange(name)
            yield "exchange.delete", {"exchange": name}
        case api.Bind(queue, exchange, key):
            yield "exchange.bind", {"queue": queue, "exchange": exchange, "binding_key": key}
        case api.Unbind():
            yield from _unbind(operation)
        case api.DeleteQueue(name, if_empty):
            yield "queue.delete", {"queue": name, "if_empty": if_empty}
        case api.PurgeQueue(name):
            yield from drain(name) if home.is_broker_j else [("queue.purge", {"queue": name})]
    return None


def _unbind(asked: api.Unbind) -> Generator[Question, Fields, None]:
    binding = {"queue": asked.queue, "exchange": asked.exchange, "binding_key": asked.key}
    found = yield "exchange.bound", binding
    for missing in ("queue", "exchange"):
        if found.get(f"{missing}_not_found"):
            raise NotFound(f"no {missing} {binding[missing]!r}")
    if not (found.get("queue_not_matched") or found.get("key_not_matched")):
        yield "exchange.unbind", binding


def _declare_queue(home: Home, asked: api.DeclareQueue) -> _Asking:
    """Declare a queue; brokers use one that is there without a word, so look what it is like."""
    name, durable, exclusive, auto_delete, expires, kind, _ = (getattr(asked, one) for one in asked.__struct_fields__)
    if kind != "classic":
        raise AdapterError(f"queue {name!r}: this broker has no {kind} queues; declare it as classic")
    arguments, told = dict[str, object](), None
    if exclusive and home.is_broker_j:  # without these it is the declaring session's, and the session ends
        arguments = {"qpid.exclusivity_policy": "CONNECTION", "qpid.lifetime_policy": "DELETE_ON_CONNECTION_CLOSE"}
    if expires is not None and home.server.get("product") == "qpid-cpp":  # qpidd
        auto_delete, arguments = True, {"qpid.auto_delete_timeout": max(1, round(expires))}
    elif expires is not None:
        told = api.NO_EXPIRY
    flags = {"durable": durable, "exclusive": exclusive, "auto_delete": auto_delete}
    yield "queue.declare", {"queue": name, "arguments": arguments, **flags}
    flags["auto_delete"] = auto_delete or exclusive
    return _difference(f"queue {name!r}", flags, (yield "queue.query", {"queue": name})) or told


def _declare_exchange(asked: api.DeclareExchange) -> _Asking:
    name, type, flags = asked.name, asked.kind, {"durable": asked.durable, "auto_delete": asked.auto_delete}
    try:
        yield "exchange.declare", {"exchange": name, "type": type, **flags}
    except SessionClosed as closed:
        if closed.code != 530:  # not-allowed: it is there with another type, or its name is reserved
            raise
    found = yield "exchange.query", {"name": name}
    if found.get("not_found"):
        raise AdapterError(f"exchange {name!r} was not declared: the broker does not allow it")
    return _difference(f"exchange {name!r}", {"type": type, "durable": asked.durable}, found)


def _difference(what: str, asked: Fields, found: Fields) -> str | None:
    """Say in what a queue or an exchange that is there differs from the one that was asked for."""
    wrong = [f"{key} is {found.get(key, False)}" for key, value in asked.items() if found.get(key, False) != value]
    return f"{what} is there already: {', '.join(wrong)}" if wrong else None
