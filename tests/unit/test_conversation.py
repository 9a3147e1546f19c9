"""The conversation about one request: replies go in, in any order; one outcome comes out."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from gofer.errors import Cancelled, Rejected, RequestTimeout
from gofer.messaging.document import Reply, Result
from gofer.rmi.conversation import Conversation
from hypothesis import given
from hypothesis import strategies as st

STATES = ["not sent", "sent", "accepted", "started", "progress"]
ACCEPTED = Reply(sn="a", status="accepted")
STARTED = Reply(sn="a", status="started")
RESULT = Reply(sn="a", result=Result(retval=7))
FAILED = Reply(sn="a", result=Result(exval="t", xmodule="builtins", xclass="ValueError", xargs=["bad"], xstate={}))
REJECTED = Reply(sn="a", status="rejected", code="hook.refused", description="not today", details={"a": 1})


def progress(completed: Any, total: Any = 3, details: Any = None) -> Reply:
    return Reply(sn="a", status="progress", data="mine", total=total, completed=completed, details=details)


def fed(*replies: Reply) -> Conversation:
    conversation = Conversation("a")
    for reply in replies:
        conversation.feed(reply)
    return conversation


def test_a_call_as_it_goes() -> None:
    conversation = Conversation("a")
    assert (conversation.state, conversation.done) == ("not sent", False)
    conversation.reached("sent")
    for reply, state in ((ACCEPTED, "accepted"), (STARTED, "started")):
        assert conversation.feed(reply) is None
        assert (conversation.state, conversation.done) == (state, False)
    report = conversation.feed(progress(1, 3, "one"))
    assert report == {"sn": "a", "data": "mine", "any": "mine", "total": 3, "completed": 1, "details": "one"}
    assert conversation.report is report
    assert conversation.feed(RESULT) is None
    assert conversation.done
    assert conversation.outcome() == 7


@pytest.mark.parametrize("order", list(permutations([ACCEPTED, STARTED, progress(1)])))
def test_statuses_in_any_order_never_go_back(order: tuple[Reply, ...]) -> None:
    conversation = Conversation("a")
    states = []
    for reply in order:
        conversation.feed(reply)
        states.append(STATES.index(conversation.state))
    assert states == sorted(states)
    assert conversation.state == "progress"


@pytest.mark.parametrize("later", [ACCEPTED, STARTED, progress(3), RESULT, FAILED, REJECTED], ids=lambda r: r.status)
@pytest.mark.parametrize(
    ("end", "outcome"),
    [(RESULT, 7), (Reply(sn="a", result=Result()), None), (FAILED, ValueError), (REJECTED, Rejected)],
    ids=["value", "None", "exception", "rejection"],
)
def test_the_first_end_counts_and_nothing_after_it(later: Reply, end: Reply, outcome: Any) -> None:
    conversation = fed(ACCEPTED, end)
    state, report = conversation.state, conversation.report
    for _ in range(2):
        assert conversation.feed(later) is None
    assert conversation.done
    assert (conversation.state, conversation.report) == (state, report)
    if isinstance(outcome, type):
        for _ in range(2):
            with pytest.raises(outcome):
                conversation.outcome()
    else:
        assert conversation.outcome() == outcome


@given(
    st.lists(st.sampled_from([ACCEPTED, STARTED, RESULT, FAILED, REJECTED, progress(1), progress(2), Reply(sn="a")]))
)
def test_whatever_comes_there_is_one_outcome(replies: list[Reply]) -> None:
    conversation = fed(*replies)
    ends = [reply for reply in replies if reply in (RESULT, FAILED, REJECTED)]

    assert conversation.done == bool(ends)
    if not ends:
        assert STATES.index(conversation.state) == max(
            [0, *(STATES.index(reply.status) for reply in replies if reply.status)]
        )
    elif ends[0] is RESULT:
        assert conversation.outcome() == 7
    else:
        with pytest.raises(ValueError if ends[0] is FAILED else Rejected):
            conversation.outcome()


def test_a_result_ends_it_even_if_it_came_first() -> None:
    assert fed(RESULT).outcome() == 7


@pytest.mark.parametrize("status", ["running", "", None, "REJECTED", "result"])
def test_an_unknown_status_means_nothing(status: str | None) -> None:
    conversation = fed(ACCEPTED, Reply(sn="a", status=status))
    assert (conversation.state, conversation.done) == ("accepted", False)


def test_a_rejection_has_its_code_and_sentence() -> None:
    with pytest.raises(Rejected) as caught:
        fed(REJECTED).outcome()
    assert (caught.value.sn, caught.value.code) == ("a", "hook.refused")
    assert (caught.value.description, caught.value.details) == ("not today", {"a": 1})

    with pytest.raises(Rejected, match="request a rejected: rejected \\(unknown\\)"):
        fed(Reply(sn="a", status="rejected")).outcome()


@pytest.mark.parametrize(
    "result",
    [
        Result(xclass="Cancelled", xmodule="gofer.errors", xargs=["by you"]),
        Result(xclass="Cancelled", xmodule="gofer.errors", xargs=["by you"], exval="t", retval=5),
    ],
)
def test_what_has_a_class_or_a_trace_is_an_exception(result: Result) -> None:
    with pytest.raises(Cancelled, match="by you"):
        fed(Reply(sn="a", result=result)).outcome()


@pytest.mark.parametrize("state", STATES)
def test_a_state_reached_is_never_left_for_an_earlier_one(state: str) -> None:
    conversation = Conversation("a")
    conversation.reached(state)
    for other in STATES[: STATES.index(state) + 1]:
        conversation.reached(other)
        assert conversation.state == state


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
    conversation = Conversation("a")
    conversation.reached(state)
    error = conversation.timeout(wait, ttl, "connecting")

    assert type(error) is RequestTimeout
    assert str(error) == f"request a: {text}"
    assert (error.sn, error.wait, error.state, error.report) == ("a", wait, state, None)


def test_a_timeout_tells_the_last_progress() -> None:
    error = fed(ACCEPTED, STARTED, progress(1), progress(2, 3, {"step": "two"})).timeout(5.0, 5.0, "open")

    assert str(error) == (
        "request a: no result after 5 s: it was started; "
        "last progress: 2 of 3, details {'step': 'two'}; it may still end"
    )
    assert error.state == "progress"
    assert isinstance(error.report, dict)
    assert error.report["completed"] == 2


def test_a_timeout_stays_short_whatever_was_reported() -> None:
    error = fed(progress("c" * 100_000, ["t"] * 100_000, "\n" * 100_000)).timeout(5.0, 5.0, "open")
    assert len(str(error)) < 500
    assert "\n" not in str(error)
