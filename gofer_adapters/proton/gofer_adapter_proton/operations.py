"""Operations on queues and exchanges, as any broker does them."""

from __future__ import annotations

from collections.abc import Callable

from gofer.errors import MessagingError
from gofer.messaging import adapter as api

from gofer_adapter_proton.errors import Refused
from gofer_adapter_proton.links import Home, Steps

__all__ = ["check", "steps"]

_KINDS = {api.DeclareQueue: ("classic", "quorum"), api.DeclareExchange: ("direct", "topic", "fanout")}


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
        if isinstance(value, str) and (len(value.encode()) > 255 or "\0" in value or (not value and field != "key")):
            raise ValueError(f"{field} has 1 to 255 bytes, none of them 0, unlike {value[:60]!r}")


def steps(home: Home, id: int, operation: api.Operation, deleted: Callable[[], None]) -> Steps:
    """Ask what an operation needs that ``check`` has passed; its Done becomes an event.

    Args:
        deleted: called when a queue was deleted.
    """
    broker, value, error = home.broker, None, None
    try:
        match operation:
            case api.DeleteQueue(name) | api.PurgeQueue(name) | api.CheckQueue(name):
                yield from broker.look(name)
            case api.DeleteExchange(name):
                yield from broker.look_exchange(name)
            case api.Bind(queue, exchange) | api.Unbind(queue, exchange):
                yield from broker.look(queue)
                yield from broker.look_exchange(exchange)
        if isinstance(operation, api.DeleteQueue) and (operation.if_unused or operation.if_empty):
            what = "unused" if operation.if_unused else "empty"
            raise broker.cannot(f"check that queue {operation.name!r} is {what}", "the queue is kept")
        value = yield from broker.ask(operation)
        if isinstance(operation, api.DeleteQueue):
            deleted()
    except (Refused, MessagingError) as failed:
        error = failed.error() if isinstance(failed, Refused) else failed
    home.events.append(api.Done(id, value, error))
