"""What a caller hears from an agent: statuses, values and exceptions, as gofer 2.12 writes them."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.hooks import hookimpl
from gofer.messaging.adapter import Bind
from gofer.rmi.api import API
from gofer.rmi.request import Received
from support import kennel
from support.receiving import QUEUE, Served, request, served
from support.waiting import eventually

ENVELOPE = {"sn", "version", "routing", "origin", "timestamp", "data"}


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as serving:
        yield serving


# -- the documents -------------------------------------------------------------------------------------------------


def test_accepted_started_progress_and_the_result(serving: Served) -> None:
    asked = request("Dog", "progress", 2, data={"group": "a"})
    serving.caller.call(asked)
    accepted, started, *progress, result = serving.caller.heard(asked["sn"])

    for reply in (accepted, started, *progress, result):
        assert (reply["sn"], reply["version"], reply["data"]) == (asked["sn"], "2.0", {"group": "a"})
        assert (reply["routing"], reply["origin"]) == ([None, "replies"], QUEUE)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", reply["timestamp"])
    assert set(accepted) == set(started) == ENVELOPE | {"status"}
    assert (accepted["status"], started["status"]) == ("accepted", "started")
    for one in progress:
        assert set(one) == ENVELOPE | {"status", "total", "completed", "details"}
        assert one["status"] == "progress"
    assert progress[-1]["details"] == {"last": True}
    assert progress[-1]["completed"] == progress[-1]["total"] == 2
    assert set(result) == ENVELOPE | {"result"}
    assert result["result"] == {"retval": "done"}


def test_an_exception_has_its_class_its_arguments_its_state_and_the_methods_trace(serving: Served) -> None:
    error = serving.caller.error("Dog", "fail", "no", 7)
    assert set(error) == {"exval", "xmodule", "xclass", "xargs", "xstate"}
    assert (error["xmodule"], error["xclass"], error["xargs"]) == ("support.kennel", "Refusal", ["no"])
    assert error["xstate"] == {"code": 7, "trace": error["exval"]}
    assert "kennel.py" in error["exval"]
    assert "gofer_core" not in error["exval"]  # what lies between the wire and the method helps nobody
    later = serving.caller.error("Dog", "fail_later")
    assert (later["xclass"], later["xargs"]) == ("LookupError", ["later"])
    assert "gofer_core" not in later["exval"]


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        ({"kws": {"value": 1}}, 1),
        ({"kwargs": {"value": 2}}, 2),
        ({"kws": {"value": 3}, "kwargs": {"value": 3}}, 3),
        ({"kws": None, "kwargs": None}, None),
    ],
)
def test_keywords_are_read_from_both_fields(serving: Served, sent: dict[str, Any], passed: object) -> None:
    assert serving.caller.value("Dog", "echo", **sent) == passed


@pytest.mark.parametrize(
    ("cntr", "who"),
    [
        (None, ["nobody", 0]),
        ([[], {}], ["nobody", 0]),
        ([["rover"], {"age": 7}], ["rover", 7]),
        ([None, None], ["nobody", 0]),
    ],
)
def test_constructor_arguments(serving: Served, cntr: object, who: list[object]) -> None:
    assert serving.caller.value("Dog", "who", cntr=cntr) == who


@pytest.mark.parametrize(
    ("method", "sent"),
    [
        ("echo", {"kws": {"nothing": 1}}),
        ("fail", {}),
        ("who", {"cntr": [["a", "b", "c"], {}]}),
        ("who", {"cntr": [[], {"weight": 3}]}),
        ("forgotten", {}),
    ],
)
def test_what_is_wrong_with_a_call_is_a_type_error(serving: Served, method: str, sent: dict[str, Any]) -> None:
    assert serving.caller.error("Dog", method, **sent)["xclass"] == "TypeError"


def test_functions_static_and_class_methods(serving: Served) -> None:
    assert serving.caller.value("kennel", "hello", kws={"name": "max"}) == "hello max"
    assert serving.caller.value("Dog", "static", 5) == 5
    assert serving.caller.value("Hound", "named") == "Hound"


def test_a_coroutine_that_a_plain_method_returns_is_reported_and_closed(serving: Served) -> None:
    assert "declare it `async def`" in serving.caller.error("Dog", "forgotten")["xargs"][0]


@pytest.mark.parametrize("kind", ["set", "bytes", "nan", "int keys", "generator", "object", "surrogate", "digits"])
def test_a_result_that_is_not_plain_json_is_an_exception(serving: Served, kind: str) -> None:
    assert serving.caller.error("Dog", "odd", kind)["xclass"] == "TypeError"


def test_what_raises_when_it_is_looked_at_is_answered_too(serving: Served) -> None:
    assert serving.caller.error("Dog", "odd", "exit")["xargs"] == ["the method raised SystemExit: items"]
    assert serving.caller.error("Dog", "fail_untouchably")["xclass"] == "Untouchable"


def test_an_exception_full_of_what_json_cannot_carry_still_crosses(serving: Served) -> None:
    error = serving.caller.error("Dog", "fail_oddly")
    assert error["xclass"] in ("ValueError", "TypeError")


@pytest.mark.parametrize("method", ["leave", "interrupt"])
def test_what_would_end_a_process_is_an_exception_and_the_worker_lives(serving: Served, method: str) -> None:
    for _ in range(5):
        error = serving.caller.error("Dog", method)
        assert (error["xmodule"], error["xclass"]) == ("builtins", "RuntimeError")
        assert error["xargs"][0] in ("the method raised SystemExit: leaving", "the method raised KeyboardInterrupt")
    assert serving.caller.value("Dog", "echo", 1) == 1


@pytest.mark.parametrize(("method", "words"), [("text", "the reply has"), ("shout", "the reply has")])
def test_a_result_over_the_limit_is_result_too_large(serving: Served, method: str, words: str) -> None:
    error = serving.caller.error("Dog", method, 2 << 20)
    assert (error["xmodule"], error["xclass"]) == ("gofer.errors", "ResultTooLarge")
    assert words in error["xargs"][0]
    assert len(serving.caller.value("Dog", "text", 900_000)) == 900_000


def test_data_that_only_the_original_writes_comes_back(serving: Served) -> None:
    asked = request("Dog", "echo", 2**70)
    body = json.dumps(asked).replace('"replyto"', '"data": {"lone": "\\ud800"}, "replyto"')
    serving.caller.send(body.encode())
    assert serving.caller.end(asked["sn"])["data"] == {"lone": "\ud800"}
    assert serving.caller.end(asked["sn"])["result"] == {"retval": 2**70}


# -- which are sent, and when --------------------------------------------------------------------------------------


def test_a_fast_call_of_a_caller_that_says_how_long_it_waits_is_one_reply(serving: Served) -> None:
    def one_reply() -> bool:
        asked = request("Dog", "echo", 1, wait=90.0)
        serving.caller.call(asked)
        serving.caller.value("Dog", "echo", 2)  # nothing was under way behind it
        return serving.caller.words(asked["sn"]) == ["result"]

    eventually(one_reply)  # a busy machine may take longer than a fast call does


def test_a_slow_one_gets_accepted_and_started_after_a_while(serving: Served) -> None:
    asked = request("Dog", "wait", 1, wait=90.0)
    start = time.monotonic()
    serving.caller.send(asked)
    eventually(lambda: serving.caller.words(asked["sn"]) == ["accepted", "started"])
    assert time.monotonic() - start >= 0.1
    kennel.gate.open.set()
    serving.caller.end(asked["sn"])
    assert serving.caller.words(asked["sn"]) == ["accepted", "started", "result"]


def test_a_short_wait_is_reported_sooner(serving: Served) -> None:
    for wait in (0.04, 0.0):
        asked = request("Dog", "wait", 1, wait=wait)
        serving.caller.send(asked)
        serving.caller.until(asked["sn"], ["accepted", "started"])
    kennel.gate.open.set()


def test_one_that_waits_for_a_worker_gets_accepted_and_then_started(tmp_path: Path) -> None:
    with served(tmp_path, threads=1) as serving:
        first, second = request("Dog", "wait"), request("Dog", "echo", wait=90.0)
        serving.caller.send(first)
        assert kennel.gate.entered.acquire(timeout=30)
        serving.caller.send(second)
        eventually(lambda: serving.caller.words(second["sn"]) == ["accepted"])
        kennel.gate.open.set()
        serving.caller.end(second["sn"])
        assert serving.caller.words(second["sn"]) == ["accepted", "started", "result"]


def test_progress_brings_what_was_held_back_before_it(serving: Served) -> None:
    asked = request("Dog", "progress", 1, wait=90.0)
    serving.caller.call(asked)
    accepted, started, *progress, result = serving.caller.words(asked["sn"])
    assert (accepted, started, set(progress), result) == ("accepted", "started", {"progress"}, "result")


def test_no_replyto_is_run_and_not_answered(serving: Served) -> None:
    for replyto in (None, ""):
        serving.caller.send(request("Dog", "echo", "quiet", replyto=replyto))
    eventually(lambda: kennel.ran() == ["quiet", "quiet"])
    serving.idle()
    assert serving.caller.replies == []
    assert serving.counted == {"accepted": 2, "done": 2}


def test_without_a_serial_number_replies_have_none(serving: Served) -> None:
    document = request("Dog", "echo", 1)
    del document["sn"]
    serving.caller.send(document)
    serving.caller.end(None)
    assert serving.caller.words(None) == ["accepted", "started", "result"]


def test_the_least_that_gofer_2_12_accepts(serving: Served) -> None:
    asked = request("Dog", "echo")
    asked["request"] = {"classname": "Dog", "method": "echo", "args": ["x"]}
    asked["unknown"] = asked["request"]["unknown"] = {"field": 1}
    del asked["routing"]
    assert serving.caller.call(asked)["result"] == {"retval": "x"}


def test_replies_go_through_an_exchange_when_asked(serving: Served) -> None:
    serving.caller.link.ask(Bind("replies", "amq.direct", "replies"))
    asked = request("Dog", "echo", 1, replyto="amq.direct/replies")
    assert serving.caller.call(asked)["routing"] == [None, "amq.direct/replies"]


# -- beside the workers --------------------------------------------------------------------------------------------


def test_coroutines_run_side_by_side_and_leave_the_workers_alone(tmp_path: Path) -> None:
    with served(tmp_path, threads=1) as serving:
        asked = [request("Dog", "wait_later", n) for n in range(20)]
        for one in asked:
            serving.caller.send(one)
        for _ in asked:
            assert kennel.gate.entered.acquire(timeout=10)
        assert serving.caller.value("Dog", "echo", "meanwhile") == "meanwhile"
        assert serving.consumer.channel.counters["running"] == 20
        kennel.gate.open.set()
        assert [serving.caller.end(one["sn"])["result"]["retval"] for one in asked] == list(range(20))
        serving.idle()
        assert serving.consumer.channel.counters["running"] == 0


def test_admin_answers_while_every_worker_is_busy(tmp_path: Path) -> None:
    admin = API("Admin")
    admin.add(kennel.hello)
    with served(tmp_path, threads=1, admin=admin) as serving:
        serving.caller.send(request("Dog", "wait", replyto=None))
        assert kennel.gate.entered.acquire(timeout=30)
        assert serving.caller.value("Admin", "hello", "there") == "hello there"
        assert serving.caller.error("Admin", "nope")["xclass"] == "MemberNotFound"


def test_latency_holds_each_request_back_keeps_their_order_and_holds_no_other(tmp_path: Path) -> None:
    with served(tmp_path, threads=1, latency=0.3) as serving:
        start = time.monotonic()
        asked = [request("Dog", "echo", n) for n in range(100)]
        for one in asked:
            serving.caller.send(one)
        for one in asked:
            serving.caller.end(one["sn"])
        assert kennel.ran() == list(range(100))
        assert 0.3 <= time.monotonic() - start < 29  # one after the other it would be 30 seconds


# -- how long it may take ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["wait", "wait_later"])
@pytest.mark.parametrize(("plugin", "caller"), [(0.1, None), (None, 0.1), (0.1, 60.0), (60.0, 0.1)])
def test_a_method_that_takes_too_long_is_reported_and_its_caller_gets_an_error(
    tmp_path: Path, method: str, plugin: float | None, caller: float | None
) -> None:
    with served(tmp_path, timeout=plugin) as serving:
        asked = request("Dog", method, 1, timeout=caller)
        end = serving.caller.call(asked)["result"]
        assert (end["xmodule"], end["xclass"]) == ("gofer.errors", "ExecutionTimeout")
        assert f"Dog.{method}() took longer than 0.1 s" in end["xargs"][0]
        kennel.gate.open.set()
        assert serving.caller.value("Dog", "echo", 2) == 2
        serving.idle()
        assert serving.caller.words(asked["sn"]) == ["accepted", "started", "result"]
        assert serving.counted == {"accepted": 2, "done": 1, "failed": 1}


def test_the_methods_own_limit_counts_too_and_it_can_see_that_it_is_over(serving: Served) -> None:
    assert serving.caller.error("Dog", "brief")["xclass"] == "ExecutionTimeout"
    assert kennel.gate.contexts[0].cancelled()
    kennel.gate.open.set()
    eventually(lambda: kennel.ran() == ["ended"])


@pytest.mark.parametrize("how", ["returns", "raises"])
def test_a_method_that_ends_when_it_is_told_took_too_long_all_the_same(tmp_path: Path, how: str) -> None:
    """Its caller would take what it returns then for its value."""
    with served(tmp_path, timeout=0.1) as serving:

        class Quick:
            @hookimpl(wrapper=True)
            def gofer_call(self, request: Received) -> Generator[None, Any, Any]:
                assert eventually(lambda: request.cancelled)
                kennel.gate.open.set()
                yield
                if how == "raises":
                    raise ValueError("stopped half way")
                return "half of it"

        serving.plugin.manager.register(Quick())
        asked = request("Dog", "wait")
        end = serving.caller.call(asked)["result"]
        assert end["xclass"] == "ExecutionTimeout"


def test_a_method_within_its_limit_is_left_alone(serving: Served) -> None:
    kennel.gate.open.set()
    assert serving.caller.value("Dog", "brief") == []
    assert kennel.gate.contexts[0].cancelled() is False


# -- what others see -----------------------------------------------------------------------------------------------


def test_a_hook_refuses_a_request_before_it_is_accepted(serving: Served) -> None:
    class Guard:
        @hookimpl
        def gofer_accept(self, plugin: object, request: Received) -> None:
            assert plugin is serving.plugin
            if request.data == "no":
                raise PermissionError("not you")

    serving.plugin.manager.register(Guard())
    asked = request("Dog", "echo", 1, data="no")
    rejected = serving.caller.call(asked)
    assert set(rejected) == ENVELOPE | {"status", "code", "description", "details"}
    assert (rejected["status"], rejected["code"]) == ("rejected", "hook.refused")
    assert (rejected["details"], rejected["data"]) == ("PermissionError: not you", "no")
    assert serving.caller.words(asked["sn"]) == ["rejected"]
    assert kennel.ran() == []
    assert serving.caller.value("Dog", "echo", 2) == 2


def test_hooks_and_the_log_hear_of_each_end_once(serving: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "gofer.rmi.requests")
    asked = request("Dog", "echo", 1)
    serving.caller.call(asked)
    serving.idle()
    serving.caller.error("Dog", "fail", "no", 1)
    serving.idle()
    serving.caller.error("Dog", "li\nne")
    serving.idle()
    assert serving.finished == [("Dog.echo", "value"), ("Dog.fail", "exception"), (r"'Dog.li\nne'", "exception")]
    lines = [record.getMessage() for record in caplog.records if record.name == "gofer.rmi.requests"]
    assert len(lines) == 3
    assert re.fullmatch(rf"{asked['sn']} 'replies' kennel Dog\.echo value \d+\.\d ms", lines[0])
    assert not [line for line in lines if "\n" in line]
    assert serving.counted == {"accepted": 3, "done": 1, "failed": 2}


def test_a_hook_that_fails_at_the_end_is_logged_and_the_caller_has_its_value(
    serving: Served, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        @hookimpl
        def gofer_finished(self) -> None:
            raise RuntimeError("broken hook")

    serving.plugin.manager.register(Broken())
    assert serving.caller.value("Dog", "echo", 1) == 1
    serving.idle()
    assert "broken hook" in caplog.text


def test_a_request_cancelled_before_it_starts_is_not_run_and_answered(tmp_path: Path) -> None:
    with served(tmp_path, threads=1) as serving:
        serving.caller.send(request("Dog", "wait", "first", replyto=None))
        assert kennel.gate.entered.acquire(timeout=30)
        asked = request("Dog", "echo", "second")
        serving.caller.send(asked)
        queued = eventually(lambda: [one for one in serving.registry.in_flight() if one.sn == asked["sn"]])
        assert serving.lifecycle.cancel(queued[0])
        kennel.gate.open.set()
        assert serving.caller.end(asked["sn"])["result"]["xclass"] == "Cancelled"
        assert kennel.ran() == ["first"]
        serving.idle()
        assert serving.counted["cancelled"] == 1
