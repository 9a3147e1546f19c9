"""The context of a call: there in it, and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.rmi.context import Context
from support import kennel
from support.receiving import Served, request, served
from support.waiting import eventually


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as serving:
        yield serving


def test_outside_of_a_call_there_is_none() -> None:
    assert Context.current() is None


def test_a_method_knows_its_request(serving: Served) -> None:
    asked = request("Dog", "context", data={"group": "a"})
    assert serving.caller.call(asked)["result"]["retval"] == [asked["sn"], {"group": "a"}, None, False]


def test_it_is_gone_when_the_call_has_ended(serving: Served) -> None:
    serving.caller.value("Dog", "context")
    found: list[object] = []

    class Look:
        def run(self) -> None:
            found.append(Context.current())

    for _ in range(2):
        serving.plugin.workers.put(Look())
    eventually(lambda: len(found) == 2)
    assert found == [None, None]


def test_it_may_be_kept_and_handed_to_a_thread(serving: Served) -> None:
    asked = request("Dog", "context")
    serving.caller.call(asked)
    context = kennel.gate.contexts[0]
    seen: list[object] = []

    def use() -> None:
        seen.extend([context.sn, context.cancelled()])
        context.progress.completed = 3  # the call has ended: nobody is told

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [asked["sn"], False]
    assert serving.caller.words(asked["sn"]) == ["accepted", "started", "result"]


def test_cancelled_reports_what_was_asked(serving: Served) -> None:
    serving.caller.value("Dog", "context")
    request_of_it = kennel.gate.contexts[0]._request
    request_of_it.cancelled = True
    assert kennel.gate.contexts[0].cancelled()


def test_a_coroutine_has_its_own(serving: Served) -> None:
    """The plugin's event loop runs many calls at a time in one thread."""
    asked = [request("Dog", "later", n) for n in range(50)]
    for one in asked:
        serving.caller.send(one)
    for n, one in enumerate(asked):
        assert serving.caller.end(one["sn"])["result"]["retval"] == [n, one["sn"], "gofer-kennel-loop"]
