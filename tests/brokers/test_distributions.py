"""Distributions with plugins, as pip installs them, called through RabbitMQ: the documentation's own, and bad ones."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from gofer.errors import (
    MemberNotFound,
    NamespaceNotFound,
    NotAuthorized,
    SecretRequired,
)
from gofer.proxy import Agent
from gofer_authenticator_hmac import HmacAuthenticator
from gofer_authenticator_x509 import X509Authenticator
from support.brokers.rabbitmq import RabbitMQ
from support.distributions import pip_install
from support.goferd import AgentProcess
from support.pki import Authority
from support.plugins import describe
from support.presence import until_it_answers
from support.reloads import manage
from support.waiting import eventually

pytestmark = pytest.mark.one_rabbitmq

BAD = {
    "raises": "module gofer_plugin_raises cannot be imported: RuntimeError: not today",
    "exits": "module gofer_plugin_exits cannot be imported: SystemExit: it ended the process by exit status",
    "loads": "its @load or a gofer_load hook failed: OSError: no disk",
    "misspelt": "unknown hook 'gofer_finnished' in plugin ",
}
GOOD = ("animals", "retrievers", "toys", "mammals")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything is installed."""
    target = tmp_path_factory.mktemp("site")
    pip_install(target, "farm", "journal", "authorizer", "stopwatch", *BAD)
    return target


@dataclass
class Place:
    """A running goferd, and who calls its plugins."""

    goferd: AgentProcess
    url: str
    agents: dict[str, Agent]

    def __getitem__(self, name: str) -> Agent:
        if name not in self.agents:
            self.agents[name] = until_it_answers(Agent(self.url, f"installed-{name}", wait=20), self.goferd.tail())
        return self.agents[name]


@pytest.fixture(scope="module")
def farm(rabbitmq: RabbitMQ, site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The documentation's plugins, and all the bad ones beside them."""
    root = tmp_path_factory.mktemp("farm")
    more = {"animals": "accept=mammals", "toys": "extends=animals", "mammals": "forward=animals"}
    with AgentProcess(root, path=(site,)) as goferd:
        for name in GOOD:
            messaging = f"[messaging]\nurl={rabbitmq.url()}\n[model]\nqueue=installed-{name}\n"
            describe(root, name, f"[main]\nenabled=1\n{more.get(name, '')}\n{messaging}")
        for name in BAD:
            describe(root, name)
        goferd.start()
        place = Place(goferd, rabbitmq.url(), {})
        for name in GOOD:
            assert place[name]
        yield place
        for agent in place.agents.values():
            agent.close()
        for name in GOOD:
            manage(root, do="unload", which=name)


class TestTheDocumentationsOwn:
    def test_dog(self, farm: Place) -> None:
        dog = farm["animals"].Dog()
        assert dog.bark("hello") == "the dog says hello"
        assert dog.wag(3) == "wag wag wag"
        assert farm["animals"].animals.count() == 1

    def test_a_retriever_inherits_bark_and_asks_for_a_secret_to_fetch(self, farm: Place) -> None:
        agent = farm["retrievers"]
        assert agent.Retriever().bark() == "the dog says woof"
        with pytest.raises(SecretRequired):
            agent.Retriever().fetch()
        assert agent(secret="wag").Retriever().fetch() == "the dog says woof, and brings it"

    def test_what_is_decorated_anew_asks_for_what_it_says(self, farm: Place) -> None:
        with pytest.raises(SecretRequired):
            farm["retrievers"].Puppy().bark()
        assert farm["retrievers"](secret="wag").Puppy().bark() == "the dog says yap"

    def test_what_was_taken_is_there_and_nothing_else_is(self, farm: Place) -> None:
        assert farm["retrievers"].retrievers.count() == 1
        with pytest.raises(NamespaceNotFound):
            farm["retrievers"].Dog().bark()

    def test_old_mcdonalds_toy_delegates(self, farm: Place) -> None:
        assert farm["toys"].Toy().theDog() == "with a woof woof here: the dog says woof"
        with pytest.raises(MemberNotFound):
            farm["toys"].Toy().bark()

    def test_a_descriptor_puts_the_toy_among_the_animals(self, farm: Place) -> None:
        assert farm["animals"].Toy().theDog() == "with a woof woof here: the dog says woof"

    def test_what_mammals_do_not_have_is_asked_of_animals(self, farm: Place) -> None:
        assert farm["mammals"].Cow().moo() == "moo"
        assert farm["mammals"].Dog().bark() == "the dog says woof"
        with pytest.raises(NamespaceNotFound, match="mammals"):  # the first one's own answer
            farm["mammals"].Unicorn().neigh()


class TestBadOnes:
    @pytest.mark.parametrize("name", BAD)
    def test_each_is_contained_named_and_shown(self, farm: Place, name: str) -> None:
        file = farm.goferd.root / f"etc/gofer/plugins/{name}.conf"
        lines = [line for line in farm.goferd.tail(200).splitlines() if f"ERROR gofer.agent.loader: {file}: " in line]
        assert len(lines) == 1
        assert BAD[name] in lines[0]

        shown = {one["name"]: one for one in manage(farm.goferd.root, do="show")["plugins"]}
        assert shown[name]["state"] == "quarantined"
        assert BAD[name] in shown[name]["error"]
        assert "Traceback" in shown[name]["trace"]
        assert {shown[one]["state"] for one in GOOD} == {"running"}


KEYS = {"agent": b"g" * 32, "alice": b"a" * 32, "bob": b"b" * 32}


def key_file(path: Path, *names: str) -> Path:
    """Write some of the keys; what is signed is signed with the first."""
    path.touch(0o600)
    path.write_text("".join(f"{name} {b64encode(KEYS[name]).decode()}\n" for name in names))
    return path


@pytest.fixture
def watched(rabbitmq: RabbitMQ, site: Path, root: Path, tmp_path: Path) -> Iterator[Place]:
    """Animals for those who sign by keys and retrievers for those who sign by certificates; audited and measured."""
    authority = Authority(tmp_path / "pki")
    holders = {name: authority.issue(name) for name in ("agent", "carol", "dave")}
    keys = key_file(tmp_path / "keys", *KEYS)
    url, mine = rabbitmq.url(), holders["agent"]
    schemes = {
        "animals": ("hmac", f"keys={keys}\n"),
        "retrievers": ("x509", f"certificate={mine.certificate}\nkey={mine.key}\nca={authority.ca}\n"),
    }
    for name, (scheme, settings) in schemes.items():
        messaging = f"[messaging]\nurl={url}\nauthenticator={scheme}\n[model]\nqueue=watched-{name}\n"
        describe(root, name, f"[main]\nenabled=1\n{messaging}[{scheme}]\n{settings}")
    describe(root, "journal", f"[main]\nenabled=1\n[journal]\nfile={tmp_path / 'audit'}\n")
    describe(root, "stopwatch", f"[main]\nenabled=1\n[stopwatch]\nfile={tmp_path / 'metrics.prom'}\n")
    rules = "Admin.* = *\nDog.* = alice\nDog.bark = bob\nRetriever.* = carol\n"
    describe(root, "authorizer", f"[main]\nenabled=1\nrequired=1\n[allow]\n{rules}")
    with AgentProcess(root, path=(site,)) as goferd:
        goferd.start()
        agents: dict[str, Agent] = {}
        for name in ("alice", "bob"):
            key = HmacAuthenticator(key_file(tmp_path / f"{name}-keys", name, "agent"))
            agents[name] = Agent(url, "watched-animals", wait=20, authenticator=key)
        for name in ("carol", "dave"):
            held = holders[name]
            signer = X509Authenticator(certificate=held.certificate, key=held.key, ca=authority.ca)
            agents[name] = Agent(url, "watched-retrievers", wait=20, authenticator=signer)
        for agent in agents.values():
            until_it_answers(agent, goferd.tail())
        yield Place(goferd, url, agents)
        for agent in agents.values():
            agent.close()
        for name in schemes:
            manage(root, do="unload", which=name)


def test_three_plugins_of_hooks_audit_authorize_and_measure_the_calls_of_others(watched: Place, tmp_path: Path) -> None:
    agents = watched.agents
    assert agents["alice"].Dog().bark() == "the dog says woof"
    assert agents["alice"].Dog().wag(1) == "wag"
    assert agents["bob"].Dog().bark() == "the dog says woof"
    with pytest.raises(NotAuthorized, match=r"bob may not call Dog\.wag\(\)"):
        agents["bob"].Dog().wag(1)
    with pytest.raises(NotAuthorized, match=r"bob may not call animals\.count\(\)"):
        agents["bob"].animals.count()
    assert agents["carol"].Retriever().bark() == "the dog says woof"
    with pytest.raises(NotAuthorized, match=r"dave may not call Retriever\.bark\(\)"):
        agents["dave"].Retriever().bark()

    def audited() -> list[list[str]]:
        lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
        mine = [line for line in lines if not line["called"].startswith("Admin.")]
        return [[line["who"], line["plugin"], line["called"], line["outcome"]] for line in mine]

    assert eventually(lambda: len(audited()) == 7 and audited()) == [
        ["alice", "animals", "Dog.bark", "value"],
        ["alice", "animals", "Dog.wag", "value"],
        ["bob", "animals", "Dog.bark", "value"],
        ["bob", "animals", "Dog.wag", "exception"],
        ["bob", "animals", "animals.count", "exception"],
        ["carol", "retrievers", "Retriever.bark", "value"],
        ["dave", "retrievers", "Retriever.bark", "exception"],
    ]
    metrics = tmp_path / "metrics.prom"
    for wanted in (
        'gofer_calls_total{plugin="animals",method="Dog.bark",outcome="value"} 2\n',
        'gofer_calls_total{plugin="animals",method="Dog.wag",outcome="exception"} 1\n',
        'gofer_call_seconds_total{plugin="retrievers",method="Retriever.bark"} 0.',
    ):
        eventually(lambda wanted=wanted: metrics.exists() and wanted in metrics.read_text(), what=wanted)  # type: ignore[misc]  # mypy cannot infer a lambda's default
