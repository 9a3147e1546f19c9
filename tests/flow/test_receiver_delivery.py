"""What is accepted is held until its result is taken, whatever happens to connections, callers and the agent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.messaging.adapter import Bind, DeclareExchange, DeclareQueue, Delivery
from gofer.messaging.subscription import Subscription
from gofer.rmi.server.reply_encoder import Refusal
from support import kennel
from support.connections import cut, declaring
from support.receiving import QUEUE, Served, driven, request, served
from support.waiting import eventually


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as serving:
        yield serving


def left_in_queue(serving: Served, queue: str = QUEUE) -> list[bytes]:
    """Take what the broker has in a queue, through a connection of its own; only when nobody else reads it."""
    taken: list[bytes] = []
    with driven(serving.path) as link:

        def keep(delivery: Delivery) -> None:
            taken.append(delivery.body)
            link.accept(delivery)

        link.subscribe(Subscription(queue, 1000, keep, declaring(DeclareQueue(queue))), 10.0)
        end = time.monotonic() + 0.3  # nothing tells that no more will come
        eventually(lambda: time.monotonic() > end)
    return taken


# -- the same request again ----------------------------------------------------------------------------------------


def test_a_request_in_work_that_is_delivered_again_runs_once(serving: Served) -> None:
    asked = request("Dog", "wait", "once")
    serving.caller.send(asked)
    assert kennel.gate.entered.acquire(timeout=30)
    cut(serving.link)
    serving.seen("repeated", 1)
    kennel.gate.open.set()
    assert serving.caller.end(asked["sn"])["result"] == {"retval": "once"}
    serving.idle()
    assert kennel.ran() == ["once"]
    assert serving.caller.words(asked["sn"]).count("result") == 1

    serving.consumer.stop(5)
    assert left_in_queue(serving) == []  # the new delivery was acknowledged


def test_who_asks_again_while_the_result_is_on_its_way_is_reported_once_more(tmp_path: Path) -> None:
    """The first one may be taken for a queue that is gone by then."""
    with served(tmp_path, give_up=60.0) as serving:
        asked = request("Dog", "echo", "twice", replyto="later")
        serving.caller.send(asked)
        eventually(lambda: serving.counted.get("retried", 0) >= 1)
        serving.caller.send({**asked, "again": True})
        serving.seen("repeated", 1)
        serving.caller.listen("later")
        eventually(lambda: serving.caller.words(asked["sn"]).count("result") == 2)
        serving.idle()
        assert kennel.ran() == ["twice"]
        serving.consumer.stop(5)
        assert left_in_queue(serving) == []


def test_who_asks_again_while_the_rejection_is_on_its_way_is_reported_once_more(tmp_path: Path) -> None:
    with served(tmp_path, give_up=60.0) as serving:
        serving.consumer.reject_all(Refusal("plugin.unloaded", "not here", "dog"))
        asked = request("Dog", "echo", "twice", replyto="later")
        serving.caller.send(asked)
        eventually(lambda: serving.counted.get("retried", 0) >= 1)
        serving.caller.send({**asked, "again": True})
        serving.seen("repeated", 1)
        serving.caller.listen("later")
        eventually(lambda: serving.caller.words(asked["sn"]) == ["rejected", "rejected"])
        serving.idle()
        assert kennel.ran() == []


def test_requests_that_wait_and_are_delivered_again_run_once_and_in_order(tmp_path: Path) -> None:
    with served(tmp_path, threads=1, patience=60.0) as serving:  # the broker holds them all the time
        asked = [request("Dog", "wait" if n == 0 else "echo", n) for n in range(20)]
        for one in asked:
            serving.caller.send(one)
        assert kennel.gate.entered.acquire(timeout=30)
        serving.seen("accepted", 20)
        for times in (1, 2, 3):
            cut(serving.link)
            serving.seen("repeated", 20 * times)
        kennel.gate.open.set()
        for one in asked:
            serving.caller.end(one["sn"])
        serving.idle()
        assert kennel.ran() == list(range(20))
        serving.consumer.stop(5)
        assert left_in_queue(serving) == []


def test_a_caller_that_publishes_again_is_answered_once_for_both(serving: Served) -> None:
    asked = request("Dog", "wait", "once")
    serving.caller.send(asked)
    assert kennel.gate.entered.acquire(timeout=30)
    serving.caller.send({**asked, "again": True})
    serving.seen("repeated", 1)
    kennel.gate.open.set()
    serving.caller.end(asked["sn"])
    serving.idle()
    assert kennel.ran() == ["once"]
    serving.consumer.stop(5)
    assert left_in_queue(serving) == []  # both copies were acknowledged


def test_an_ended_request_is_answered_again_and_not_run_again(serving: Served) -> None:
    asked = request("Dog", "echo", "once", data="mine")
    first = serving.caller.call(asked)
    serving.idle()
    serving.caller.send({**asked, "again": True})
    eventually(lambda: serving.caller.words(asked["sn"]).count("result") == 2)
    results = [reply for reply in serving.caller.heard(asked["sn"]) if "result" in reply]
    assert [(one["result"], one["data"]) for one in results] == [(first["result"], "mine")] * 2
    serving.idle()
    assert kennel.ran() == ["once"]


def test_an_ended_exception_is_answered_again_too(serving: Served) -> None:
    asked = request("Dog", "fail", "no", 5)
    first = serving.caller.call(asked)
    serving.idle()
    serving.caller.replies.clear()
    assert serving.caller.call(asked)["result"] == first["result"]


def test_another_request_of_the_same_number_is_rejected(serving: Served) -> None:
    asked = request("Dog", "echo", "first")
    serving.caller.call(asked)
    serving.idle()
    serving.caller.replies.clear()
    other = request("Dog", "echo", "second", sn=asked["sn"])
    assert serving.caller.call(other)["code"] == "sn.conflict"
    assert kennel.ran() == ["first"]


# -- the connection ------------------------------------------------------------------------------------------------


def test_a_result_that_comes_while_there_is_no_connection_is_sent_later(serving: Served) -> None:
    asked = request("Dog", "wait", "late")
    serving.caller.send(asked)
    assert kennel.gate.entered.acquire(timeout=30)
    cut(serving.link)
    kennel.gate.open.set()
    assert serving.caller.end(asked["sn"])["result"] == {"retval": "late"}
    serving.idle()
    assert kennel.ran() == ["late"]


def test_nothing_is_lost_or_run_twice_while_the_connection_breaks_again_and_again(tmp_path: Path) -> None:
    asked = [request("Dog", "echo", n) for n in range(300)]
    with served(tmp_path, give_up=20.0) as serving:
        for n, one in enumerate(asked):
            serving.caller.send(one)
            if n % 50 == 25:
                cut(serving.link)
        for n, one in enumerate(asked):
            assert serving.caller.end(one["sn"], 30)["result"] == {"retval": n}
        serving.idle()
        assert sorted(kennel.ran()) == list(range(300))
        serving.consumer.stop(5)
        assert left_in_queue(serving) == []


def test_many_results_that_are_lost_with_the_connection_are_all_sent_again(tmp_path: Path) -> None:
    """More than may wait that no broker takes: that is half of what is delivered at a time."""
    with served(tmp_path, prefetch=20) as serving:
        asked = [request("Dog", "wait_later", n) for n in range(20)]
        for one in asked:
            serving.caller.send(one)
        for _ in asked:
            assert kennel.gate.entered.acquire(timeout=30)
        hold = threading.Event()
        serving.link.call_soon(lambda: hold.wait(30) and None)  # no confirmation is read from here on
        kennel.gate.open.set()
        eventually(lambda: serving.consumer.channel.publisher.pending == 20)
        serving.link.reconnect("cut by the test")  # they are sent, and lost
        hold.set()
        for n, one in enumerate(asked):
            assert serving.caller.end(one["sn"])["result"] == {"retval": n}
        serving.idle()
        assert "undeliverable" not in serving.counted
        assert sorted(kennel.ran()) == list(range(20))


# -- replies that nobody takes -------------------------------------------------------------------------------------


def test_a_reply_without_a_queue_is_retried_counted_and_let_go(
    serving: Served, caplog: pytest.LogCaptureFixture
) -> None:
    for replyto in ("no-such-queue", "nope/x", "amq.direct/no-such-key"):
        serving.caller.send(request("Dog", "echo", replyto, replyto=replyto))
    eventually(lambda: len(kennel.ran()) == 3)
    assert serving.caller.value("Dog", "echo", "meanwhile") == "meanwhile"  # it disturbs nobody
    serving.seen("undeliverable", 3)
    assert serving.counted["retried"] >= 6
    eventually(lambda: serving.consumer.channel.open == serving.consumer.channel.publisher.pending == 0)
    assert caplog.text.count("cannot be delivered") == 3
    serving.consumer.stop(5)
    assert left_in_queue(serving) == []


def test_a_reply_queue_that_comes_back_in_time_gets_the_result(tmp_path: Path) -> None:
    with served(tmp_path, give_up=20.0) as serving:
        asked = request("Dog", "echo", 1, replyto="late-queue")
        serving.caller.send(asked)
        eventually(lambda: serving.counted.get("retried"))
        serving.caller.listen("late-queue")
        assert serving.caller.end(asked["sn"])["result"] == {"retval": 1}
        serving.idle()
        assert "undeliverable" not in serving.counted


def test_an_exchange_that_comes_in_time_too(tmp_path: Path) -> None:
    with served(tmp_path, give_up=20.0) as serving:
        asked = request("Dog", "echo", 1, replyto="late-exchange/replies")
        serving.caller.send(asked)
        eventually(lambda: serving.counted.get("retried"))
        link = serving.caller.link
        link.ask(DeclareExchange("late-exchange"))
        link.ask(Bind("replies", "late-exchange", "replies"))
        assert serving.caller.end(asked["sn"])["result"] == {"retval": 1}


def test_replies_that_nobody_takes_never_fill_the_window(tmp_path: Path) -> None:
    """The broker delivers ``prefetch`` requests; behind each undeliverable result stands one of them."""
    with served(tmp_path, give_up=60.0, prefetch=10) as serving:
        for n in range(40):
            serving.caller.send(request("Dog", "echo", n, replyto="no-such-queue"))
        assert serving.caller.value("Dog", "echo", "still here") == "still here"
        eventually(lambda: serving.counted.get("undeliverable", 0) >= 35)
        # One is counted before it is taken out. All 40 would wait for a minute.
        eventually(lambda: serving.consumer.channel.publisher.pending <= 5)


def test_statuses_that_nobody_takes_are_counted_and_not_sent_again(serving: Served) -> None:
    serving.caller.send(request("Dog", "progress", 1, replyto="no-such-queue"))
    serving.seen("undeliverable", 1)
    assert serving.counted["statuses_lost"] in (3, 4)  # its progress in one report, or in two


# -- stopping ------------------------------------------------------------------------------------------------------


def test_stop_gives_back_what_waits_and_lets_end_what_runs(tmp_path: Path) -> None:
    with served(tmp_path, threads=1) as serving:
        running = request("Dog", "wait", "running")
        serving.caller.send(running)
        waiting = [request("Dog", "echo", n) for n in range(5)]
        for one in waiting:
            serving.caller.send(one)
        serving.seen("accepted", 6)
        assert kennel.gate.entered.acquire(timeout=30)
        assert [one.sn for one in serving.consumer.stop(0.1)] == [running["sn"]]

        kennel.gate.open.set()
        assert serving.plugin.workers.stop(5) == ([], [])
        assert kennel.ran() == ["running"]
        bodies = left_in_queue(serving)
        assert len(bodies) == 5
        assert [one["sn"] in body.decode() for one, body in zip(waiting, bodies, strict=True)] == [True] * 5


def test_stop_waits_for_what_runs_and_for_its_result(serving: Served) -> None:
    asked = [request("Dog", "wait", 1), request("Dog", "wait_later", 2)]
    for one in asked:
        serving.caller.send(one)
        assert kennel.gate.entered.acquire(timeout=30)
    serving.clock.call_after(0.2, kennel.gate.open.set)
    assert serving.consumer.stop(10) == []
    for n, one in enumerate(asked):
        assert serving.caller.end(one["sn"])["result"] == {"retval": n + 1}
    assert left_in_queue(serving) == []


@pytest.mark.slow
def test_stop_does_not_wait_long_for_callers_that_are_gone(tmp_path: Path) -> None:
    with served(tmp_path, give_up=60.0) as serving:
        serving.caller.send(request("Dog", "echo", "gone", replyto="no-such-queue"))
        serving.caller.send(request("Dog", "wait", "going", replyto="no-such-queue"))
        eventually(lambda: serving.counted.get("retried", 0) >= 6)  # the next try is seconds away
        serving.clock.call_after(0.2, kennel.gate.open.set)
        start = time.monotonic()
        assert serving.consumer.stop(30) == []
        assert time.monotonic() - start < 20  # of 30
        assert "undeliverable" not in serving.counted  # they are sent again when this agent is back
        assert left_in_queue(serving) == []


def test_what_is_in_the_window_of_latency_is_given_back(tmp_path: Path) -> None:
    with served(tmp_path, latency=60.0) as serving:
        for n in range(3):
            serving.caller.send(request("Dog", "echo", n))
        serving.seen("accepted", 3)
        assert serving.consumer.stop(5) == []
        assert len(left_in_queue(serving)) == 3
        assert kennel.ran() == []


def test_what_was_given_back_is_run_by_the_next_receiver(tmp_path: Path) -> None:
    """The plugin is attached again: nothing waiting is lost, and what still ran is not run again."""
    with served(tmp_path, threads=1) as serving:
        running = request("Dog", "wait", "running")
        serving.caller.send(running)
        assert kennel.gate.entered.acquire(timeout=30)
        waiting = [request("Dog", "echo", n) for n in range(5)]
        for one in waiting:
            serving.caller.send(one)
        serving.seen("accepted", 6)
        serving.consumer.stop(0.1)

        again = serving.another()
        again.recover()
        again.start(QUEUE, 10.0)
        kennel.gate.open.set()
        for n, one in enumerate(waiting):
            assert serving.caller.end(one["sn"])["result"] == {"retval": n}
        cut(serving.link)  # the broker delivers again what the first receiver could not acknowledge
        assert serving.caller.end(running["sn"])["result"] == {"retval": "running"}
        eventually(lambda: not again.channel.open)
        assert kennel.ran() == ["running", 0, 1, 2, 3, 4]
        again.stop(5)
        assert left_in_queue(serving) == []
