"""What a link sends: messages, and what becomes of deliveries. None of it ever waits."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from gofer.errors import ConnectionLost, MessagingError
from gofer.messaging.adapter.base import Adapter, Delivery, Outcome
from gofer.messaging.address import Address
from gofer.messaging.carrier import Carrier, Settle
from gofer.messaging.pump import Pump

__all__ = ["Sending"]

_T = TypeVar("_T")

#: Seconds after which a connection that nobody has looked at is looked at before something is sent.
_SILENCE = 2.0
#: Bytes that may wait for the socket before senders wait too; and messages that may wait for the adapter.
_OUTBOX = 8 * 1024 * 1024
_QUEUED = 1000
#: Seconds that an acknowledgement may wait for company.
_SOON = 0.002


class Sending:
    """The sending half of a link. Usable from any thread, and from signal handlers."""

    def __init__(self, carrier: Carrier, pump: Pump) -> None:
        self._carrier = carrier
        self._pump = pump
        self._tokens = itertools.count(1)
        carrier.unwanted = self.release

    # -- messages -----------------------------------------------------------------------------------------------

    def offer(
        self,
        address: Address,
        body: bytes,
        *,
        ttl: float | None = None,
        isolated: bool = False,
        durable: bool = True,
        confirm: bool = True,
        settled: Settle | None = None,
        room: bool = True,
    ) -> int:
        """Send a message if that is possible now; never waits.

        Args:
            ttl: seconds after which the broker may drop it.
            isolated, durable, confirm: see :meth:`Adapter.send`.
            settled: a handler, called once with the outcome and the broker's reason (LOST when the connection dies);
                without ``confirm`` perhaps never, and never after ``forget``.
            room: False: send it also when the broker is blocked or the outbox is full.

        Returns:
            The message's number, for ``forget``; 0 when it is not possible to send at the moment (no connection,
            blocked, outbox full): nothing was sent.

        Raises:
            ValueError, TypeError: the message is wrong in itself.
        """
        carrier = self._carrier
        lock = carrier.lock
        if lock._is_owned():  # asked directly, here and below, what `inside` tells: each message comes this way
            return self._later(address, body, (ttl, isolated, durable, confirm), settled, room=room)
        with lock:
            if carrier.away:
                return self._later(address, body, (ttl, isolated, durable, confirm), settled, room=room)
            adapter = carrier.adapter
            if adapter is not None and monotonic() - carrier.read_at > _SILENCE:
                # This process may have stood still for long, and the broker have hung up.
                carrier.steady(adapter, partial(carrier.read, adapter))
                carrier.bell.ring()
                adapter = carrier.adapter
            if adapter is None or (room and (adapter.blocked is not None or adapter.unwritten > _OUTBOX)):
                return 0
            token = next(self._tokens)
            if confirm or settled is not None:
                carrier.sends[token] = settled
            try:
                self._write(
                    adapter,
                    False,
                    adapter.send,
                    token,
                    address,
                    body,
                    ttl=ttl,
                    isolated=isolated,
                    durable=durable,
                    confirm=confirm,
                )
            except (ValueError, TypeError):
                carrier.sends.pop(token, None)
                raise
            carrier.used_at = monotonic()
            waiting = adapter.unwritten
        if carrier.queue:
            carrier.drain()
        if waiting and not self._pump.mine:
            carrier.bell.ring()
        return token

    def forget(self, token: int) -> None:
        """Hear no more of a message that was sent without ``confirm``. An unknown one is ignored."""
        if self._carrier.sends.pop(token, None) is not None:
            self._use(self._forget, token)

    @property
    def possible(self) -> bool:
        """Whether ``offer`` would send now."""
        adapter = self._carrier.adapter
        if adapter is None:
            return False
        if self._carrier.away:
            return not self._crowded()
        return adapter.blocked is None and adapter.unwritten <= _OUTBOX

    # -- deliveries ---------------------------------------------------------------------------------------------

    def accept(self, delivery: Delivery, *, at_once: bool = False) -> None:
        """Tell the broker that a delivery is done with. A stale one is ignored.

        Args:
            at_once: it does not wait for company, nor for somebody to drive.
        """
        self._use(self._accept_at_once if at_once else self._accept_soon, delivery)

    def release(self, delivery: Delivery) -> None:
        """Give a delivery back to its queue. A stale one is ignored."""
        self._use(self._release, delivery)

    def reject(self, delivery: Delivery) -> None:
        """Have the broker drop or dead-letter a delivery. A stale one is ignored."""
        self._use(self._reject, delivery)

    def _accept_soon(self, adapter: Adapter, delivery: Delivery) -> None:
        self._write(adapter, True, adapter.accept, delivery)

    def _accept_at_once(self, adapter: Adapter, delivery: Delivery) -> None:
        self._write(adapter, False, adapter.accept, delivery)

    def _release(self, adapter: Adapter, delivery: Delivery) -> None:
        self._write(adapter, False, adapter.release, delivery)

    def _reject(self, adapter: Adapter, delivery: Delivery) -> None:
        self._write(adapter, False, adapter.reject, delivery)

    def _forget(self, adapter: Adapter, token: int) -> None:
        adapter.forget(token)

    # -- inside -------------------------------------------------------------------------------------------------

    def _use(self, work: Callable[[Adapter, _T], None], about: _T) -> None:
        """Do something quick with the adapter of the moment, now or as soon as it is free."""
        carrier = self._carrier
        lock = carrier.lock
        if lock._is_owned():
            carrier.queue.append((partial(self._use_now, work, about), 0))
            return
        with lock:
            if carrier.away:
                carrier.queue.append((partial(self._use_now, work, about), 0))
            elif (adapter := carrier.adapter) is not None:
                work(adapter, about)
        if carrier.queue:
            carrier.drain()

    def _use_now(self, work: Callable[[Adapter, _T], None], about: _T) -> None:
        if (adapter := self._carrier.adapter) is not None:
            work(adapter, about)

    def _crowded(self) -> bool:
        return len(self._carrier.queue) > _QUEUED or self._carrier.queued > _OUTBOX

    def _later(
        self,
        address: Address,
        body: bytes,
        how: tuple[float | None, bool, bool, bool],
        settled: Settle | None,
        *,
        room: bool,
    ) -> int:
        """Send a message as soon as the adapter is free: somebody asks the broker something, or this thread uses it."""
        carrier = self._carrier
        meant = carrier.adapter
        if meant is None or (room and self._crowded()):
            return 0
        token = next(self._tokens)
        ttl, isolated, durable, confirm = how
        wanted = settled is not None
        if confirm or wanted:
            carrier.sends[token] = settled

        def send() -> None:
            if carrier.adapter is not meant or (wanted and token not in carrier.sends):
                return  # it was LOST with its connection, or nobody waits for it any more
            try:
                options = {"ttl": ttl, "isolated": isolated, "durable": durable, "confirm": confirm}
                self._write(meant, False, meant.send, token, address, body, **options)
            except (ValueError, TypeError) as wrong:
                carrier.sends.pop(token, None)
                if settled is not None:
                    carrier.todo.append(partial(settled, Outcome.REFUSED, str(wrong)))

        carrier.queue.append((send, len(body)))
        carrier.bell.ring()
        return token

    def _write(self, adapter: Adapter, soon: bool, encode: Callable[..., None], *what: Any, **how: Any) -> None:
        """Encode something, and write it: at once, or ``soon``."""
        carrier = self._carrier
        try:
            encode(*what, **how)
            if soon:
                # It goes with whatever is written next: a packet for each acknowledgement costs more than it is worth.
                if carrier.flush_at == 0.0:
                    carrier.flush_at = monotonic() + _SOON
                    if not self._pump.mine:
                        carrier.bell.ring()
            elif self._pump.mine:
                carrier.flush_at = monotonic()  # the pumper may have more to write, and flushes before it waits again
            else:
                carrier.flush(adapter)
        except MessagingError as lost:
            carrier.drop(adapter, lost)
        except (ValueError, TypeError):  # a message that is wrong in itself: nothing was written
            raise
        except BaseException:
            carrier.drop(adapter, ConnectionLost("interrupted while writing"))
            raise
