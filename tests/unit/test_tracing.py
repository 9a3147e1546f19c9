"""Where a tracer is put in, and that nothing of it is seen where there is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from gofer import tracing
from gofer.messaging.document import decode_request, encode
from gofer.rmi.client.options import Options
from gofer.rmi.client.stub import new_request
from support.captured import captured


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    yield
    tracing.use(None)


def test_a_tracer_is_made_by_its_name() -> None:
    tracing.use("collections:OrderedDict")
    assert type(tracing.slot.tracer).__name__ == "OrderedDict"
    assert tracing.slot.name == "collections:OrderedDict"
    tracing.use(None)
    assert (tracing.slot.tracer, tracing.slot.name) == (None, None)


@pytest.mark.parametrize("name", ["no_such_module:Tracer", "collections:NoSuchClass", "collections"])
def test_one_that_cannot_be_made_changes_nothing(name: str) -> None:
    tracing.use("collections:OrderedDict")
    with pytest.raises((ImportError, AttributeError)):
        tracing.use(name)
    assert tracing.slot.name == "collections:OrderedDict"


def test_a_request_has_the_fields_of_2_12_and_none_of_a_trace() -> None:
    document = new_request(("Dog", "bark", None), ("hello",), {}, "web1", Options())
    old = {name for message in captured("request-") if "signed" not in message.name for name in message.document}
    assert set(document) == old


def test_a_request_of_2_12_has_no_context() -> None:
    for message in captured("request-"):
        if "signed" not in message.name:
            found = decode_request(message.body)
            assert (found.traceparent, found.tracestate) == (None, None)


@pytest.mark.parametrize("value", ["00-1-2-01", 5, None, ["x"], {"a": 1}, "x" * 10_000])
def test_whatever_stands_there_the_request_is_read(value: object) -> None:
    document = new_request(("Dog", "bark", None), (), {}, "web1", Options())
    assert decode_request(encode({**document, "traceparent": value, "tracestate": value})).sn == document["sn"]


def test_neither_callers_nor_agents_import_opentelemetry() -> None:
    modules = "gofer.proxy, gofer.aio, gofer.agent.main, gofer.agent.helper"
    code = f"import sys, {modules}; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
