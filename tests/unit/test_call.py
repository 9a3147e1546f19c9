"""One call: events go in, in any order; what to do next, and one outcome, come out."""

from __future__ import annotations

import asyncio
import calendar
import time
from itertools import permutations
from typing import Any

import pytest
from gofer.errors import AdapterError, Cancelled, DocumentError, NotFound, Rejected, RequestTimeout
from gofer.messaging.adapter import Outcome
from gofer.messaging.document import EXPIRED
from gofer.rmi.client.call import Call, Next
from gofer.rmi.client.notices import Notice, Resubscribed, read_reply
from gofer.rmi.client.options import Options
from gofer.rmi.client.session import complete
from hypothesis import given
from hypothesis import strategies as st
from support.captured import CAPTURED, HexAuthenticator
from support.pure_calls import new_call, notice_of

STATES = ["not sent", "sent", "accepted", "started", "progress"]
ACCEPTED = notice_of(status="accepted")
STARTED = notice_of(status="started")
RESULT = notice_of(result={"retval": 7})
FAILED = notice_of(result={"exval": "t", "xmodule": "builtins", "xclass": "ValueError", "xargs": ["bad"], "xstate": {}})
REJECTED = notice_of(status="rejected", code="hook.refused", description="not today", details={"a": 1})


def progress(completed: Any, total: Any = 3, details: Any = None) -> Notice:
    return notice_of(status="progress", data="mine", total=total, completed=completed, details=details)


def fed(*notices: Notice, **options: Any) -> Call:
    call = new_call("a", **options)
    for notice in notices:
        call.feed(notice)
    return call


def test_a_call_as_it_goes() -> None:
    call = new_call("a", progress=print)
    assert (call.state, call.end) == ("not sent", None)
    call.sent()
    for notice, state in ((ACCEPTED, "accepted"), (STARTED, "started")):
        assert call.feed(notice) is Next.WAIT
        assert (call.state, call.end) == (state, None)
    assert call.feed(progress(1, 3, "one")) is Next.REPORT
    assert call.report == {"sn": "a", "data": "mine", "any": "mine", "total": 3, "completed": 1, "details": "one"}
    assert call.feed(RESULT) is Next.END
    assert call.end
    assert call.outcome() == 7


@pytest.mark.parametrize("order", list(permutations([ACCEPTED, STARTED, progress(1)])))
def test_statuses_in_any_order_never_go_back(order: tuple[Notice, ...]) -> None:
    call = new_call("a")
    states = []
    for notice in order:
        call.feed(notice)
        states.append(STATES.index(call.state))
    assert states == sorted(states)
    assert call.state == "progress"


@pytest.mark.parametrize(
    "later", [ACCEPTED, STARTED, progress(3), RESULT, FAILED, REJECTED], ids=lambda notice: notice.kind
)
@pytest.mark.parametrize(
    ("end", "outcome"),
    [(RESULT, 7), (notice_of(result={}), None), (FAILED, ValueError), (REJECTED, Rejected)],
    ids=["value", "None", "exception", "rejection"],
)
def test_the_first_end_counts_and_nothing_after_it(later: Notice, end: Notice, outcome: Any) -> None:
    call = fed(ACCEPTED, end)
    state, report = call.state, call.report
    for _ in range(2):
        assert call.feed(later) is Next.END
    assert call.end
    assert (call.state, call.report) == (state, report)
    if isinstance(outcome, type):
        for _ in range(2):
            with pytest.raises(outcome):
                call.outcome()
    else:
        assert call.outcome() == outcome


@given(st.lists(st.sampled_from([ACCEPTED, STARTED, RESULT, FAILED, REJECTED, progress(1), progress(2)])))
def test_whatever_comes_there_is_one_outcome(notices: list[Notice]) -> None:
    call = fed(*notices)
    ends = [notice for notice in notices if notice.done]

    assert call.end is (ends[0] if ends else None)
    if not ends:
        assert STATES.index(call.state) == max([0, *(STATES.index(notice.kind) for notice in notices)])
    elif ends[0] is RESULT:
        assert call.outcome() == 7
    else:
        with pytest.raises(ValueError if ends[0] is FAILED else Rejected):
            call.outcome()


def test_a_result_ends_it_even_if_it_came_first() -> None:
    assert fed(RESULT).outcome() == 7


@pytest.mark.parametrize("status", ["running", "", None, "REJECTED", "result"])
def test_an_unknown_status_cannot_be_read(status: str | None) -> None:
    with pytest.raises(DocumentError, match="status"):
        notice_of(status=status)


def test_a_rejection_has_its_code_and_sentence() -> None:
    with pytest.raises(Rejected) as caught:
        fed(REJECTED).outcome()
    assert (caught.value.sn, caught.value.code) == ("a", "hook.refused")
    assert (caught.value.description, caught.value.details) == ("not today", {"a": 1})

    with pytest.raises(Rejected, match=r"^Dog.bark\(\) at 'queue': rejected: rejected \(unknown\) \(request a\)"):
        fed(notice_of(status="rejected")).outcome()


@pytest.mark.parametrize(
    "result",
    [
        {"xclass": "Cancelled", "xmodule": "gofer.errors", "xargs": ["by you"]},
        {"xclass": "Cancelled", "xmodule": "gofer.errors", "xargs": ["by you"], "exval": "t", "retval": 5},
    ],
)
def test_what_has_a_class_or_a_trace_is_an_exception(result: dict[str, Any]) -> None:
    with pytest.raises(Cancelled, match="by you"):
        fed(notice_of(result=result)).outcome()


NO_WORD = "it was sent, and there was no word from the agent (connection: connecting); it may still run"


@pytest.mark.parametrize(
    ("state", "wait", "ttl", "text"),
    [
        ("not sent", 5.0, 5.0, "no result after 5 s: it was not sent: connecting"),
        ("sent", 0.5, 0.5, f"no result after 0.5 s: {NO_WORD} until its ttl of 0.5 s is over"),
        ("sent", None, None, f"no result: {NO_WORD}"),
        # What was accepted is never dropped for its ttl, so none is spoken of.
        ("accepted", 5.0, 5.0, "no result after 5 s: it was accepted by the agent; it may still run"),
        ("started", 5.0, 5.0, "no result after 5 s: it was started by the agent; it may still run"),
    ],
)
def test_a_timeout_says_how_far_the_request_got(state: str, wait: float | None, ttl: float | None, text: str) -> None:
    call = new_call("a", wait=wait, ttl=ttl)
    if state != "not sent":
        call.sent()
    for notice in (ACCEPTED, STARTED)[: max(0, STATES.index(state) - 1)]:
        call.feed(notice)
    error = call.timeout("connecting")

    assert type(error) is RequestTimeout
    assert str(error) == f"Dog.bark() at 'queue': {text} (request a)"
    assert (error.sn, error.wait, error.state, error.report) == ("a", wait, state, None)


def test_a_timeout_reports_the_last_progress() -> None:
    error = fed(ACCEPTED, STARTED, progress(1), progress(2, 3, {"step": "two"}), wait=5).timeout("open")

    assert str(error) == (
        "Dog.bark() at 'queue': no result after 5 s: it was started; "
        "last progress: 2 of 3, details {'step': 'two'}; it may still end (request a)"
    )
    assert error.state == "progress"
    assert isinstance(error.report, dict)
    assert error.report["completed"] == 2


def test_a_timeout_stays_short_whatever_was_reported() -> None:
    error = fed(progress("c" * 100_000, ["t"] * 100_000, "\n" * 100_000)).timeout("open")
    assert len(str(error)) < 500
    assert "\n" not in str(error)


# -- when a request is sent again ----------------------------------------------------------------------------------

OURS = b'{"sn": "a", "version": "2.0", "origin": "queue", "status": "%s"}'
LOST = (Outcome.UNKNOWN, "the connection was lost")
RESUBSCRIBED = Resubscribed(2)
LATE = b'{"sn": "a", "version": "2.0", "origin": "queue", "status": "rejected", "code": "%s", "timestamp": "%s"}'


def sent(**options: Any) -> Call:
    """Make a call whose request was sent, in the first subscription to the reply queue."""
    call = new_call("a", **options)
    call.sent_in = 1
    call.sent()
    return call


@pytest.mark.parametrize("event", [RESUBSCRIBED, LOST])
@pytest.mark.parametrize("heard", [[], [OURS % b"accepted"], [OURS % b"accepted", OURS % b"started"]])
def test_an_agent_of_ours_is_asked_again_whatever_it_has_said(heard: list[bytes], event: Any) -> None:
    """It recognizes the request by its number, and answers as it did, or will."""
    call = sent()
    for body in heard:
        assert call.take(read_reply(body)) is Next.WAIT
    assert call.take(event) is Next.SEND
    assert call.document.get("again")
    assert call.isolated == (event is LOST)


def test_a_request_that_was_sent_in_this_subscription_is_not_sent_again() -> None:
    """The connection was lost, and told first; the request was sent when there was a subscription again."""
    call = sent()
    assert call.take(LOST) is Next.SEND
    call.sent_in = RESUBSCRIBED.number
    call.sent()
    assert call.take(RESUBSCRIBED) is Next.WAIT
    assert not call.isolated


@pytest.mark.parametrize("event", [RESUBSCRIBED, LOST])
@pytest.mark.parametrize("name", ["status-accepted", "status-started", "status-progress-details-1"])
def test_an_agent_of_2_12_that_has_the_request_is_not_asked_again(name: str, event: Any) -> None:
    """It would run it once more. What it sends meanwhile waits in the queue for replies."""
    call = sent()
    assert call.take(read_reply(CAPTURED[name].body)) is Next.WAIT
    assert [call.take(event), call.take(event)] == [Next.WAIT, Next.WAIT]
    assert "again" not in call.document
    assert call.take(read_reply(CAPTURED["result-text"].body)) is Next.END
    assert call.outcome() == CAPTURED["result-text"].document["result"]["retval"]


def test_its_caller_learns_how_far_it_got() -> None:
    call = sent(wait=5)
    call.take(read_reply(CAPTURED["status-started"].body))
    call.take(RESUBSCRIBED)
    assert "it was started by the agent; it may still run" in str(call.timeout("open"))


def test_signed_statuses_of_2_12_tell_it_too() -> None:
    call = sent(authenticator=HexAuthenticator())
    call.take(read_reply(CAPTURED["signed-accepted"].body))
    assert (call.old, call.take(RESUBSCRIBED)) == (True, Next.WAIT)


def test_what_is_not_believed_changes_nothing_and_is_named_by_the_timeout() -> None:
    call = sent(authenticator=HexAuthenticator())
    for _ in range(3):
        assert call.take(read_reply(CAPTURED["result-text"].body)) is Next.WAIT
    assert (call.end, call.state) == (None, "sent")
    assert "no reply that can be verified" in str(call.timeout("open"))
    assert str(call.timeout("open")).endswith("verified: 3 for 'not signed' (request a)")


def test_a_request_that_nobody_takes_or_the_broker_refuses_ends_the_call() -> None:
    with pytest.raises(NotFound, match=r"Dog\.bark\(\) at 'queue': no agent at this address"):
        sent().take((Outcome.RETURNED, "NO_ROUTE"))
    with pytest.raises(AdapterError, match=r"Dog\.bark\(\) at 'queue': the broker refused the request: too large"):
        sent().take((Outcome.REFUSED, "too large"))


@pytest.mark.parametrize("heard", [[], [OURS % b"started"]])
def test_one_that_the_agent_may_have_waits_on_when_the_broker_refuses_it(heard: list[bytes]) -> None:
    call = sent(wait=30)
    for body in heard:
        call.take(read_reply(body))
    call.take(LOST)
    call.sent_before = True  # by the session: in another connection
    call.sent()
    assert call.take((Outcome.REFUSED, "ACCESS_REFUSED")) is Next.WAIT
    assert str(call.timeout("open")).endswith("Since then, the broker has refused: ACCESS_REFUSED (request a)")
    assert call.take(None) is Next.SEND
    assert call.take(read_reply(OURS % b"started")) is Next.WAIT
    assert "refused" not in str(call.timeout("open"))


def test_one_that_an_earlier_process_has_sent_waits_on_when_the_broker_refuses_it() -> None:
    call = Call({"sn": "a", "again": True, "routing": [None, "queue"]}, Options(), lambda: None)
    call.sent()
    assert call.take((Outcome.REFUSED, "ACCESS_REFUSED")) is Next.WAIT


def test_a_repeated_request_that_is_returned_is_sent_again_after_a_pause() -> None:
    """A restarted broker does not know the agent's queue at once."""
    call = sent()
    assert call.take(LOST) is Next.SEND
    call.sent()
    assert call.take((Outcome.RETURNED, "NO_ROUTE")) is Next.WAIT
    assert call.deadline is not None
    assert call.due is not None
    assert time.monotonic() < call.due < call.deadline
    assert call.take(None) is Next.SEND
    assert call.due == call.deadline


def test_a_reply_meanwhile_ends_that_pause() -> None:
    call = sent()
    call.take(LOST)
    call.take((Outcome.RETURNED, "NO_ROUTE"))
    assert call.take(read_reply(OURS % b"accepted")) is Next.WAIT
    assert call.due == call.deadline


def test_nothing_is_sent_again_after_its_time() -> None:
    call, accepted = sent(wait=30, ttl=0.001), sent(wait=30, ttl=0.001)
    over = time.monotonic() + 0.001
    while time.monotonic() <= over:
        pass
    assert call.take(LOST) is Next.WAIT
    accepted.take(read_reply(OURS % b"accepted"))  # it is not dropped for its ttl any more
    assert accepted.take(LOST) is Next.SEND


def test_a_request_that_was_late_by_the_agents_clock_is_sent_once_more() -> None:
    there = calendar.timegm(time.gmtime()) + 1000
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(there))
    late = read_reply(LATE % (EXPIRED.encode(), stamp.encode()))
    call = sent()
    assert call.take(late) is Next.SEND
    assert 990 < call.ahead < 1010
    assert call.take(late) is Next.END
    with pytest.raises(Rejected):
        call.outcome()


# -- callers with threads ------------------------------------------------------------------------------------------


def test_a_thread_runs_no_coroutine_that_needs_a_loop() -> None:
    async def suspended() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="has suspended: it belongs to an event loop"):
        complete(suspended())


@pytest.mark.parametrize("error", [StopIteration(7), StopAsyncIteration(7), ValueError("7"), RuntimeError("7")])
def test_a_thread_raises_what_a_coroutine_has_raised(error: Exception) -> None:
    async def failed() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        complete(failed())
    assert caught.value is error
