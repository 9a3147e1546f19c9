"""Who is believed may change while an agent runs; and all that it says is signed, for whoever hears it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest
from gofer.errors import Rejected, RequestTimeout
from gofer.proxy import Agent
from gofer.rmi.reply import ReplyConsumer
from support.replies import Ear
from support.signing import QUEUE, SCHEMES, Serving, serving
from support.waiting import eventually

pytestmark = [
    pytest.mark.xdist_group("signed-both-ways"),
    pytest.mark.parametrize("served", ["hmac", "x509"], indirect=True),
]


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp(request.param)
    with serving(folder, SCHEMES[request.param](folder)) as one:
        yield one


def code_of(agent: Agent) -> str | None:
    """The code of the rejection that it hears; None: it is believed. Strangers are answered at a limited rate."""
    time.sleep(0.3)
    try:
        assert agent(wait=3).Who().am_i()
    except Rejected as rejected:
        return rejected.code
    except RequestTimeout:
        return "no answer"
    return None


def test_every_reply_is_signed_and_a_consumer_believes_no_other(
    served: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """Statuses and results, exceptions, and the rejection by a hook."""
    queue = f"signed-replies-{served.scheme.name}"
    believing, doubting = Ear(), Ear()
    signer = served.scheme.named("ops")
    with ReplyConsumer(queue, served.connector, authenticator=signer).start(believing):
        with served.agent("ops", reply=queue) as agent:
            agent.Probe().work(1)
            kinds = dict.fromkeys(one.kind for one in believing.until_done())
            assert list(kinds) == ["accepted", "started", "progress", "succeeded"]
            agent.Probe().fail("no", 1)
            assert [one.kind for one in believing.until_done()] == ["accepted", "started", "failed"]
        with served.agent("banned", reply=queue) as agent:
            agent.Who().am_i()
            assert [(one.kind, one.code) for one in believing.until_done()] == [("rejected", "hook.refused")]
        with served.agent(None, reply=queue) as agent:
            agent.Who().am_i()
            assert [(one.kind, one.code) for one in believing.until_done()] == [("rejected", "security.authentication")]
    stranger = served.scheme.named("stranger")
    with (
        ReplyConsumer(f"{queue}-2", served.connector, authenticator=stranger).start(doubting),
        served.agent("ops", reply=f"{queue}-2") as agent,
        caplog.at_level(logging.WARNING),
    ):
        agent.Who().am_i()
        eventually(lambda: caplog.text.count("a reply is dropped") == 3)
    assert doubting.silent


def test_who_signs_is_known_to_methods_of_every_kind_and_to_hooks(served: Serving) -> None:
    for name in ("ops", "guest"):
        with served.agent(name) as agent:
            assert agent.Who().am_i() == agent.Who().am_i_later() == agent.Who().am_i_there() == name
            assert agent.Who().called_me()[-3:] == [
                [name, "Who.am_i"],
                [name, "Who.am_i_later"],
                [name, "Who.am_i_there"],
            ]


def test_who_is_believed_may_change_while_the_agent_runs(served: Serving) -> None:
    """A key that is added, and taken away; a certificate that is issued, and revoked. Others go on meanwhile."""
    served.scheme.admit("new")
    with served.agent("new", wait=20) as new, served.agent("ops") as ops:
        eventually(lambda: code_of(new) is None)
        assert new.Who().am_i() == "new"
        served.scheme.banish("new")
        eventually(lambda: code_of(new) == "security.authentication")
        assert ops.Who().am_i() == "ops"
    assert "rejected (security.authentication)" in served.log


def test_an_agents_new_key_is_believed_by_callers_that_know_it(served: Serving) -> None:
    """The other direction: callers that take only ``web-9``'s word do not take the agent's."""
    signer = served.scheme.named("ops")
    signer.peers = frozenset({"agent"})
    with Agent(served.connector, QUEUE, wait=20, authenticator=signer) as agent:
        assert agent.Who().am_i() == "ops"
        signer.peers = frozenset({"web-9"})
        started = time.monotonic()
        with pytest.raises(RequestTimeout):
            agent(wait=0.5).Who().am_i()
        assert time.monotonic() - started >= 0.5
