"""Traces of calls, in memory: caller and agent in one process, so that all spans are at hand."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import gofer_plugin_tracing
import pytest
from gofer import aio
from gofer.errors import GoferError, MemberNotFound, Rejected
from gofer.proxy import Agent
from gofer.tracing import slot
from opentelemetry import context, trace
from opentelemetry.trace import SpanKind, StatusCode
from support import kennel
from support.receiving import QUEUE, Served, request, served
from support.spans import Spans, recorded
from support.waiting import eventually


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    with recorded() as spans:
        yield spans


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as serving:
        serving.plugin.manager.register(gofer_plugin_tracing)
        yield serving


@pytest.fixture
def agent(serving: Served) -> Iterator[Agent]:
    with Agent(f"local://{serving.path}", QUEUE, wait=20) as agent:
        yield agent


def test_caller_wait_and_method_are_one_trace(spans: Spans, agent: Agent) -> None:
    with trace.get_tracer("program").start_as_current_span("program"):
        assert agent.Dog().echo("hello") == "hello"
    spans.under("call Dog.echo", "program")
    spans.under("wait Dog.echo", "call Dog.echo")
    spans.under("process Dog.echo", "call Dog.echo")
    call, wait, process = (spans.one(f"{what} Dog.echo") for what in ("call", "wait", "process"))
    assert [one.kind for one in (call, wait, process)] == [SpanKind.CLIENT, SpanKind.INTERNAL, SpanKind.CONSUMER]
    for one, operation, kind in ((call, "call", "send"), (process, "process", "process")):
        told = one.attributes or {}
        assert told["messaging.system"] == "gofer"
        assert told["messaging.destination.name"] == QUEUE
        assert (told["messaging.operation.name"], told["messaging.operation.type"]) == (operation, kind)
        assert (told["rpc.system"], told["rpc.service"], told["rpc.method"]) == ("gofer", "Dog", "echo")
        assert one.status.status_code is StatusCode.UNSET
    assert (call.attributes or {})["messaging.message.id"] == (process.attributes or {})["messaging.message.id"]
    times = [call.start_time, wait.start_time, wait.end_time, process.start_time, process.end_time, call.end_time]
    slack = 5_000_000  # nanoseconds: two clocks of one machine
    assert all(a is not None and b is not None and a <= b + slack for a, b in itertools.pairwise(times))
    assert not trace.get_current_span().get_span_context().is_valid


def test_an_exception_is_an_event_on_both_sides(spans: Spans, agent: Agent) -> None:
    with pytest.raises(kennel.Refusal):
        agent.Dog().fail("no bone", 3)
    for name in ("call Dog.fail", "process Dog.fail"):
        span = spans.one(name)
        assert span.status.status_code is StatusCode.ERROR
        (event,) = span.events
        assert event.name == "exception"
        assert (event.attributes or {})["exception.type"] == "support.kennel.Refusal"
        assert (span.attributes or {})["error.type"] == "support.kennel.Refusal"


@pytest.mark.parametrize("method", ["fail_oddly", "fail_untouchably", "leave", "fail_later"])
def test_odd_exceptions_change_nothing_for_the_caller(spans: Spans, agent: Agent, method: str) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011 - which one it is, other tests say
        agent.Dog()[method]()
    assert spans.one(f"process Dog.{method}").status.status_code is StatusCode.ERROR


def test_coroutines_and_their_tasks_are_below_the_method(
    spans: Spans, serving: Served, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracer = trace.get_tracer("method")

    async def later(self: kennel.Dog, value: object) -> object:
        with tracer.start_as_current_span("inside"):
            await asyncio.sleep(0.01)

        async def task() -> None:
            tracer.start_span("task").end()

        await asyncio.create_task(task())
        return value

    target = serving.plugin.api.find("Dog", "later")
    monkeypatch.setattr(kennel.Dog, "later", later)
    object.__setattr__(target, "member", later)
    assert agent.Dog().later("x") == "x"
    spans.under("inside", "process Dog.later")
    spans.under("task", "process Dog.later")
    took = spans.one("process Dog.later")
    assert took.end_time is not None
    assert took.start_time is not None
    assert took.end_time - took.start_time >= 10_000_000  # to the end of the coroutine


def test_async_callers_have_their_own_contexts(spans: Spans, serving: Served) -> None:
    async def one(agent: aio.Agent, number: int) -> None:
        with trace.get_tracer("program").start_as_current_span(f"program {number}"):
            assert await agent.Dog().echo(number) == number

    async def all_of_them() -> None:
        async with aio.Agent(f"local://{serving.path}", QUEUE, wait=20) as agent:
            await asyncio.gather(*(one(agent, number) for number in range(20)))

    asyncio.run(all_of_them())
    serving.idle()
    programs = {span.context.span_id: span for span in spans.all() if span.name.startswith("program") and span.context}
    calls = {span.context.span_id: span for span in spans.all() if span.name == "call Dog.echo" and span.context}
    processed = [span for span in spans.all() if span.name == "process Dog.echo"]
    assert len(programs) == len(calls) == len(processed) == 20
    assert {span.parent.span_id for span in calls.values() if span.parent} == set(programs)
    assert {span.parent.span_id for span in processed if span.parent} == set(calls)


def test_one_that_waits_for_nothing_is_a_producer(spans: Spans, serving: Served, agent: Agent) -> None:
    agent(wait=0).Dog().echo("x")
    assert spans.one("call Dog.echo").kind is SpanKind.PRODUCER
    spans.under("process Dog.echo", "call Dog.echo")
    trigger = agent(trigger=True).Dog().who()
    assert not [one for one in spans.all() if "who" in one.name]
    trigger()
    spans.under("process Dog.who", "call Dog.who")


def test_what_is_refused_has_a_span_and_no_name_that_was_made_up(spans: Spans, serving: Served, agent: Agent) -> None:
    with pytest.raises(MemberNotFound):
        agent.Dog().made_up_by_a_caller()
    spans.under("process unknown", "call Dog.made_up_by_a_caller")
    refused = spans.one("process unknown")
    assert (refused.attributes or {})["gofer.outcome"] == "exception"
    assert "made_up" not in json.dumps(dict(refused.attributes or {}))


def test_a_method_that_was_cancelled_says_so(spans: Spans, serving: Served, agent: Agent) -> None:
    sn = agent(wait=0).Dog().wait("x")
    eventually(kennel.ran)
    assert serving.requests.cancel(sn)
    kennel.gate.open.set()
    span = spans.one("process Dog.wait")
    assert "gofer.errors.Cancelled" in [(event.attributes or {})["exception.type"] for event in span.events]
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    ("parent", "state"),
    [
        ("nonsense", None),
        (17, {"a": 1}),
        ("00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x"),
        ("\ud800", "\ud800"),
        ([], []),
    ],
)
def test_what_is_no_context_is_none(spans: Spans, serving: Served, parent: object, state: object) -> None:
    asked = request("Dog", "echo", "x", replyto="replies", traceparent=parent, tracestate=state)
    assert serving.caller.call(asked)["result"] == {"retval": "x"}
    assert spans.one("process Dog.echo").parent is None


def test_a_context_that_is_not_sampled_goes_on_and_records_nothing(spans: Spans, serving: Served) -> None:
    parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-00"
    asked = request("Dog", "echo", "x", replyto="replies", traceparent=parent, tracestate="vendor=1")
    assert serving.caller.call(asked)["result"] == {"retval": "x"}
    serving.idle()
    assert spans.all() == []


def test_without_a_tracer_a_request_says_nothing_of_it(serving: Served, agent: Agent) -> None:
    assert slot.tracer is None
    bodies: list[bytes] = []
    accept = serving.lifecycle.admit
    serving.lifecycle.admit = lambda one: (bodies.append(one.body), accept(one))[1]  # type: ignore[method-assign]  # looked at, as it passes
    assert agent.Dog().echo("x") == "x"
    (body,) = bodies
    assert b"trace" not in body


def test_with_one_the_request_carries_the_context(spans: Spans, serving: Served, agent: Agent) -> None:
    bodies: list[bytes] = []
    accept = serving.lifecycle.admit
    serving.lifecycle.admit = lambda one: (bodies.append(one.body), accept(one))[1]  # type: ignore[method-assign]  # looked at, as it passes
    state = trace.TraceState([("vendor", "1")])
    parent = trace.SpanContext(int("a" * 32, 16), int("b" * 16, 16), True, trace.TraceFlags(1), state)
    token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(parent)))
    try:
        assert agent.Dog().echo("x") == "x"
    finally:
        context.detach(token)
    document = json.loads(bodies[0])
    assert document["traceparent"].startswith(f"00-{'a' * 32}-")
    assert document["traceparent"].endswith("-01")
    assert document["tracestate"] == "vendor=1"
    assert "baggage" not in document


def test_a_call_that_cannot_be_sent_ends_its_span(spans: Spans, tmp_path: Path) -> None:
    with Agent(f"local://{tmp_path}/nobody.sock", "x", wait=0.2) as agent, pytest.raises((GoferError, Rejected)):
        agent.Dog().bark()
    assert spans.one("call Dog.bark").status.status_code is StatusCode.ERROR
