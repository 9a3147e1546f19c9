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
        if isinstance(value, str) and (len(value.encode()) > 255 or (not value and field != "key")):
            raise ValueError(f"{field} has 1 to 255 bytes, unlike {value[:60]!r}")


def steps(home: Home, id: int, operation: api.Operation, deleted: Callable[[], None]) -> Steps:
    """Ask what an operation needs that ``check`` has passed; its Done becomes an event.

    Args:
        deleted: called when a queue was deleted.
    """
    broker = home.broker
    done = api.Done(id)
    try:
        match operation:
            case api.DeclareQueue():
                done = api.Done(id, (yield from broker.declare_queue(operation)))
            case api.DeleteQueue(name, if_unused, if_empty):
                yield from broker.look(name)
                if if_unused or if_empty:
                    what = "unused" if if_unused else "empty"
                    raise broker.cannot(
                        f"check that queue {name!r} is {what}", "the queue is kept; delete it without that"
                    )
                yield from broker.delete_queue(name)
                deleted()
            case api.PurgeQueue(name):
                yield from broker.look(name)
                yield from broker.purge(name)
            case api.DeclareExchange():
                done = api.Done(id, (yield from broker.declare_exchange(operation)))
            case api.DeleteExchange(name):
                yield from broker.look_exchange(name)
                yield from broker.delete_exchange(name)
            case api.Bind(queue, exchange, key):
                yield from broker.look(queue)
                yield from broker.look_exchange(exchange)
                yield from broker.bind(queue, exchange, key)
            case api.Unbind(queue, exchange, key):
                yield from broker.look(queue)
                yield from broker.look_exchange(exchange)
                yield from broker.unbind(queue, exchange, key)
    except Refused as refused:
        done = api.Done(id, error=refused.error())
    except MessagingError as error:
        done = api.Done(id, error=error)
    home.events.append(done)
