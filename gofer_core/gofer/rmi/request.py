"""A request as the agent knows it, from its delivery to its end."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from gofer.messaging.address import Address
from gofer.messaging.document import Request, shown

if TYPE_CHECKING:
    from gofer.messaging.adapter import Delivery
    from gofer.rmi.api import Target

__all__ = [
    "ANSWERING", "BROKER", "ENDED", "QUEUED", "RECEIVED", "RUNNING", "STATES", "STORED", "WRITING", "Received",
    "digest_of",
]  # fmt: skip

#: The states of a request: it is being accepted; it waits for a worker; its method runs; its result is being sent;
#: nothing is left to do.
RECEIVED, QUEUED, RUNNING, ANSWERING, ENDED = range(5)
STATES = ("received", "queued", "running", "answering", "ended")

#: Where a request is kept: by its broker, unacknowledged; it is being written; in the store.
BROKER, WRITING, STORED = range(3)

_encode = msgspec.json.Encoder().encode


class Received:
    """One request. Hooks are given it to read; only the agent's half of gofer.rmi changes it.

    ``document`` is the request as it was sent, ``sn`` its serial number (None: it has none) and ``key`` that number or
    what stands for it. ``classname`` and ``method`` are the names of what is asked for (a class or a module, a method
    or a function); ``api`` is what these mean, None until that is known. ``plugin`` is the plugin it was
    sent to, ``address`` that plugin's address, ``replyto`` the address for replies (None: nobody waits). ``identity``
    is who signed it, ``authenticated`` the method whose user and password it has shown. ``redelivered``: it was
    delivered before; None: the broker cannot tell. ``arrived`` and ``started`` are times of ``time.monotonic()``.
    ``state`` is one of the constants of this module, and changes under the registry's lock alone.

    ``cancelled``: its method should stop, because somebody asked so (``called_off``) or because it takes too long
    (``late`` says so in words). ``on_cancel`` and ``on_expire`` are called then, by any thread. ``beside``: its method
    holds no worker (``async def``). ``returned``: the method has ended; ``overdue``: it has not, though its caller was
    told that it takes too long.
    """

    #: A request that is answered in a child process says True here.
    forked = False

    __slots__ = (
        "_digest", "address", "api", "arrived", "asked_again", "authenticated", "begin_at", "behind", "beside",
        "called_off", "cancelled", "channel", "claimed", "classname", "crossed", "delivery", "document", "due",
        "expires_at", "for_admin", "identity", "interrupted", "keep_at", "kept", "key", "late", "limit", "method",
        "nonce", "on_cancel", "on_expire", "overdue", "progress", "redelivered", "refusal", "replyto", "resolved",
        "returned", "sn", "started", "state", "tell_at", "telling", "told", "tries",
    )  # fmt: skip

    def __init__(
        self,
        document: Request,
        delivery: Delivery,
        channel: Any,
        arrived: float,
        *,
        replyto: Address | None = None,
        identity: str | None = None,
        nonce: Any = None,
        digest: bytes | None = None,
    ) -> None:
        self.document = document
        self.delivery = delivery
        #: A gofer.rmi.server.channel.Channel: what the requests of its queue share.
        self.channel = channel
        self.address: str = channel.service.address
        self.replyto = replyto
        self.identity = identity
        self.nonce = nonce
        self.sn = document.sn
        self.classname, self.method = document.request.classname, document.request.method
        # Without a number of its own a request cannot be recognised when it comes again.
        self.key: str = document.sn or str(uuid.uuid4())
        self.redelivered: bool | None = True if document.again else delivery.redelivered
        self.arrived = arrived
        self.started: float | None = None
        self.state = RECEIVED
        self.api: Target | None = None
        self.authenticated: Target | None = None
        self.for_admin = False  # it is for Admin: answered without a worker, and without the disk
        self.progress: Any = None
        self._digest = digest
        # What somebody has asked of it.
        self.cancelled = self.called_off = self.asked_again = False
        self.late: str | None = None
        self.refusal: Any = None  # why it is rejected
        self.limit: float | None = None  # seconds that its method may take
        self.on_cancel: Callable[[], object] | None = None
        self.on_expire: Callable[[], object] | None = None
        self.behind = False  # it waits for its turn, behind what is on the disk
        self.resolved = False  # its method is found, and a worker shall go on with it
        # How its method runs; ``crossed`` is what a forked method has raised, and how its process told it.
        self.beside = self.returned = self.overdue = False
        self.crossed: tuple[BaseException, bytes] | None = None
        # When the sweep has to look at it (``due``), and for what: to tell its status, to write it down, because its
        # method takes too long, to have it begin.
        self.due = self.tell_at = self.keep_at = self.expires_at = self.begin_at = inf
        # Statuses: which was told last, and whether one may be on its way.
        self.told = 0
        self.telling = False
        # Where it is kept, how often a run of it may have started, whether this run is noted; and whether it is not
        # run again because one of these was cut short.
        self.kept = self.tries = 0
        self.claimed = self.interrupted = False

    @property
    def plugin(self) -> Any:
        """The plugin it was sent to, as it is now: while a request waits, its plugin may be reloaded."""
        return self.channel.service.plugin

    @property
    def target(self) -> str:
        """``Class.method`` as it may stand in a log line, whatever was sent."""
        name = f"{self.classname}.{self.method}"
        words = name.replace(".", "").replace("@", "")
        return name if words.isascii() and words.isidentifier() and len(name) <= 200 else shown(name)

    @property
    def durable(self) -> bool:
        """Whether its replies must survive a restart of the broker.

        A caller that waits repeats its request after a reconnect and is answered again, so its replies need not.
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

    @property
    def digest(self) -> bytes:
        """16 bytes that are equal for the same request published twice, and differ for another one."""
        if self._digest is None:
            self._digest = digest_of(self.document)
        return self._digest

    def get_progress(self) -> Any:
        """Return what its method reports its progress by."""
        return self.progress or self.channel.make_progress(self)

    def run(self) -> None:
        """Run it, as a worker's task."""
        self.channel.run(self)

    def stop(self) -> bool:
        """Tell the running method to stop; False: it was told already. Any thread.

        One that is overdue may be told again.
        """
        if self.called_off and not self.overdue:
            return False
        self.called_off = self.cancelled = True
        stop = self.on_cancel
        if stop is not None:
            stop()
        return True

    def __repr__(self) -> str:
        return f"<request {self.sn}: {self.target}, {STATES[self.state]}>"


def digest_of(document: Request) -> bytes:
    """Return the digest of a request.

    Not over the body: a request that is published again says so in it, and may be signed anew.
    """
    said = (document.routing, document.replyto, document.request, document.data, document.secret, document.pam)
    try:
        text = _encode(said)
    except (UnicodeEncodeError, msgspec.MsgspecError):  # lone surrogates, which only the original's encoder writes
        text = json.dumps(msgspec.to_builtins(said)).encode()
    return hashlib.blake2b(text, digest_size=16).digest()  # of 1 MB in 1 ms, where SHA-256 takes 4
