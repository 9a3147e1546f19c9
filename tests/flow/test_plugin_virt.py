"""The plugin virt at work: real libvirt, with its driver for tests, whose domains are in memory."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from gofer.agent.config import LiveSettings
from gofer.agent.plugin import Plugin
from gofer.errors import Rejected, UserRequired
from gofer.proxy import Agent
from gofer_authenticator_hmac import HmacAuthenticator
from gofer_plugin_virt.connections import connect, disconnect
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers

pytestmark = pytest.mark.xdist_group("plugin-virt")  # one process makes what the module shares

DESCRIPTOR = """
[main]
enabled = 1
plugin = virt
threads = 4

[messaging]
url = {url}
{trust}

[model]
queue = {queue}

[virt]
uri = {uri}
"""

WEB, DB = "6695eb01-f6a4-8304-79aa-97f2502e193f", "004b96e1-2d78-c30f-5aa5-f03c87d21e69"
DOMAIN = """
<domain type='test'>
  <name>{name}</name><uuid>{uuid}</uuid><memory>8388608</memory><vcpu>2</vcpu><os><type>hvm</type></os>
</domain>
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    root = tmp_path_factory.mktemp("agent")
    node = root / "node.xml"
    node.write_text(f"<node>{DOMAIN.format(name='web', uuid=WEB)}{DOMAIN.format(name='db', uuid=DB)}</node>")
    with LocalBroker(str(root / "broker.sock")) as broker, AgentProcess(root) as process:
        keys = root / "keys"
        keys.touch(0o600)
        keys.write_text(f"ops {base64.b64encode(os.urandom(32)).decode()}\n")
        signed = f"authenticator = hmac\n[hmac]\nkeys = {keys}"
        for name, uri, trust in (
            ("virt", f"test://{node}", signed),
            ("nowhere", f"test+unix:///default?socket={root}/no-such", signed),
            ("nonsense", "nonsense", signed),
            ("open", "test:///default", ""),
        ):
            process.descriptor(name, DESCRIPTOR.format(url=broker.url, queue=name, uri=uri, trust=trust))
        yield process.start()


def agent_of(process: AgentProcess, address: str) -> Agent:
    authenticator = HmacAuthenticator(process.root / "keys")
    agent = Agent(f"local://{process.root}/broker.sock", address, wait=30, authenticator=authenticator)
    return until_it_answers(agent, process.tail())


@pytest.fixture
def virt(process: AgentProcess) -> Iterator[Any]:
    """A caller's stub; both domains run."""
    with agent_of(process, "virt") as agent:
        stub = agent.Virt()
        for one in stub.domains():
            if one["name"] in ("web", "db") and one["state"] == "shut off":
                stub.start(one["name"])
        yield stub


def test_every_method_says_what_it_does(process: AgentProcess) -> None:
    with agent_of(process, "virt") as agent:
        (plugin,) = [one for one in agent.Admin().describe()["plugins"] if one["plugin"] == "virt"]
    methods = {one["name"]: one for each in plugin["classes"] for one in each["methods"]}
    assert sorted(methods) == ["define", "destroy", "domains", "id", "shutdown", "start", "state"]
    assert [name for name, one in methods.items() if not one["doc"]] == []


def test_domains_are_listed_by_name(virt: Any) -> None:
    first, second = (one for one in virt.domains() if one["name"] in ("web", "db"))
    assert (first["name"], first["uuid"], first["state"]) == ("db", DB, "running")
    assert (second["name"], second["uuid"], second["id"]) == ("web", WEB, virt.id("web"))


@pytest.mark.parametrize("end", ["shutdown", "destroy"])
def test_a_domain_ends_and_starts(virt: Any, end: str) -> None:
    number = virt.id("web")
    assert isinstance(number, int)
    assert virt[end]("web") == {"name": "web", "uuid": WEB, "id": None, "state": "shut off"}
    assert (virt.state("web"), virt.id("web"), virt.state("db")) == ("shut off", None, "running")
    with pytest.raises(RuntimeError, match=r"domain 'web' was not .*: .* not running"):
        virt[end]("web")
    started = virt.start("web")
    assert (started["state"], started["id"] != number, virt.state("web")) == ("running", True, "running")
    with pytest.raises(RuntimeError, match=r"domain 'web' was not started: .*already running"):
        virt.start("web")


def test_a_domain_has_three_names(virt: Any) -> None:
    for name in ("web", WEB, WEB.upper(), WEB.replace("-", ""), virt.id("web")):
        assert virt.state(name) == "running"
    assert virt.shutdown(virt.id("web"))["name"] == "web"
    assert virt.start(WEB)["name"] == "web"


@pytest.mark.parametrize("name", ["", "no", "web ", "WEB", "a\0b", "é" * 400, DB[:-1] + "0", 10**6, -1, 0, 10**30])
def test_a_domain_that_there_is_not(virt: Any, name: Any) -> None:
    for method in ("state", "id", "start", "shutdown", "destroy"):
        with pytest.raises(LookupError, match=r"there is no domain .*; there are: .*db.*web"):
            virt[method](name)


@pytest.mark.parametrize("name", [None, True, 1.5, ["web"], {"name": "web"}])
def test_what_is_no_domain(virt: Any, name: Any) -> None:
    with pytest.raises(Rejected, match=r"domain: expected int \| str"):
        virt.state(name)


def test_a_domain_is_defined_and_defined_again(virt: Any) -> None:
    uuid = "11111111-2222-3333-4444-555555555555"
    defined = virt.define(DOMAIN.format(name="new", uuid=uuid))
    assert defined == {"name": "new", "uuid": uuid, "id": None, "state": "shut off"}
    assert virt.start("new")["state"] == "running"
    assert virt.define(DOMAIN.format(name="new", uuid=uuid))["state"] == "running"
    virt.destroy("new")
    with pytest.raises(RuntimeError, match=f"the domain was not defined: .* already defined with uuid {uuid}"):
        virt.define(DOMAIN.format(name="web", uuid=uuid))


@pytest.mark.parametrize(
    ("xml", "said"),
    [
        ("", "Document is empty"),
        ("not XML", "not defined: .*Start tag expected"),
        ("<x/>", "expecting root element of 'domain'"),
        ("<domain type='test'/>", "name"),
        (DOMAIN.format(name="a/b", uuid=WEB), "cannot contain '/'"),
        ("<domain type='test'><name>a\0b</name></domain>", "not defined"),
        ("<domain type='test'><name>x</name><memory>1</memory><os><type>no</type></os></domain>", "no"),
        ("<!DOCTYPE d [<!ENTITY f SYSTEM 'file:///etc/passwd'>]><domain type='test'><name>&f;</name></domain>", "name"),
    ],
)
def test_xml_that_is_wrong(virt: Any, xml: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        virt.define(xml)


def test_xml_is_a_text(virt: Any) -> None:
    with pytest.raises(Rejected, match="xml: expected str"):
        virt.define(5)


def test_many_callers_at_once(virt: Any) -> None:
    with ThreadPoolExecutor(8) as threads:
        states = list(threads.map(lambda _: virt.state("db"), range(50)))
    assert states == ["running"] * 50


@pytest.mark.parametrize(("address", "said"), [("nowhere", "Failed to connect socket"), ("nonsense", "nonsense")])
def test_libvirt_that_cannot_be_reached(process: AgentProcess, address: str, said: str) -> None:
    with agent_of(process, address) as agent:
        for call in (agent.Virt().domains, lambda: agent.Virt().start("web")):
            with pytest.raises(ConnectionError, match=rf"cannot connect to libvirt at .*{said}.*\[virt\] uri"):
                call()


def test_an_unsigned_call_is_rejected(process: AgentProcess, virt: Any) -> None:
    url = f"local://{process.root}/broker.sock"
    with Agent(url, "virt", wait=30) as stranger, pytest.raises(Rejected):
        stranger.Virt().domains()
    with Agent(url, "open", wait=30) as unsigned:
        until_it_answers(unsigned)
        for method in ("domains", "state", "define"):
            with pytest.raises(UserRequired):
                unsigned.Virt()[method](*([] if method == "domains" else ["test"]))


def test_where_nobody_can_be_identified_it_is_not_loaded(root: Path) -> None:
    with AgentProcess(root) as process:
        process.configure("[pam]\nservice = gofer-no-such\n")
        process.descriptor("virt", DESCRIPTOR.format(url="local://", queue="v", uri="test:///default", trust=""))
        process.descriptor("empty", DESCRIPTOR.format(url="local://", queue="v", uri="", trust="authenticator = hmac"))
        process.start()
        assert "callers cannot be identified: there is no authenticator, and" in process.log.read_text()


def test_a_lost_connection_is_opened_again() -> None:
    """A connection that was closed answers no more, as one whose libvirtd has been restarted."""
    plugin = cast(
        Plugin, SimpleNamespace(cfg=LiveSettings("virt.conf", {"virt": {"uri": "test:///default"}}), whiteboard={})
    )
    first = connect(plugin)
    assert connect(plugin) is first
    first.close()
    second = connect(plugin)
    assert second is not first
    assert second.lookupByName("test").isActive()
    disconnect(plugin)
    assert plugin.whiteboard == {}
