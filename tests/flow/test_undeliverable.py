"""Results that nobody takes: kept for a day, and listed, sent again or dropped by those who look after the agent."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from gofer.messaging.document import decode_request, encode
from gofer.rmi.request import digest_of
from gofer.rmi.server.administration import Entry
from gofer.rmi.store import requests
from support import kennel
from support.connections import cut
from support.receiving import Served, request, served
from support.waiting import eventually


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path, give_up=0.05) as serving:
        yield serving


def kept(serving: Served, state: str = "undeliverable") -> list[Entry]:
    return serving.requests.listing(states=[state]).entries


def send(serving: Served, value: object, **more: Any) -> dict[str, Any]:
    """Ask for something, with a queue for the reply that does not exist."""
    asked = request("Dog", "echo", value, replyto="gone", data={"who": value}, **more)
    serving.caller.send(asked)
    return asked


def test_it_is_kept_reported_and_its_request_is_acknowledged(serving: Served, caplog: pytest.LogCaptureFixture) -> None:
    asked = send(serving, "bone")
    (entry,) = eventually(lambda: kept(serving))
    assert entry.sn == asked["sn"]
    assert (entry.plugin, entry.state, entry.target) == ("kennel", "undeliverable", "Dog.echo")
    assert (entry.replyto, entry.data) == ("gone", {"who": "bone"})
    assert entry.reason is not None
    assert "gone" in entry.reason
    assert 0 <= entry.seconds < 60
    serving.seen("undeliverable", 1)  # counted and logged after it is kept
    assert [one for one in caplog.records if "cannot be delivered" in one.message and one.levelno == logging.WARNING]
    serving.idle()
    before = serving.link.up_since
    cut(serving.link)
    eventually(lambda: serving.link.up_since not in (None, before))
    assert serving.caller.value("Dog", "echo", "next") == "next"
    assert "repeated" not in serving.counted  # which it would be, had the broker still held it


def test_it_is_sent_again_when_somebody_asks_for_that(serving: Served) -> None:
    asked = send(serving, "again")
    eventually(lambda: kept(serving))
    serving.caller.listen("gone")
    serving.requests.retry(asked["sn"])
    end = serving.caller.end(asked["sn"])
    assert (end["result"], end["data"]) == ({"retval": "again"}, {"who": "again"})
    assert kept(serving) == []
    with pytest.raises(LookupError, match="no such request is kept"):
        serving.requests.retry(asked["sn"])
    assert kennel.ran() == ["again"]
    assert serving.caller.words(asked["sn"]).count("result") == 1


def test_one_that_nobody_takes_again_is_kept_again(serving: Served) -> None:
    asked = send(serving, "nobody")
    (before,) = eventually(lambda: kept(serving))
    serving.requests.retry(asked["sn"])
    (after,) = eventually(lambda: kept(serving))
    assert after.since > before.since
    serving.seen("undeliverable", 2)


def test_it_is_dropped(serving: Served) -> None:
    asked = send(serving, "old")
    eventually(lambda: kept(serving))
    serving.requests.drop(asked["sn"])
    assert kept(serving) == []
    with pytest.raises(LookupError, match="no such request is kept"):
        serving.requests.drop(asked["sn"])


def test_it_is_still_there_after_a_restart_and_sent_then(tmp_path: Path) -> None:
    with served(tmp_path, give_up=0.05) as before:
        asked = send(before, "later")
        eventually(lambda: kept(before))
    with served(tmp_path) as after:
        (entry,) = kept(after)
        assert entry.sn == asked["sn"]
        after.caller.listen("gone")
        after.requests.retry(asked["sn"])
        assert after.caller.end(asked["sn"])["result"] == {"retval": "later"}
        assert kennel.ran() == []  # which forgets with each start


def test_what_an_agent_could_not_send_before_it_stopped_is_sent_by_the_next(tmp_path: Path) -> None:
    with served(tmp_path, give_up=60.0) as before:
        asked = send(before, "stopped")
        eventually(lambda: before.counted.get("retried", 0) >= 1)
        before.consumer.stop(5)
        assert "undeliverable" not in before.counted
    with served(tmp_path, give_up=60.0) as after:
        after.caller.listen("gone")
        assert after.caller.end(asked["sn"])["result"] == {"retval": "stopped"}
        assert kennel.ran() == []
        after.idle()
        assert after.requests.listing().entries == []
    with served(tmp_path) as third:
        assert third.requests.listing().entries == []
        assert third.counted == {}


def test_who_asks_again_while_it_is_sent_by_the_next_is_reported_once_more(tmp_path: Path) -> None:
    """The first one may be taken for a queue that is gone by then."""
    with served(tmp_path, give_up=60.0) as before:
        asked = send(before, "twice")
        eventually(lambda: before.counted.get("retried", 0) >= 1)
        before.consumer.stop(5)
    with served(tmp_path, give_up=60.0) as after:
        eventually(lambda: after.counted.get("retried", 0) >= 1)
        after.caller.send(asked)
        after.seen("repeated", 1)
        after.caller.listen("gone")
        eventually(lambda: after.caller.words(asked["sn"]) == ["result", "result"])
        after.idle()
        assert kennel.ran() == []


def test_its_caller_who_asks_again_is_answered_and_nothing_is_kept_any_more(tmp_path: Path) -> None:
    with served(tmp_path, give_up=0.05) as before:
        asked = send(before, "asked")
        eventually(lambda: kept(before))
        before.caller.listen("gone")
        before.caller.send({**asked, "again": True})
        assert before.caller.end(asked["sn"])["result"] == {"retval": "asked"}
        eventually(lambda: kept(before) == [])
        other = request("Dog", "echo", "other", replyto="none")
        before.caller.send(other)
        eventually(lambda: kept(before))
    with served(tmp_path) as after:
        after.caller.listen("none")
        after.caller.send({**other, "again": True})
        assert after.caller.end(other["sn"])["result"] == {"retval": "other"}
        eventually(lambda: kept(after) == [])
        assert kennel.ran() == []


def test_a_result_that_cannot_be_kept_is_said_to_be_lost(serving: Served, caplog: pytest.LogCaptureFixture) -> None:
    serving.store.path.mkdir()  # no file can be made there
    send(serving, "lost")
    serving.seen("undeliverable", 1)
    serving.idle()
    eventually(lambda: "its result is lost" in caplog.text)
    listing = serving.requests.listing()
    assert listing.entries == []
    assert listing.unavailable is not None
    assert "cannot be used" in listing.unavailable


def test_what_waits_and_runs_is_listed_and_cancelled(tmp_path: Path) -> None:
    with served(tmp_path, threads=1) as serving:
        documents = [request("Dog", "wait" if n == 0 else "echo", n, data={"n": n}) for n in range(5)]
        for document in documents:
            serving.caller.send(document)
        assert kennel.gate.entered.acquire(timeout=30)
        serving.seen("accepted", 5)
        listing = serving.requests.listing()
        assert listing.total == 5
        assert [one.state for one in listing.entries] == ["running", *["waiting"] * 4]
        assert [one.data for one in listing.entries] == [{"n": n} for n in range(5)]
        assert [one.sn for one in serving.requests.listing(states=["waiting"], most=2).entries] == [
            documents[1]["sn"], documents[2]["sn"],
        ]  # fmt: skip
        assert serving.requests.listing("another").entries == []
        with pytest.raises(ValueError, match="no such state"):
            serving.requests.listing(states=["asleep"])
        with pytest.raises(LookupError, match="it is waiting"):
            serving.requests.drop(documents[1]["sn"])
        assert serving.requests.cancel(documents[1]["sn"])
        assert not serving.requests.cancel(documents[1]["sn"])
        assert serving.requests.cancel_those({"gt": {"n": 0}}, "kennel") == []
        assert serving.requests.cancel_those({"or": [{"eq": {"n": 2}}, {"eq": {"n": 3}}]}) == [
            documents[2]["sn"], documents[3]["sn"],
        ]  # fmt: skip
        kennel.gate.open.set()
        assert serving.caller.end(documents[4]["sn"])["result"] == {"retval": 4}
        assert kennel.ran() == [0, 4]


def test_what_was_interrupted_is_listed_and_run_again_on_demand_once(tmp_path: Path) -> None:
    with served(tmp_path) as first:
        asked = request("Dog", "echo", "interrupted", data="mine")
        body = encode(asked)
        record = requests.Record(asked["sn"], "kennel", body, None, digest_of(decode_request(body)), tries=1)
        first.store.call(
            partial(requests.claim, record, once=False, again=False)
        )  # as before a second run; then it dies
    with served(tmp_path) as serving:
        assert serving.caller.end(asked["sn"])["result"]["xclass"] == "Interrupted"
        (entry,) = eventually(lambda: kept(serving, "interrupted"))
        assert (entry.target, entry.data) == ("Dog.echo", "mine")
        serving.requests.retry(asked["sn"])
        eventually(lambda: kennel.ran() == ["interrupted"])
        eventually(lambda: kept(serving, "interrupted") == [])
        serving.idle()
        assert len([one for one in serving.caller.heard(asked["sn"]) if "result" in one]) == 1  # nobody hears twice
        with pytest.raises(LookupError):
            serving.requests.retry(asked["sn"])
