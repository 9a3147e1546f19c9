"""The plugin `tracing` in a goferd, and callers, that export to a receiver of OTLP."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.errors import ExecutionTimeout, ProcessDied
from gofer.proxy import Agent
from gofer.testing.agents import AgentProcess
from support.localbroker import LocalBroker
from support.otlp import Receiver, Span
from support.plugins import describe, install
from support.ports import free_port
from support.presence import until_it_answers
from support.reloads import manage
from support.spans import Spans, recorded
from support.traced import CALLER, TRACED

pytestmark = pytest.mark.slow  # each process imports the SDK of OpenTelemetry


class Place:
    """A goferd with two plugins of the same code, and its traces."""

    def __init__(self, top: Path, root: Path, environ: dict[str, str]) -> None:
        self.broker = LocalBroker(str(top / "broker.sock"))
        self.url = self.broker.url
        self.root = root
        self.goferd = AgentProcess(root, path=(top,), environ=environ)
        for name in ("traced", "other"):
            install(top, name, TRACED)
            describe(root, name, f"[main]\nenabled=1\nthreads=4\n[messaging]\nurl={self.url}\n[model]\nqueue={name}\n")
        describe(root, "tracing")

    def start(self) -> None:
        self.goferd.start()

    def agent(self) -> Agent:
        return until_it_answers(Agent(self.url, "traced", wait=20), self.goferd.tail())


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def place(root: Path, tmp_path: Path, receiver: Receiver) -> Iterator[Place]:
    place = Place(tmp_path, root, receiver.environ)
    with place.broker, place.goferd:
        place.start()
        yield place


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    with recorded() as spans:
        yield spans


def way(spans: dict[str, Span], *names: str) -> None:
    """Check that each is the child of the one before it, in one trace."""
    for above, below in itertools.pairwise(names):
        assert spans[below].parent == spans[above].id, (above, below)
        assert spans[below].trace == spans[above].trace


def test_spans_of_methods_threads_coroutines_and_own_processes_are_one_trace(
    place: Place, receiver: Receiver, spans: Spans
) -> None:
    with place.agent() as agent:
        assert agent.Dog().bark() == "woof"
        agent.Dog().thread()
        agent.Dog().later()
        pid = agent.Dog().apart()
        agent.Dog().apart_later()
    found = receiver.wait("process Dog.bark", "in bark", "wait Dog.bark", "process Dog.later", "in later")
    way(found, "process Dog.bark", "in bark")
    way(found, "process Dog.later", "in later")
    assert found["process Dog.bark"].service == "goferd"
    (call,) = [one for one in spans.all() if one.name == "call Dog.bark"]
    assert call.context is not None
    assert found["process Dog.bark"].parent == found["wait Dog.bark"].parent == f"{call.context.span_id:016x}"
    assert found["process Dog.bark"].trace == f"{call.context.trace_id:032x}"
    found = receiver.wait("process Dog.thread", "in thread")
    way(found, "process Dog.thread", "in thread")
    found = receiver.wait("process Dog.apart", "fork Dog.apart", "in apart")
    way(found, "process Dog.apart", "fork Dog.apart", "in apart")
    assert found["fork Dog.apart"].attributes["process.pid"] == pid != place.goferd.pid
    assert found["fork Dog.apart"].service == "goferd"
    found = receiver.wait("process Dog.apart_later", "fork Dog.apart_later", "in apart_later")
    way(found, "process Dog.apart_later", "fork Dog.apart_later", "in apart_later")


def test_a_call_that_a_method_makes_goes_on_with_the_trace(place: Place, receiver: Receiver) -> None:
    with place.agent() as agent, Agent(place.url, "other", wait=20) as other:
        until_it_answers(other)
        assert agent.Dog().onward(place.url, "other") == "woof"
    found = receiver.wait(
        "process Dog.onward",
        "call Dog.apart_onward",
        "process Dog.apart_onward",
        "fork Dog.apart_onward",
        "call Dog.bark",
        "process Dog.bark",
        "in bark",
    )
    way(
        found,
        "process Dog.onward",
        "call Dog.apart_onward",
        "process Dog.apart_onward",
        "fork Dog.apart_onward",
        "call Dog.bark",
        "process Dog.bark",
        "in bark",
    )


def test_exceptions_and_time_limits_are_reported(place: Place, receiver: Receiver) -> None:
    with place.agent() as agent:
        with pytest.raises(ValueError, match="no bone"):
            agent.Dog().fail()
        with pytest.raises(ExecutionTimeout):
            agent.Dog().slow()
    found = receiver.wait("process Dog.fail", "fork Dog.fail", "process Dog.slow")
    for name in ("process Dog.fail", "fork Dog.fail"):
        assert found[name].error == "ValueError: no bone"
        ((event, told),) = found[name].events
        assert (event, told["exception.type"], told["exception.message"]) == ("exception", "ValueError", "no bone")
    assert 'raise ValueError("no bone")' in found["fork Dog.fail"].events[0][1]["exception.stacktrace"]
    assert found["process Dog.slow"].attributes["error.type"] == "gofer.errors.ExecutionTimeout"


def test_a_program_is_traced_by_opentelemetry_instrument(place: Place, receiver: Receiver) -> None:
    with place.agent():
        pass
    program = [str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable, "-c", CALLER]
    environ = {**os.environ, **receiver.environ, "OTEL_SERVICE_NAME": "shop", "OTEL_METRICS_EXPORTER": "none"}
    environ["OTEL_LOGS_EXPORTER"] = "none"
    environ["OTEL_TRACES_EXPORTER"] = "otlp"
    done = subprocess.run(
        [*program, place.url, "traced"], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "woof\n"), done.stderr
    found = receiver.wait("call Dog.bark", "process Dog.bark", "in bark")
    way(found, "call Dog.bark", "process Dog.bark", "in bark")
    assert found["call Dog.bark"].service == "shop"


def test_reload_and_unload_go_on_without_harm(place: Place, receiver: Receiver) -> None:
    with place.agent() as agent:
        agent.Dog().apart()
        receiver.wait("fork Dog.apart")
        manage(place.root, do="reload", which="tracing")
        manage(place.root, do="reload", which="traced")
        receiver.spans.clear()
        assert agent.Dog().bark() == "woof"
        agent.Dog().apart()
        way(receiver.wait("process Dog.apart", "fork Dog.apart"), "process Dog.apart", "fork Dog.apart")
        way(receiver.wait("process Dog.bark", "in bark"), "process Dog.bark", "in bark")
        manage(place.root, do="unload", which="tracing")
        receiver.spans.clear()
        agent.Dog().apart()
        agent.Dog().bark()
    place.goferd.stop()
    assert not [one for one in receiver.spans if one.name.startswith(("process", "call", "wait", "fork"))]


def test_a_receiver_that_is_not_there_delays_nobody(root: Path, tmp_path: Path, receiver: Receiver) -> None:
    environ = {**receiver.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    place = Place(tmp_path, root, environ)
    with place.broker, place.goferd:
        place.start()
        with place.agent() as agent:
            assert agent.Dog().bark() == "woof"
            for _ in range(3):
                assert agent.Dog().apart()
        began = time.monotonic()
        place.goferd.stop()
        assert time.monotonic() - began < 30  # shutdown_timeout: else it was killed


@pytest.mark.parametrize(
    ("environ", "error"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: there is no exporter 'zipkin'; installed: console"),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"},
            "OTEL_EXPORTER_OTLP_PROTOCOL: 'smoke' is not known; allowed: http/p",
        ),
    ],
)
def test_an_environment_that_cannot_be_used_is_reported(
    root: Path, tmp_path: Path, receiver: Receiver, environ: dict[str, str], error: str
) -> None:
    place = Place(tmp_path, root, {**receiver.environ, **environ})
    with place.broker, place.goferd:
        place.start()
        with place.agent() as agent:
            assert agent.Dog().bark() == "woof"
        shown = {one["name"]: one for one in manage(root, do="show")["plugins"]}
        assert shown["tracing"]["state"] == "quarantined"
        assert error in shown["tracing"]["error"]
        assert shown["traced"]["state"] == "running"


def test_a_child_that_is_killed_is_reported_and_the_next_one_is_traced(place: Place, receiver: Receiver) -> None:
    with place.agent() as agent:
        with pytest.raises(ProcessDied):
            agent.Dog().dies()
        agent.Dog().apart()
    found = receiver.wait("process Dog.dies", "process Dog.apart", "fork Dog.apart")
    assert found["process Dog.dies"].attributes["error.type"] == "gofer.errors.ProcessDied"
    way(found, "process Dog.apart", "fork Dog.apart")
