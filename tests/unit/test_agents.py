"""Agents as objects, be they for threads or for coroutines: what may be done with one that sends nothing."""

from __future__ import annotations

import copy
import pickle

import pytest
from gofer import aio, proxy
from gofer.rmi.client.agent import RemoteAgent

AGENTS = [proxy.Agent("local://", "kennel", wait=5), aio.Agent("local://", "kennel", wait=5)]


@pytest.fixture(params=AGENTS, ids=["proxy", "aio"])
def agent(request: pytest.FixtureRequest) -> RemoteAgent:
    found: RemoteAgent = request.param
    return found


def test_a_remote_class_is_not_hidden_by_an_attribute(agent: RemoteAgent) -> None:
    with pytest.raises(AttributeError, match=r"cannot set 'wait': it names something remote.*agent\(wait=\.\.\.\)"):
        agent.wait = 10
    with pytest.raises(AttributeError, match="cannot set 'name': it names something remote"):
        agent.Dog().name = "Fido"
    assert repr(agent.wait) == "<remote wait>"


def test_a_class_of_ones_own_may_have_attributes() -> None:
    class Kennel(proxy.Agent):
        count = 0

    kennel = Kennel("local://", "kennel")
    kennel.count += 1
    assert kennel(wait=1).count == 0
    assert kennel.count == 1
    assert isinstance(kennel(wait=1), Kennel)


def test_a_copy_is_a_view(agent: RemoteAgent) -> None:
    for twin in (copy.copy(agent), copy.deepcopy(agent), copy.deepcopy({"of": [agent]})["of"][0]):
        assert type(twin) is type(agent)
        assert repr(twin) == repr(agent)
        assert twin._lease is agent._lease


def test_an_agent_cannot_be_pickled_and_says_what_to_do(agent: RemoteAgent) -> None:
    for thing in (agent, agent.Dog(), agent.Dog().bark):
        with pytest.raises(TypeError, match="Pass the URL and the address, and make an Agent where it is needed"):
            pickle.dumps(thing)
