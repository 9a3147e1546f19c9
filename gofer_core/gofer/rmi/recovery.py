"""Requests that the ledger holds, taken up again: after a restart, and when somebody asks for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from gofer.errors import ConfigError, DocumentError, Interrupted
from gofer.messaging.adapter import Delivery
from gofer.messaging.address import Address
from gofer.rmi import records
from gofer.rmi.ledger import Ledger, Work
from gofer.rmi.request import Received
from gofer.rmi.shedding import Bodies, decode, silenced

if TYPE_CHECKING:
    from gofer.rmi.receiver import Receiver

__all__ = ["go_on", "read", "recover", "revived"]

log = logging.getLogger(__name__)

_CHUNK = 20  # rows read at a time


def recover(receiver: Receiver, ledger: Ledger, take_up: Callable[[Received, records.Row], bool]) -> int:
    """Read what the ledger holds for a plugin, and have each taken up; tell how many were.

    Raises:
        Unavailable: the ledger cannot be read.
    """
    after, count = 0, 0
    while rows := ledger.call(records.open_rows(receiver.service.name, after, _CHUNK)):
        for _, row in rows:
            request = read(row, receiver)
            if request is not None and take_up(request, row):
                count += 1
        after = rows[-1][0]
    return count


def read(row: records.Row, receiver: Receiver) -> Received | None:
    """Make a request of what stands in the ledger; None: that cannot be read, which the log says."""
    try:
        document = decode(row.body)
        replyto = Address.parse(document.replyto) if document.replyto else None
    except (DocumentError, ConfigError) as bad:
        log.error("plugin %s: a request in the ledger cannot be read, and stays there: %s", receiver.service.name, bad)
        return None
    delivery = Delivery(0, row.body, True, None, None)
    request = Received(document, delivery, receiver, replyto=replyto, identity=row.identity)
    request.key = row.key
    request.digest = row.digest
    return request


def go_on(request: Received, row: records.Row, bodies: Bodies) -> None:
    """Go on with a request that was taken up: run it, or answer it."""
    receiver = request.receiver
    if row.result is not None:
        if request.start():
            receiver.execution.answer_again(request, row.result)
    elif row.runs:
        if request.start():
            request.interrupted = request.noted = True
            receiver.execution.fail(
                request,
                Interrupted(f"{request.target}() was started, and its agent died; how far it got is not known"),
            )
    else:
        bodies.settle(request)
        receiver.proceed(request, None)


def revived(key: str) -> Work:
    """Read, for :meth:`Ledger.call`, a request that shall be sent or run again, and write that it shall."""
    return records.revive(key, silenced)
