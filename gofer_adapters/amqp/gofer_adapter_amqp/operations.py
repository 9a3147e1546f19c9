"""Operations on queues and exchanges."""

from __future__ import annotations

import re
from collections.abc import Generator

from amqp import spec
from amqp.serialization import loads
from gofer.errors import AdapterError, MessagingError
from gofer.messaging import adapter as api

from gofer_adapter_amqp.broker import DIFFERS, LOCKED, NOT_FOUND, Closed, Dialect
from gofer_adapter_amqp.channel import Channels, Method, Question, Steps

__all__ = ["steps"]

# RabbitMQ's words for the first property of a queue that is not as declared; the value, where it is a number.
_CURRENT = re.compile(r"arg '([^']+)' .* current is (?:'classic'|none|'true'|'false'|the value '(-?\d+)'.*)$")

_Steps = Generator[Question, bytes, str | None]


def steps(home: Channels, id: int, operation: api.Operation, proven: set[str]) -> Steps:
    """Ask what an operation needs that ``ask`` has passed; its Done becomes an event.

    ``proven`` is the set of exchanges that exist, as far as is known, and is kept.
    """
    try:
        done = api.Done(id, (yield from _ask(operation, home.dialect, proven)))
    except (Closed, MessagingError) as error:
        done = api.Done(id, error=error.error() if isinstance(error, Closed) else error)
    home.events.append(done)


def _ask(operation: api.Operation, dialect: Dialect, proven: set[str]) -> _Steps:
    match operation:
        case api.DeclareQueue(name, durable, exclusive, auto_delete):
            # Broker-J keeps an exclusive queue that is durable after its connection has gone.
            lasting = durable and not (exclusive and dialect.broker_j)
            flags, arguments = (False, lasting, exclusive, auto_delete), dialect.queue_arguments(operation)
            bind = [_bind(name, *binding) for binding in operation.bindings]
            difference = yield from _declare(_queue(name, *flags, arguments=arguments), _queue(name), *bind)
            proven.update(exchange for exchange, _ in operation.bindings)
            cannot_expire = operation.expires is not None and "x-expires" not in arguments
            return difference or (api.NO_EXPIRY if cannot_expire else None)
        case api.DeleteQueue(name, if_empty):
            # RabbitMQ deletes a queue that does not exist without a word.
            (_, messages, _), _ = loads("sll", (yield _queue(name)), 4)
            if if_empty and messages:
                raise AdapterError(f"queue {name!r} is not empty: {messages} message(s) wait in it")
            if if_empty and dialect.rabbitmq:
                yield from _check_classic(name)
            yield spec.Queue.Delete, "Bsbbb", (0, name, False, if_empty, False)
        case api.CheckQueue(name):
            (_, _, consumers), _ = loads("sll", (yield _queue(name)), 4)
            return None if consumers else f"queue {name!r} has no consumer"
        case api.PurgeQueue(name):
            yield spec.Queue.Purge, "Bsb", (0, name, False)
        case api.DeclareExchange(name, kind, durable, auto_delete):
            if dialect.broker_j and (yield from _exists(_exchange(name))):
                return None  # nor does it tell what is different
            difference = yield from _declare(_exchange(name, kind, False, durable, auto_delete), _exchange(name))
            proven.add(name)
            return difference
        case api.DeleteExchange(name):
            yield _exchange(name)
            yield spec.Exchange.Delete, "Bsbb", (0, name, False, False)
            proven.discard(name)
        case api.Bind(queue, exchange, key):
            yield _bind(queue, exchange, key)
            proven.add(exchange)
        case api.Unbind(queue, exchange, key):
            # RabbitMQ says nothing of a queue or an exchange that does not exist.
            yield _queue(queue)
            yield _exchange(exchange)
            yield from _exists((spec.Queue.Unbind, "BsssF", (0, queue, exchange, key, {})))
    return None


# Both ask whether there is one, or declare it with the flags passive, durable and so on.
def _queue(name: str, *flags: bool, arguments: dict[str, object] | None = None) -> Method:
    return spec.Queue.Declare, "BsbbbbbF", (0, name, *(flags or (True, False, False, False)), False, arguments or {})


def _bind(queue: str, exchange: str, key: str) -> Method:
    return spec.Queue.Bind, "BsssbF", (0, queue, exchange, key, False, {})


def _exchange(name: str, kind: str = "", *flags: bool) -> Method:
    return spec.Exchange.Declare, "BssbbbbbF", (0, name, kind, *(flags or (True, False, False)), False, False, {})


def _exists(question: Question) -> Generator[Question, bytes, bool]:
    """Ask, and return whether what is asked about was found."""
    try:
        yield question
    except Closed as closed:
        if closed.code != NOT_FOUND:
            raise
        return False
    return True


def _declare(declare: Method, look: Method, *more: Method) -> _Steps:
    """Declare, and ask more in the same write; return the broker's sentence when it is there with other properties."""
    try:
        yield [declare, *more]
    except Closed as closed:
        if closed.code not in (DIFFERS, LOCKED):
            raise
        try:
            yield look
        except Closed as missing:
            # Nothing is there that would differ: the properties themselves are refused.
            raise (closed if missing.code == NOT_FOUND else missing) from None
        if more:
            yield list(more)
        return closed.text
    return None


def _check_classic(name: str) -> _Steps:
    """Make sure that a queue is a classic one, from RabbitMQ's words about a type that no queue can have.

    It names the first property that is not as declared, so arguments that it names before are declared as they are.

    Raises:
        AdapterError: it is not, or RabbitMQ's words do not tell.
    """
    arguments: dict[str, object] = {"x-queue-type": "to be told the type"}
    while True:
        try:
            yield _queue(name, False, True, False, False, arguments=arguments)
        except Closed as closed:
            found = _CURRENT.search(closed.text)
            if closed.code == LOCKED or (found is not None and found[2] is None):
                return None  # it is exclusive, or has other flags: only a classic queue can
            if found is not None and found[1] not in arguments:
                arguments[found[1]] = int(found[2])
                continue
        raise AdapterError(f"queue {name!r} is kept: the broker can check of classic queues only that they are empty")
