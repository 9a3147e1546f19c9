"""Operations on queues and exchanges."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from gofer.errors import AdapterError, MessagingError, NotFound
from gofer.messaging import adapter as api

from gofer_adapter_qpid.amqp_0_10 import SessionClosed
from gofer_adapter_qpid.sessions import Fields, Home, Steps, error_of

__all__ = ["check", "steps"]

_KINDS = {api.DeclareQueue: ("classic", "quorum"), api.DeclareExchange: ("direct", "topic", "fanout")}
_NOT_FOUND, _NOT_ALLOWED = 404, 530

_Asking = Generator[tuple[str, Fields], Fields, str | None]


def check(operation: api.Operation) -> None:
    """Refuse a name, a kind or a prefetch that no broker can take.

    Raises:
        ValueError: the text says which, and what is allowed.
    """
    for field in operation.__struct_fields__:
        value = getattr(operation, field)
        if field == "prefetch" and not 1 <= value <= 65535:
            raise ValueError(f"prefetch is between 1 and 65535, not {value}")
        if field == "kind" and value not in (kinds := _KINDS[type(operation)]):
            raise ValueError(f"the kind is one of {', '.join(kinds)}, not {value!r}")
        if isinstance(value, str) and (len(value.encode()) > 255 or (not value and field != "key")):
            raise ValueError(f"{field} has 1 to 255 bytes, unlike {value[:60]!r}")


def steps(home: Home, id: int, operation: api.Operation, proven: dict[str, bytes]) -> Steps:
    """Ask what an operation needs that ``check`` has passed; its Done becomes an event.

    ``proven`` are the exchanges that exist, as far as is known; one that is deleted is taken out.
    """
    try:
        done = api.Done(id, (yield from _ask(operation, home.server, proven)))
    except (SessionClosed, MessagingError) as error:
        done = api.Done(id, error=error_of(error) if isinstance(error, SessionClosed) else error)
    home.events.append(done)


def _ask(operation: api.Operation, server: Fields, proven: dict[str, bytes]) -> _Asking:
    match operation:
        case api.DeclareQueue():
            return (yield from _declare_queue(operation, server))
        case api.DeleteQueue(name, if_unused, if_empty):
            yield "queue.delete", {"queue": name, "if_unused": if_unused, "if_empty": if_empty}
        case api.PurgeQueue(name):
            yield "queue.purge", {"queue": name}
        case api.DeclareExchange():
            return (yield from _declare_exchange(operation))
        case api.DeleteExchange(name):
            yield "exchange.delete", {"exchange": name}
            proven.pop(name, None)
        case api.Bind(queue, exchange, key):
            yield "exchange.bind", {"queue": queue, "exchange": exchange, "binding_key": key}
        case api.Unbind(queue, exchange, key):
            binding = {"queue": queue, "exchange": exchange, "binding_key": key}
            found = yield "exchange.bound", binding
            for missing, name in (("queue", queue), ("exchange", exchange)):
                if found.get(f"{missing}_not_found"):
                    raise NotFound(f"no {missing} {name!r}")
            if not (found.get("queue_not_matched") or found.get("key_not_matched")):
                yield "exchange.unbind", binding
    return None


def _declare_queue(asked: api.DeclareQueue, server: Fields) -> _Asking:
    """Declare a queue; brokers use one that is there without a word, so look what it is like."""
    name, durable, exclusive, auto_delete, expires, kind = (getattr(asked, each) for each in asked.__struct_fields__)
    if kind != "classic":
        raise AdapterError(f"queue {name!r}: this broker has no {kind} queues; declare it as classic")
    product, arguments, told = str(server.get("product")), {}, None
    if exclusive and "Broker-J" in product:  # without these it is the declaring session's, and the session ends
        arguments = {"qpid.exclusivity_policy": "CONNECTION", "qpid.lifetime_policy": "DELETE_ON_CONNECTION_CLOSE"}
    if expires is not None and product == "qpid-cpp":
        auto_delete, arguments = True, {"qpid.auto_delete_timeout": max(1, round(expires))}
    elif expires is not None:
        told = f"queue {name!r} does not expire: this broker cannot do that; it stays until somebody deletes it"
    flags = {"durable": durable, "exclusive": exclusive, "auto_delete": auto_delete}
    yield "queue.declare", {"queue": name, "arguments": arguments, **flags}
    found = yield "queue.query", {"queue": name}
    flags["auto_delete"] = auto_delete or exclusive
    return _difference(f"queue {name!r}", flags, found) or told


def _declare_exchange(asked: api.DeclareExchange) -> _Asking:
    name, type, flags = asked.name, asked.kind, {"durable": asked.durable, "auto_delete": asked.auto_delete}
    try:
        yield "exchange.declare", {"exchange": name, "type": type, **flags}
    except SessionClosed as closed:
        if closed.code != _NOT_ALLOWED:
            raise
    found = yield "exchange.query", {"name": name}
    if found.get("not_found"):
        raise AdapterError(f"exchange {name!r} was not declared: the broker does not allow it")
    return _difference(f"exchange {name!r}", {"type": type, "durable": asked.durable}, found)


def _difference(what: str, asked: Fields, found: Fields) -> str | None:
    """Say in what a queue or an exchange that is there differs from the one that was asked for."""
    wrong = [f"{key} is {found.get(key, False)}" for key, value in asked.items() if found.get(key, False) != value]
    return f"{what} is there already: {', '.join(wrong)}" if wrong else None
