"""One call that waits for its result, as a flow without input or output.

:func:`flow` is a generator: it yields what is to be done next, is sent what came of that, and returns when the call's
conversation is done. Synchronous and asynchronous callers drive the same flow, each in their own way.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator
from time import monotonic, time
from typing import Any, Final, NamedTuple

from msgspec import to_builtins

from gofer.errors import AdapterError, ConnectionLost, DocumentError, MessagingError, NotFound
from gofer.messaging.adapter import Outcome
from gofer.messaging.auth import verify
from gofer.messaging.document import EXPIRED, Reply, seconds_of
from gofer.rmi.conversation import Conversation
from gofer.rmi.options import Options, Report

__all__ = ["INTERRUPTED", "Call", "Hear", "Heard", "Listen", "Send", "Step", "Tell", "advance", "flow", "no_agent"]

log = logging.getLogger(__name__)

#: Seconds between two tries to reach an agent's queue that a restarted broker does not know yet.
_RETRY = 0.2
#: What an inbox holds when replies may have been lost since the call was sent: its connection, or its reply queue, was
#: gone for a while.
INTERRUPTED: Final = object()


class Listen(NamedTuple):
    """Have the reply queue subscribed to, by ``deadline`` (``time.monotonic()``). Sent back: nothing."""

    deadline: float | None


class Send(NamedTuple):
    """Send the request. ``isolated``: where it can harm no other. Sent back: nothing."""

    body: bytes
    ttl: float | None
    isolated: bool
    deadline: float | None


class Hear(NamedTuple):
    """Take what comes next into the call's inbox. Sent back: that, or None when nothing has come by ``deadline``."""

    deadline: float | None


class Tell(NamedTuple):
    """Call the caller's progress callback. Sent back: nothing."""

    report: Report


Step = Listen | Send | Hear | Tell


class Heard(NamedTuple):
    """A reply, and the body that it was read from: for the one who verifies it."""

    reply: Reply
    body: bytes


class Call:
    """A call that waits: its conversation, and the inbox that handlers fill. ``wake`` tells the one who waits so."""

    __slots__ = ("ahead", "conversation", "inbox", "sent_in", "token", "wake")

    def __init__(self, sn: str, wake: Callable[[], None]) -> None:
        self.conversation = Conversation(sn)
        self.inbox: deque[Any] = deque()
        self.wake = wake
        #: The message's number at the link, and which subscription to the reply queue it was sent in.
        self.token = 0
        self.sent_in = 0
        #: By how many seconds the agent's clock is known to be ahead of ours.
        self.ahead = 0.0

    def settled(self, outcome: Outcome, reason: str) -> None:
        """Hear from the broker what became of the request."""
        if outcome is not Outcome.CONFIRMED:
            self.put((outcome, reason))

    def put(self, event: Any) -> None:
        """Put something into the inbox: a Heard, an outcome with its reason, or INTERRUPTED."""
        self.inbox.append(event)
        self.wake()


def flow(
    call: Call,
    document: dict[str, Any],
    address: str,
    options: Options,
    *,
    encode: Callable[[float | None], bytes],
    state: Callable[[], str],
) -> Generator[Step, Any, None]:
    """Take a call from its request to its end, whose outcome is then to be had of its conversation.

    Args:
        encode: writes the document as it is now, for so long a time to live, and signs it if it is to be signed.
        state: tells how the connection is, in words.

    Raises:
        RequestTimeout: no result within ``options.wait``.
        NotFound: nobody listens at the address.
        MessagingError: what taking a step raised.
    """
    conversation = call.conversation
    asked = document["request"]
    method = f"{asked['classname']}.{asked['method']}"
    conversation.about(method, address)
    started = monotonic()
    deadline = None if options.wait is None else started + options.wait
    expires = None if options.ttl is None else started + options.ttl

    def request(*, isolated: bool = False) -> Send:
        ends = deadline if expires is None or conversation.accepted else expires
        ttl = None if ends is None else max(0.001, ends - monotonic())
        return Send(encode(ttl), ttl, isolated, deadline)

    try:
        yield Listen(deadline)
        yield request()
        conversation.reached("sent")
        while not conversation.done:
            event = yield Hear(deadline)
            if event is None:
                raise conversation.timeout(options.wait, options.ttl or options.wait, state())
            if isinstance(event, Heard):
                believed = _believed(event, options, call)
                if believed and _in_time(deadline, expires) and _told_the_time(event.reply, call):
                    yield request()  # it was not run: once more, by the agent's clock
                    continue
                report = conversation.feed(event.reply) if believed else None
                if report is not None and options.progress is not None:
                    yield Tell(report)
                continue
            isolated = False
            if conversation.old:
                continue  # it has the request, and would run it once more; what it sends waits in our queue
            if event is not INTERRUPTED:
                outcome, reason = event
                _refused(outcome, reason, f"{method}() at {address!r}", again="again" in document)
                isolated = outcome is Outcome.UNKNOWN  # it may have been the fault of this one: then it is told alone
                if outcome is Outcome.RETURNED:
                    # The broker was restarted and forgot the queue: its agent needs a moment to declare it again.
                    pause = monotonic() + _RETRY
                    event = yield Hear(pause if deadline is None else min(pause, deadline))
                    if event is not None:
                        call.inbox.appendleft(event)
            # An agent that knows the request answers as it did, or will; none is run again for being asked again.
            document["again"] = True
            if _in_time(deadline, None if conversation.accepted else expires):
                yield request(isolated=isolated)
    except ConnectionLost as lost:
        if deadline is None or monotonic() < deadline:
            raise
        why = str(lost) if conversation.state == "not sent" else state()
        raise conversation.timeout(options.wait, options.ttl or options.wait, why) from lost


def advance(
    steps: Generator[Step, Any, None], came: object = None, *, error: MessagingError | None = None
) -> Step | None:
    """Return the next step of a flow, None when it has ended.

    Args:
        came: what came of the last step, None before the first.
        error: what taking it raised, instead; the flow decides what that means.
    """
    try:
        return steps.send(came) if error is None else steps.throw(error)
    except StopIteration:
        return None
    finally:
        del error  # else it, raised again, would hold this frame, and this frame it: and so the agent that called


def no_agent(reason: str) -> str:
    """Say why the broker returned a request; ``reason`` is the broker's own word."""
    why = "" if reason in ("", "NO_ROUTE") or "no queue" in reason else f" ({reason})"
    return (
        f"no agent at this address: the broker has no such queue{why}. "
        "Is goferd running there? Check [model] queue in the plugin's descriptor"
    )


def _refused(outcome: Outcome, reason: str, called: str, *, again: bool) -> None:
    if outcome is Outcome.REFUSED:
        raise AdapterError(f"{called}: the broker refused the request: {reason}")
    if outcome is Outcome.RETURNED and not again:
        raise NotFound(f"{called}: {no_agent(reason)}")


def _in_time(*limits: float | None) -> bool:
    now = monotonic()
    return all(limit is None or now < limit for limit in limits)


def _told_the_time(reply: Reply, call: Call) -> bool:
    """Note, the first time, what a rejection for being late says of the agent's clock; tell whether there is news."""
    if reply.status != "rejected" or reply.code != EXPIRED or call.ahead:
        return False
    there = seconds_of(reply.timestamp)
    if there is None:
        return False
    call.ahead = there + 0.5 - time()  # it is in whole seconds
    log.info("the agent's clock is %.0f s ahead of ours; %s is sent again", call.ahead, call.conversation.sn)
    return True


def _believed(heard: Heard, options: Options, call: Call) -> bool:
    if options.authenticator is None:
        return True
    try:
        verify(heard.body, options.authenticator, to_builtins(heard.reply))
    except DocumentError as bad:
        # Not from our agent, as far as anybody can tell: it does not end the call.
        if call.conversation.disbelieve(str(bad.details or bad)):
            log.warning("a reply to %s is not believed: %s", call.conversation.sn, bad)
        return False
    return True
