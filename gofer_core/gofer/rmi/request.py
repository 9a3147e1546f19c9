"""A request as the agent knows it, from its delivery to its end."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from gofer.messaging.address import Address
from gofer.messaging.document import Request, shown

if TYPE_CHECKING:
    from gofer.messaging.adapter import Delivery
    from gofer.rmi.api import Target
    from gofer.rmi.clock import Timer
    from gofer.rmi.receiver import Receiver
    from gofer.rmi.replays import Proof

__all__ = ["DONE", "ENDED", "QUEUED", "RUNNING", "Received", "digest_of"]

QUEUED = "queued"  # accepted, not started
RUNNING = "running"
ENDED = "ended"  # has its result, which no broker has taken yet
DONE = "done"  # nothing left to do for it

_encode = msgspec.json.Encoder().encode


class Received:
    """One accepted request. Hooks are given it to read; only the agent's half of gofer.rmi changes it.

    ``document`` is the request as it was sent, ``sn`` its serial number (None when it has none) and ``key`` what stands
    for that in here. ``api`` is the method it asks for, None until that is known. ``plugin`` is the plugin it was sent
    to, ``address`` that plugin's address, ``replyto`` where replies go, None: nobody waits for one. ``identity`` is who
    signed it, as the authenticator says; ``proof`` tells a copy of it; ``authenticated`` is the method whose user and
    password it has shown. ``redelivered``: it was delivered before; None: the broker cannot tell. ``arrived`` and
    ``started`` are times of ``time.monotonic()``; ``state`` is one of the constants of this module;
    ``cancelled`` is set when it shall not go on: it takes too long (then ``late`` says so in words), or somebody asked
    so (then ``called_off`` is true).
    ``on_cancel`` and ``on_expire`` are called then, by any thread, by the one that asked and when it takes too long;
    ``crossed`` is what a forked method has raised, and how its process told it. ``beside``: its method holds no worker
    (``async def``). ``returned``: that has ended, however its caller was answered; ``overdue``: it has not, though its
    caller was told that it takes too long.
    """

    #: What answers it in a child process says True here.
    forked = False

    __slots__ = (
        "_ended",
        "_started",
        "address",
        "api",
        "arrived",
        "asked_again",
        "authenticated",
        "beside",
        "called_off",
        "cancelled",
        "crossed",
        "custody",
        "delivery",
        "digest",
        "document",
        "identity",
        "interrupted",
        "key",
        "late",
        "must_note",
        "noted",
        "on_cancel",
        "on_expire",
        "overdue",
        "progress",
        "proof",
        "receiver",
        "redelivered",
        "replyto",
        "returned",
        "shed",
        "sn",
        "started",
        "state",
        "statuses",
        "timer",
    )

    def __init__(
        self,
        document: Request,
        delivery: Delivery,
        receiver: Receiver,
        *,
        replyto: Address | None = None,
        identity: str | None = None,
        proof: Proof | None = None,
    ) -> None:
        self.document = document
        self.delivery = delivery
        self.receiver = receiver
        self.address: str = receiver.service.address
        self.replyto = replyto
        self.identity = identity
        self.proof = proof
        self.sn = document.sn
        # Without a number of its own a request cannot be recognised when it comes again.
        self.key: str = document.sn or str(uuid.uuid4())
        self.digest = digest_of(document)
        self.redelivered: bool | None = True if document.again else delivery.redelivered
        self.arrived = time.monotonic()
        self.started: float | None = None
        self.state = QUEUED
        self.cancelled = threading.Event()
        self.api: Target | None = None
        self.authenticated: Target | None = None
        self.statuses: Any = None
        self.progress: Any = None
        self.timer: Timer | None = None
        self.called_off = False
        self.late: str | None = None
        self.beside = False
        self.returned = False
        self.overdue = False
        self.asked_again = False
        # The custody's own: where it is, what the ledger has to know of its run, whether it was begun and
        # is not run again, and what of it is there alone.
        self.custody = 0
        self.must_note = False
        self.noted = False
        self.interrupted = False
        self.shed = 0
        self.on_cancel: Callable[[], object] | None = None
        self.on_expire: Callable[[], object] | None = None
        self.crossed: tuple[BaseException, bytes] | None = None
        self._started = threading.Lock()
        self._ended = threading.Lock()

    @property
    def plugin(self) -> Any:
        """The plugin it was sent to, as it is now: while a request waits, its plugin may be reloaded."""
        return self.receiver.service.plugin

    @property
    def classname(self) -> str:
        """The class or module that is asked for."""
        return self.document.request.classname

    @property
    def method(self) -> str:
        """The method or function that is asked for."""
        return self.document.request.method

    @property
    def target(self) -> str:
        """``Class.method`` as it may stand in a log line, whatever was sent."""
        name = f"{self.classname}.{self.method}"
        words = name.replace(".", "").replace("@", "")
        return name if words.isascii() and words.isidentifier() and len(name) <= 200 else shown(name)

    @property
    def durable(self) -> bool:
        """Whether its replies must survive a restart of the broker.

        Not those to a caller that waits: it asks again when its connection was gone, and is answered again.
        """
        return self.document.wait is None

    @property
    def data(self) -> Any:
        """What the caller has put beside the request, to be given back with each reply."""
        return self.document.data

    @property
    def body(self) -> bytes:
        """The message as it came."""
        return self.delivery.body

    def run(self) -> None:
        """Run it, as a worker's task."""
        self.receiver.execution.run(self)

    def start(self) -> bool:
        """Claim the right to start the request, or to have it never started: True for the first who asks."""
        return self._started.acquire(blocking=False)

    @property
    def has_started(self) -> bool:
        """Whether the right to start it is taken."""
        return self._started.locked()

    @property
    def has_ended(self) -> bool:
        """Whether the right to end it is taken."""
        return self._ended.locked()

    def cancel(self) -> bool:
        """Tell the running method that it shall not go on; False: it was told already. Any thread.

        One that is overdue may be told again.
        """
        if self.called_off and not self.overdue:
            return False
        self.called_off = True
        self.cancelled.set()
        stop = self.on_cancel
        if stop is not None:
            stop()
        return True

    def end(self) -> bool:
        """Claim the right to end the request: True for the first who asks, False for all others."""
        return self._ended.acquire(blocking=False)

    def __repr__(self) -> str:
        return f"<request {self.sn}: {self.target}, {self.state}>"


def digest_of(document: Request) -> bytes:
    """Return 16 bytes that are equal for the same request published twice, and differ for another one.

    Not over the body: one that is published again says so in it, and may be signed anew.
    """
    said = (document.routing, document.replyto, document.request, document.data, document.secret, document.pam)
    try:
        text = _encode(said)
    except (UnicodeEncodeError, msgspec.MsgspecError):  # lone surrogates, which only the original's encoder writes
        text = json.dumps(msgspec.to_builtins(said)).encode()
    return hashlib.sha256(text).digest()[:16]
