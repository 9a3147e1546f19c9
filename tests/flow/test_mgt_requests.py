"""``gofer mgt`` and the requests of a real goferd: listed, cancelled, retried, dropped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.agent.management.wire import Unusable
from gofer.errors import Cancelled
from gofer.proxy import Agent
from gofer.root import Root
from gofer.tools.agent_client import ask
from support.commands import gofer
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.managed import Site, managed
from support.plugins import describe, install
from support.presence import until_it_answers
from support.waiting import eventually


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with managed(tmp_path_factory.mktemp("mgt")) as site:
        yield site


@pytest.fixture
def agent(site: Site) -> Iterator[Agent]:
    with site.caller() as agent:
        yield agent


class TestRequests:
    def listed(self, site: Site, **how: Any) -> list[dict[str, Any]]:
        entries = site.ask("requests", **how)["entries"]
        assert isinstance(entries, list)
        return entries

    def test_what_runs_and_waits_is_listed_and_cancelled(self, site: Site, agent: Agent) -> None:
        numbers = [agent(wait=0, data={"batch": 7, "number": n}).Dog().stay() for n in range(4)]
        eventually(lambda: sorted(one["state"] for one in self.listed(site)) == ["running"] * 2 + ["waiting"] * 2)
        found = {one["sn"]: one for one in self.listed(site, plugin="kennel")}
        assert set(numbers) <= set(found)
        first = found[numbers[0]]
        assert (first["plugin"], first["target"], first["data"]) == ("kennel", "Dog.stay", {"batch": 7, "number": 0})
        assert first["seconds"] >= 0
        waiting = self.listed(site, states=["waiting"])
        assert len(waiting) == 2

        lines = site.mgt("--requests", "--state", "running").splitlines()
        assert lines[0].split() == ["SN", "PLUGIN", "STATE", "METHOD", "SINCE", "SECONDS", "CALLER", "DATA", "REASON"]
        assert len(lines) == 3
        assert '{"batch": 7, "number": ' in lines[1]

        assert site.mgt("--cancel", waiting[0]["sn"]) == waiting[0]["sn"] + "\n"
        left = set(numbers) - {waiting[0]["sn"]}
        assert site.ask("cancel", criteria={"match": {"batch": 8}}) == []
        where = '{"match": {"batch": 7}}'
        assert set(site.mgt("--cancel-where", where, "--plugin", "kennel").split()) == left
        eventually(lambda: not self.listed(site))
        assert site.shown("kennel")["counters"]["cancelled"] >= 4

    def test_one_that_has_not_come_yet_is_cancelled_when_it_comes(self, site: Site, agent: Agent) -> None:
        trigger = agent(trigger=1).Dog().bark("late")
        done = gofer("mgt", "--cancel", trigger.sn, environ={"GOFER_ROOT": str(site.root)})
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == "gofer mgt: no such request is here; if it comes within a day, it is cancelled then\n"
        with pytest.raises(Cancelled):
            trigger()

    def test_data_that_is_large_is_left_out_of_a_long_list(self, site: Site, agent: Agent) -> None:
        data = "x" * 3_000_000
        numbers = [agent(wait=0, data=data).Dog().stay() for _ in range(4)]
        agent.flush(20)
        eventually(lambda: site.ask("requests")["total"] == 4)
        found = self.listed(site)
        told = [(len(one["data"] or ""), one["data_left_out"]) for one in found]
        assert [size for size, _ in told].count(3_000_000) <= 2
        assert set(told) <= {(3_000_000, False), (0, True)}
        assert site.mgt("--requests").count("xxxx...") == sum(size > 0 for size, _ in told)
        for sn in numbers:
            assert site.ask("cancel", sn=sn) == [sn]
        eventually(lambda: not self.listed(site))

    def test_what_came_over_the_wire_does_nothing_to_a_terminal(self, site: Site, agent: Agent) -> None:
        sn = agent(wait=0, data="red \x1b[31m\nalert \x9b2J").Dog().stay()
        eventually(lambda: self.listed(site, states=["running"]))
        lines = site.mgt("--requests").splitlines()
        assert len(lines) == 2
        assert "red \\x1b[31m alert \\x9b2J" in lines[1]
        assert site.ask("cancel", sn=sn) == [sn]
        eventually(lambda: not self.listed(site))

    def test_what_is_not_kept_can_be_neither_retried_nor_dropped(self, site: Site) -> None:
        for option in ("--retry", "--drop"):
            assert "only what is undeliverable or interrupted" in site.mgt(option, "abc", status=4)

    @pytest.mark.parametrize(
        ("request_", "says"),
        [
            ({"do": "dance"}, "allowed: do = show, load, reload, unload, requests, cancel, retry, drop"),
            ({}, "missing required field `do`; allowed: do = show, load"),
            ({"do": "load"}, "missing required field `path`; allowed: do, path"),
            ({"do": "load", "path": 5}, "Expected `str`, got `int` - at `$.path`; allowed: do, path"),
            ({"do": "load", "path": "a\0b"}, "Expected `str` matching regex"),
            ({"do": "retry", "sn": "\udcff"}, "not a line of JSON"),  # the ledger could not take it
            ({"do": "requests", "states": ["\ud800"]}, "not a line of JSON"),
            ({"do": "show", "plugin": "x"}, "unknown field `plugin`; allowed: do"),
            ({"do": "requests", "states": ["odd"]}, "odd: no such state; there are: waiting, running"),
            (
                {"do": "requests", "most": True},
                "Expected `int`, got `bool` - at `$.most`; allowed: do, plugin, states, most",
            ),
            ({"do": "cancel"}, "cancel needs one of 'sn' and 'criteria'"),
            ({"do": "cancel", "criteria": {}}, "empty criteria"),
            ({"do": "cancel", "criteria": {"nor": 1}}, "'nor' is not an operator (did you mean 'or'?)"),
            (
                {"do": "cancel", "criteria": {"eq": 1}, "plugin": "x"},
                "there is no plugin 'x'; there are: broken, kennel",
            ),
            ({"do": "cancel", "sn": "../x"}, "is not a serial number"),
        ],
    )
    def test_what_cannot_be_asked_is_reported(self, site: Site, request_: dict[str, Any], says: str) -> None:
        with pytest.raises(Unusable) as told:
            ask(Root(site.root), request_, host=None, port=None, wait=30)
        assert told.value.code == "malformed"
        assert says in str(told.value)


DANGER = """
    import os
    from gofer.decorators import remote

    def here(name):
        return os.environ["GOFER_ROOT"] + "/" + name

    @remote
    def risk():
        with open(here("ran"), "a") as file:
            file.write("ran" + chr(10))
        if os.path.exists(here("trap")):
            os._exit(9)
"""


def test_what_was_interrupted_is_listed_retried_and_dropped(root: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    install(site, "danger", DANGER)
    (root / "trap").touch()
    where = Root(root)

    def interrupted() -> list[str]:
        return [one["sn"] for one in listed() if one["state"] == "interrupted"]

    def listed() -> list[dict[str, Any]]:
        found = ask(where, {"do": "requests"}, host=None, port=None, wait=30)
        assert found["unavailable"] is None
        entries = found["entries"]
        assert isinstance(entries, list)
        return entries

    def ran() -> int:
        return len((root / "ran").read_text().split())

    with LocalBroker(str(tmp_path / "broker.sock")) as broker, AgentProcess(root, path=(site,)) as goferd:
        describe(root, "danger", f"[main]\nenabled=1\n[messaging]\nurl={broker.url}\n[model]\nqueue=danger\n")
        goferd.start()
        with Agent(broker.url, "danger", wait=20) as agent:
            until_it_answers(agent)
            numbers: list[str] = []
            for _ in range(3):
                numbers.append(agent(wait=0).danger.risk())
                for _ in range(2):  # once, and once more
                    assert goferd.process is not None
                    goferd.process.wait(20)
                    goferd.start()
                eventually(lambda: set(interrupted()) == set(numbers), what=f"{listed()}")
            assert ran() == 6
            one, unwanted, other = numbers
            assert gofer("mgt", "--drop", one, environ={"GOFER_ROOT": str(root)}).returncode == 0
            assert set(interrupted()) == {unwanted, other}
            (root / "trap").unlink()
            ask(where, {"do": "unload", "which": "danger"}, host=None, port=None, wait=30)
            for sn in (unwanted, other):
                done = gofer("mgt", "--retry", sn, environ={"GOFER_ROOT": str(root)})
                assert (done.returncode, done.stderr) == (0, "")
            assert {one["state"] for one in listed()} == {"waiting"}
            assert gofer("mgt", "--drop", unwanted, environ={"GOFER_ROOT": str(root)}).returncode == 0
            (entry,) = listed()  # it waits until its plugin is there
            assert (entry["sn"], entry["plugin"], entry["state"]) == (other, "danger", "waiting")
            ask(where, {"do": "load", "path": "danger.conf"}, host=None, port=None, wait=30)
            eventually(lambda: ran() == 7)
            eventually(lambda: not listed())
            assert ran() == 7
