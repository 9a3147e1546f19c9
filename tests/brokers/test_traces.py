"""One call through RabbitMQ, and its trace: docs/traces.md shows it as it came out."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gofer.proxy import Agent
from gofer.testing.agents import AgentProcess
from support.brokers.rabbitmq import RabbitMQ
from support.otlp import Receiver, Span
from support.pages import Block, read_page
from support.plugins import describe, install
from support.presence import until_it_answers
from support.repository import TOP

PLUGIN = """
from gofer.decorators import fork, remote
from opentelemetry import trace

tracer = trace.get_tracer("dogs")

@remote
@fork
def fetch(what):
    with tracer.start_as_current_span("look for it"):
        return f"here is the {what}"
"""
PROGRAM = """
import sys
from gofer.proxy import Agent
from gofer_plugin_tracing import GoferInstrumentor
from opentelemetry import trace

GoferInstrumentor().instrument()
with trace.get_tracer("program").start_as_current_span("play"), Agent(sys.argv[1], "web1", wait=20) as agent:
    print(agent.dogs.fetch("ball"))
"""
NAMES = ("play", "call dogs.fetch", "wait dogs.fetch", "process dogs.fetch", "fork dogs.fetch", "look for it")


def drawn(spans: dict[str, Span]) -> str:
    """Draw a trace: each span with its service, milliseconds and attributes, below its parent."""
    first = spans[NAMES[0]]
    lines = [f"trace {first.trace}"]

    def draw(span: Span, depth: int) -> None:
        begins, took = (span.began - first.began) / 1e6, (span.ended - span.began) / 1e6
        lines.append(f"{'  ' * depth}{span.name}  [{span.kind}, {span.service}]  {begins:.1f} ms + {took:.1f} ms")
        lines.extend(f"{'  ' * depth}    {key} = {value}" for key, value in sorted(span.attributes.items()))
        below = [one for one in spans.values() if one.parent == span.id]
        for one in sorted(below, key=lambda one: one.began):
            draw(one, depth + 1)

    draw(first, 0)
    return "\n".join([*lines, ""])


@pytest.fixture
def spans(rabbitmq: RabbitMQ, vhost: str, root: Path, tmp_path: Path) -> dict[str, Span]:
    """The spans of one call of a program."""
    url = rabbitmq.url(vhost=vhost)
    install(tmp_path, "dogs", PLUGIN)
    describe(root, "dogs", f"[main]\nenabled=1\n[messaging]\nurl={url}\n[model]\nqueue=web1\n")
    describe(root, "tracing")
    with Receiver() as receiver, AgentProcess(root, path=(tmp_path,), environ=receiver.environ) as goferd:
        goferd.start()
        with Agent(url, "web1", wait=20) as agent:
            until_it_answers(agent, goferd.tail()).dogs.fetch("stick")  # the first one starts the process that forks
        receiver.wait("process dogs.fetch", "fork dogs.fetch", "look for it")
        receiver.spans.clear()
        environ = {**os.environ, **receiver.environ, "OTEL_SERVICE_NAME": "playground"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, url], env=environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (0, "here is the ball\n"), done.stderr
        found = receiver.wait(*NAMES)
    for above, below in itertools.pairwise(NAMES):
        if above.startswith("wait"):
            above = "call dogs.fetch"  # noqa: PLW2901 - the wait and the method are side by side
        assert found[below].parent == found[above].id
    return found


def test_the_page_shows_what_comes_out(spans: dict[str, Span]) -> None:
    page = read_page((TOP / "docs/traces.md").read_text("utf-8"))
    (shown,) = [item for item in page if isinstance(item, Block) and item.text.startswith("trace ")]

    def same(text: str) -> str:
        text = re.sub(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
        text = re.sub(r"(process\.pid|messaging\.message\.body\.size|server\.port) = [0-9]+", r"\1 = N", text)
        return re.sub(r"-?[0-9.]+ ms", "N ms", text)

    assert same(drawn(spans)) == same(shown.text), drawn(spans)
