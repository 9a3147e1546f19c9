"""A plugin with an authenticator, and another one whose queue has none, or another: nobody gets past the first one."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.agent.management.wire import Unusable
from gofer.errors import DispatchError, NotFound, Rejected, RequestTimeout
from gofer.proxy import Agent
from gofer_authenticator_hmac import HmacAuthenticator
from support.commands import check_goferd
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.plugins import describe, install
from support.presence import until_it_answers
from support.reloads import manage

VAULT = """
from gofer.agent.rmi import Context
from gofer.decorators import remote


class Vault:
    @remote
    def open(self):
        return ["gold", Context.current().identity]
"""

LOBBY = """
from gofer.agent.plugin import Plugin
from gofer.decorators import remote


class Lobby:
    @remote
    def enter(self):
        return "in"

"""

SIGNED = "authenticator = hmac\n[hmac]\nkeys = {keys}\n"


class House:
    """A signed plugin `vault`, and `lobby` beside it."""

    def __init__(self, process: AgentProcess, broker: LocalBroker, site: Path) -> None:
        self.process = process
        self.site = site
        self.url = broker.url
        self.keys = process.root / "keys"
        self.other_keys = process.root / "other-keys"
        for keys in (self.keys, self.other_keys):
            keys.touch(0o600)
            keys.write_text(f"ops {base64.b64encode(os.urandom(32)).decode()}\n")

    def plugin(self, name: str, main: str, keys: Path | None = None) -> Path:
        trust = "" if keys is None else SIGNED.format(keys=keys)
        text = f"[main]\nenabled=1\n{main}\n[model]\nqueue={name}\n[messaging]\nurl={self.url}\n{trust}"
        return describe(self.process.root, name, text)

    def check(self) -> tuple[int, str]:
        done = check_goferd(self.process.root, self.site)
        return done.returncode, done.stdout + done.stderr

    def agent(self, address: str, keys: Path | None = None) -> Agent:
        authenticator = None if keys is None else HmacAuthenticator(keys)
        return Agent(self.url, address, wait=20, authenticator=authenticator)

    def state(self, name: str) -> str:
        shown = manage(self.process.root, do="show")["plugins"]
        return next(str(one["state"]) for one in shown if one["name"] == name)


@pytest.fixture
def house(root: Path, tmp_path: Path) -> Iterator[House]:
    install(tmp_path, "vault", VAULT)
    install(tmp_path, "lobby", LOBBY)
    with (
        LocalBroker(str(tmp_path / "broker.sock")) as broker,
        AgentProcess(root, path=(tmp_path,)) as process,
    ):
        yield House(process, broker, tmp_path)


WAYS = {
    "forwarded": ("accept = lobby", "forward = vault", "accept"),
    "forwarded by stars": ("accept = *", "forward = *", "accept"),
    "extended": ("extends = lobby", "", "extends"),
}


@pytest.mark.parametrize("other", [False, True], ids=["unsigned", "signed by others"])
@pytest.mark.parametrize("way", WAYS)
def test_who_is_not_believed_reaches_no_signed_method_by_way_of_another_plugin(
    house: House, way: str, other: bool
) -> None:
    vault, lobby, key = WAYS[way]
    theirs = house.other_keys if other else None
    file = house.plugin("vault", vault, house.keys)
    house.plugin("lobby", lobby, theirs)
    has = "has the authenticator 'hmac'" if other else "has no authenticator"
    does = "has the methods of" if key == "extends" else "forwards to"
    line = f"{file}: [main] {key}: plugin 'lobby' {does} plugin 'vault' and {has}, so its callers would get past "
    status, checked = house.check()
    assert status == 1
    (error,) = [one for one in checked.splitlines() if one.startswith("error: ")]
    assert error.startswith(f"error: {line}")
    assert error.endswith(f"or allow it by trust = lobby in [main] of {file}")

    house.process.start()
    assert line in house.process.tail()
    assert (house.state("vault"), house.state("lobby")) == ("quarantined", "running")
    with house.agent("lobby", theirs) as agent:
        assert until_it_answers(agent).Lobby().enter() == "in"
        with pytest.raises(DispatchError):
            agent.Vault().open()


@pytest.mark.parametrize("way", WAYS)
def test_a_key_in_the_descriptor_of_the_signed_plugin_allows_it(house: House, way: str) -> None:
    vault, lobby, _ = WAYS[way]
    house.plugin("vault", f"{vault}\ntrust = lobby", house.keys)
    house.plugin("lobby", lobby)
    status, checked = house.check()
    assert (status, "error: " in checked) == (0, False), checked

    house.process.start()
    with house.agent("lobby") as agent, house.agent("vault") as stranger:
        assert until_it_answers(agent).Vault().open() == ["gold", None]
        with pytest.raises(Rejected):
            stranger.Vault().open()


@pytest.mark.parametrize("way", WAYS)
def test_two_plugins_with_the_same_authenticator_may(house: House, way: str) -> None:
    vault, lobby, _ = WAYS[way]
    house.plugin("vault", vault, house.keys)
    house.plugin("lobby", lobby, house.keys)
    status, checked = house.check()
    assert (status, "error: " in checked) == (0, False), checked

    house.process.start()
    with house.agent("lobby", house.keys) as agent:
        assert until_it_answers(agent).Vault().open() == ["gold", "ops"]


@pytest.mark.parametrize("name", ["lobby", "zoo"])
def test_what_a_plugin_only_imports_from_another_one_is_not_exposed_whichever_is_loaded_first(
    house: House, name: str
) -> None:
    install(house.site, "zoo", "")
    (house.site / f"{name}_module.py").write_text(f"{LOBBY}\nfrom vault_module import *\n")
    house.plugin("vault", "", house.keys)
    house.plugin(name, "")
    house.process.start()
    assert (house.state("vault"), house.state(name)) == ("running", "running")
    with house.agent(name) as agent:
        assert until_it_answers(agent).Lobby().enter() == "in"
        with pytest.raises(DispatchError):
            agent.Vault().open()
        manage(house.process.root, do="unload", which="vault")
        manage(house.process.root, do="reload", which=name)
        assert agent.Lobby().enter() == "in"
        with pytest.raises(DispatchError):
            agent.Vault().open()


@pytest.mark.parametrize("added", ["Plugin.find('vault')", "Plugin.find('vault')['Vault']"])
def test_code_that_adds_signed_methods_to_an_unsigned_queue_is_not_loaded(house: House, added: str) -> None:
    (house.site / "lobby_module.py").write_text(f"{LOBBY}\nplugin = Plugin.find(__name__)\nplugin += {added}\n")
    house.plugin("vault", "", house.keys)
    house.plugin("lobby", "")
    house.process.start()

    assert (house.state("vault"), house.state("lobby")) == ("running", "quarantined")
    assert "plugin 'lobby' has the methods of plugin 'vault' and has no authenticator" in house.process.tail()
    with house.agent("lobby")(wait=1) as agent, pytest.raises((NotFound, RequestTimeout)):
        agent.Vault().open()
    with house.agent("vault", house.keys) as agent:
        assert until_it_answers(agent).Vault().open() == ["gold", "ops"]


def test_code_that_adds_signed_methods_to_a_queue_of_other_signers_is_reported(house: House) -> None:
    (house.site / "lobby_module.py").write_text(f"{LOBBY}\nPlugin.find(__name__).__iadd__(Plugin.find('vault'))\n")
    house.plugin("vault", "", house.keys)
    file = house.plugin("lobby", "", house.other_keys)
    house.process.start()

    said = (
        f"WARNING gofer.agent.sharing: {file}: [main] plugin: plugin 'lobby' has the methods of plugin 'vault' and has "
    )
    assert said in house.process.tail()
    with house.agent("lobby", house.other_keys) as agent, house.agent("lobby") as stranger:
        assert until_it_answers(agent).Vault().open() == ["gold", "ops"]
        with pytest.raises(Rejected):
            stranger.Vault().open()


def test_a_change_that_would_open_the_way_is_refused_while_the_agent_runs(house: House) -> None:
    house.plugin("vault", "accept = *", house.keys)
    house.plugin("lobby", "")
    house.process.start()
    with house.agent("lobby") as agent, house.agent("vault", house.keys) as mine:
        until_it_answers(agent)
        until_it_answers(mine)
        file = house.plugin("lobby", "forward = vault")
        with pytest.raises(Unusable, match="plugin 'lobby' forwards to plugin 'vault' and has no authenticator"):
            manage(house.process.root, do="reload", which="lobby")
        assert f"{file}: [main] forward: " in house.process.tail()
        with pytest.raises(DispatchError):
            agent.Vault().open()

        manage(house.process.root, do="unload", which="lobby")
        with pytest.raises(Unusable, match="plugin 'lobby' forwards to plugin 'vault'"):
            manage(house.process.root, do="load", path=str(file))
        assert house.state("lobby") == "quarantined"
        assert mine.Vault().open() == ["gold", "ops"]


def test_an_authenticator_that_is_added_later_is_not_got_past(house: House) -> None:
    house.plugin("vault", "extends = lobby")
    house.plugin("lobby", "")
    house.process.start()
    with house.agent("lobby") as agent:
        assert until_it_answers(agent).Vault().open() == ["gold", None]
        file = house.plugin("vault", "extends = lobby", house.keys)
        with pytest.raises(Unusable, match="plugin 'lobby' has the methods of plugin 'vault'"):
            manage(house.process.root, do="reload", which="vault")
        assert f"{file}: [main] extends: " in house.process.tail()


@pytest.mark.parametrize(
    ("lobby", "hall", "vault"),
    [
        ("forward = hall", "accept = lobby\ntrust = lobby", "extends = hall"),
        ("", "extends = lobby\ntrust = lobby", "extends = hall"),
    ],
    ids=["forwarded to what is extended", "extended twice"],
)
def test_trust_in_one_plugin_is_none_in_those_that_extend_it(house: House, lobby: str, hall: str, vault: str) -> None:
    install(house.site, "hall", LOBBY.replace("Lobby", "Hall"))
    house.plugin("lobby", lobby)
    house.plugin("hall", hall, house.keys)
    file = house.plugin("vault", vault, house.keys)
    status, checked = house.check()
    assert status == 1
    assert f"error: {file}: [main] extends: plugin 'lobby' " in checked

    house.process.start()
    assert (house.state("vault"), house.state("hall")) == ("quarantined", "running")
    with house.agent("lobby") as agent:
        assert until_it_answers(agent).Hall().enter() == "in"
        with pytest.raises(DispatchError):
            agent.Vault().open()
