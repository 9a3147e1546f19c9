"""``gofer mgt`` and a real goferd: what it shows of plugins, what becomes of them, and who may ask."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gofer.agent.management.wire import socket_of, token_of
from gofer.proxy import Agent
from gofer.root import Root
from gofer.tools.agent_client import ask
from support import forkserver
from support.commands import GOFER, gofer
from support.goferd import AgentProcess
from support.managed import Site, managed
from support.plugins import describe, install
from support.ports import free_port
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


class TestShow:
    def test_the_agent_and_the_states_of_its_plugins(self, site: Site) -> None:
        told = site.ask("show")
        agent = told["agent"]
        assert (agent["state"], agent["pid"], agent["root"]) == ("running", site.goferd.pid, str(site.root))
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", agent["started"])
        assert 10e6 < agent["rss"] < 100e6
        assert {plugin["name"]: plugin["state"] for plugin in told["plugins"]} == {
            "broken": "quarantined",
            "kennel": "running",
            "resting": "disabled",
        }

    def test_where_a_plugin_is_from_and_where_it_listens(self, site: Site) -> None:
        kennel = site.shown("kennel")
        assert (kennel["distribution"], kennel["version"], kennel["module"]) == (
            "gofer-plugin-kennel",
            "1.0",
            "kennel_module",
        )
        assert kennel["descriptor"] == str(site.root / "etc/gofer/plugins/kennel.conf")
        assert (kennel["queue"], kennel["url"]) == ("kennel", site.broker.url)
        connection = kennel["connection"]
        assert (connection["state"], connection["reading"], connection["error"]) == ("open", True, None)
        assert connection["up"] >= 0
        assert kennel["workers"]["threads"] == 2

    def test_what_failed_is_shown_with_its_traceback(self, site: Site) -> None:
        broken = site.shown("broken")
        assert "RuntimeError: no such luck" in broken["error"]
        assert broken["trace"].startswith("Traceback (most recent call last)")
        assert broken["connection"] is None

    def test_the_api_has_signatures_first_lines_and_marks(self, site: Site) -> None:
        api = site.shown("kennel")["api"]
        (dog,) = api["classes"]
        assert (dog["name"], dog["doc"], dog["constructor"]) == ("Dog", "Barks.", "(name: str = 'Rover') -> None")
        methods = {one["name"]: one for one in dog["methods"]}
        assert methods["bark"]["signature"] == "(words: str, times: int = 1) -> str"
        assert methods["bark"]["doc"] == "Bark some words."
        fetch = methods["fetch"]
        assert (fetch["secret"], fetch["model"], fetch["users"]) == (True, "fork", ["root"])
        assert [one["name"] for one in api["functions"]] == ["version"]

    def test_what_became_of_requests_is_counted(self, site: Site, agent: Agent) -> None:
        before = site.shown("kennel")["counters"]
        agent.Dog().bark("woof")
        with pytest.raises(TypeError):
            agent.Dog().bark()
        after = eventually(
            lambda: (now := site.shown("kennel")["counters"])["failed"] > before["failed"] and now, what="counted"
        )
        assert after["done"] == before["done"] + 1
        assert after["running"] == 0
        assert {"accepted", "rejected", "cancelled", "undeliverable"} <= set(after)

    def test_actions_are_shown_with_their_last_run_and_the_next(self, site: Site) -> None:
        def actions() -> dict[str, Any]:
            return {one["name"]: one for one in site.shown("kennel")["actions"]}

        eventually(lambda: actions()["Broom.sweep"]["failures"])
        told = actions()
        sweep, start, nightly = told["Broom.sweep"], told["kennel.once_at_start"], told["kennel.nightly"]
        assert (sweep["schedule"], sweep["last"]["outcome"]) == ("every 0:00:00.050000", "failed")
        assert sweep["last"]["error"].startswith("OSError: worn out")
        assert (start["schedule"], start["state"], start["runs"], start["next"]) == ("once", "ended", 1, None)
        assert start["last"]["outcome"] == "done"
        assert (nightly["schedule"], nightly["state"], nightly["runs"]) == ("cron 0 4 * * *", "waiting", 0)
        assert nightly["next"].endswith("Z")
        assert "OSError: worn out" in site.goferd.tail(200)

    def test_people_see_a_tree(self, site: Site) -> None:
        eventually(lambda: "probe came back" in site.mgt("-s"))
        lines = [line.rstrip() for line in site.mgt("-s").splitlines()]
        assert re.match(
            rf"goferd \S+ running: pid {site.goferd.pid}, user \w+, root {site.root}, host \S+, since ", lines[0]
        )
        text = "\n".join(lines)
        assert "├── broken quarantined  gofer-plugin-broken 1.0\n" in text
        assert "RuntimeError: no such luck" in text
        assert "├── kennel running  gofer-plugin-kennel 1.0\n" in text
        queue = re.escape(f"├── queue kennel at {site.broker.url}: open, reading, probe came back ")
        assert re.search(rf"{queue}[0-9.]+ s ago\n", text)
        assert "class Dog(name: str = 'Rover') -> None  Barks.\n" in text
        assert "bark(words: str, times: int = 1) -> str  Bark some words.\n" in text
        assert "fetch() @secret @fork @user(root)\n" in text
        assert "action Broom.sweep every 0:00:00.050000; " in text
        assert "└── resting disabled" in text

    def test_programs_get_json(self, site: Site) -> None:
        printed = site.mgt("--show", "--json")
        assert printed.count("\n") == 1
        assert {plugin["name"] for plugin in json.loads(printed)["plugins"]} >= {"kennel", "broken", "resting"}

    def test_neither_busy_workers_nor_a_silent_broker_hold_it_up(self, site: Site, agent: Agent) -> None:
        numbers = [agent(wait=0).Dog().stay() for _ in range(3)]
        eventually(lambda: site.ask("requests")["total"] == 3)
        eventually(lambda: site.shown("kennel")["workers"]["busy"] == 2)
        eventually(lambda: site.shown("kennel")["counters"]["running"] == 2)
        site.broker.freeze()
        try:
            assert site.shown("kennel")["connection"]["state"] == "open"
            for sn in numbers:
                assert site.ask("cancel", sn=sn) == [sn]
        finally:
            site.broker.thaw()
        eventually(lambda: site.ask("requests")["total"] == 0)


class TestLoading:
    def test_a_plugin_is_loaded_reloaded_with_new_code_and_unloaded(self, site: Site, tmp_path: Path) -> None:
        code = "from gofer.decorators import remote\n\n@remote\ndef version():\n    return {}\n"
        path = site.plugin("cat", code.format(1))
        assert site.mgt("-l", str(path)) == "cat: running (gofer-plugin-cat 1.0)\n"
        assert "plugin 'cat' is loaded already" in site.mgt("-l", str(path), status=1)
        with site.caller("cat") as cat:
            until_it_answers(cat)
            assert cat.cat.version() == 1
            (site.packages / "cat_module.py").write_text(code.format(2))
            assert site.mgt("-r", "cat") == "cat: running (gofer-plugin-cat 1.0)\n"
            assert cat.cat.version() == 2
            assert json.loads(site.mgt("-r", str(path), "--json"))["state"] == "running"
        assert site.mgt("-u", "cat") == ""
        assert "cat" not in {one["name"] for one in site.ask("show")["plugins"]}
        assert "there is no plugin 'cat'; there are: broken, kennel, resting" in site.mgt("-u", "cat", status=1)

    def test_a_relative_path_is_that_of_the_caller(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        site.plugin("mouse", "")
        monkeypatch.chdir(site.root / "etc")
        assert site.mgt("-l", "gofer/plugins/mouse.conf") == "mouse: running (gofer-plugin-mouse 1.0)\n"
        assert site.mgt("-u", "gofer/plugins/mouse.conf") == ""
        assert site.mgt("-l", "mouse.conf") == "mouse: running (gofer-plugin-mouse 1.0)\n"  # not here: the agent's
        monkeypatch.chdir(site.root / "etc/gofer/plugins")
        assert site.mgt("-u", "mouse.conf") == ""

    def test_what_cannot_be_loaded_is_reported_and_shown(self, site: Site) -> None:
        path = site.plugin("dud", "1 / 0")
        assert "ZeroDivisionError: division by zero" in site.mgt("-l", str(path), status=1)
        dud = site.shown("dud")
        assert (dud["state"], "ZeroDivisionError" in dud["trace"]) == ("quarantined", True)
        site.ask("unload", which="dud")
        assert "No such file" in site.mgt("-l", str(site.root / "nowhere.conf"), status=1)

    def test_an_action_goes_on_with_new_code(self, site: Site) -> None:
        code = (
            "import pathlib, os\nfrom gofer.decorators import action\n\n@action(seconds=0.02)\ndef tick():\n"
            "    open(os.environ['GOFER_ROOT'] + '/ticks', 'a').write('{}' + chr(10))\n"
        )
        ticks = site.root / "ticks"
        path = site.plugin("ticker", code.format("old"))
        site.ask("load", path=str(path))
        eventually(lambda: ticks.exists() and len(ticks.read_text().split()) > 1)
        (site.packages / "ticker_module.py").write_text(code.format("new"))
        site.ask("reload", which="ticker")
        eventually(lambda: ticks.read_text().split()[-1] == "new")
        told = ticks.read_text()
        assert "old" not in told[told.index("new") :]
        site.ask("unload", which="ticker")
        after = len(ticks.read_text())
        assert site.ask("show")["agent"]["state"] == "running"
        assert len(ticks.read_text()) == after


class TestTheSubcommands:
    """``gofer agent`` does what the flags of ``gofer mgt`` do."""

    def agent(self, site: Site, *arguments: str, status: int = 0) -> str:
        done = gofer("agent", *arguments, environ={"GOFER_ROOT": str(site.root)})
        assert done.returncode == status, done.stderr
        return done.stdout if status == 0 else done.stderr

    def test_the_agent_is_shown_to_people_and_to_programs(self, site: Site) -> None:
        assert f" running: pid {site.goferd.pid}, " in self.agent(site, "show")
        told = json.loads(self.agent(site, "show", "--json"))
        assert {plugin["name"] for plugin in told["plugins"]} >= {"kennel", "broken", "resting"}

    def test_a_plugin_is_loaded_reloaded_and_unloaded(
        self, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = site.plugin("hen", "")
        assert self.agent(site, "load", str(path)) == "hen: running (gofer-plugin-hen 1.0)\n"
        monkeypatch.chdir(path.parent)
        assert self.agent(site, "reload", "hen.conf") == "hen: running (gofer-plugin-hen 1.0)\n"
        assert self.agent(site, "unload", "hen") == ""
        told = "gofer agent unload: there is no plugin 'hen'; there are: broken, "
        assert told in self.agent(site, "unload", "hen", status=1)

    def test_requests_are_listed_and_cancelled(self, site: Site, agent: Agent) -> None:
        numbers = [agent(wait=0, data={"batch": n}).Dog().stay() for n in (1, 2)]
        eventually(lambda: site.ask("requests")["total"] == 2)
        listed = self.agent(site, "requests", "--plugin", "kennel", "--most", "10")
        assert all(sn in listed for sn in numbers)
        assert self.agent(site, "cancel", numbers[0]) == f"{numbers[0]}\n"
        where = '{"match": {"batch": 2}}'
        assert self.agent(site, "cancel", "--where", where, "--plugin", "kennel") == f"{numbers[1]}\n"
        eventually(lambda: site.ask("requests")["total"] == 0)
        assert self.agent(site, "requests") == ""

    @pytest.mark.parametrize(
        ("arguments", "status", "says"),
        [
            (("retry", "abc"), 4, "gofer agent retry: request 'abc': only what is undeliverable or interrupted"),
            (("drop", "abc"), 4, "gofer agent drop: request 'abc': only what is undeliverable or interrupted"),
            (("cancel",), 2, "cancel needs one of 'sn' and 'criteria'"),
            (("cancel", "--where", "[]"), 2, "'[]' is not a JSON object"),
            (("reload",), 2, "Missing argument"),
            (("requests", "--state", "odd"), 2, "'odd' is not one of 'waiting', 'running'"),
            (("reload", ""), 2, "'PATH|NAME': it is empty; allowed: a plugin's name, or the path of its descriptor"),
            (("dance",), 2, "gofer agent: no command 'dance' (did you mean 'cancel'?) (see gofer agent --help)"),
        ],
    )
    def test_what_cannot_be_done_is_reported(
        self, site: Site, arguments: tuple[str, ...], status: int, says: str
    ) -> None:
        assert says in self.agent(site, *arguments, status=status)


class TestTheCommand:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ((), "choose exactly one action: --show"),
            (("-s", "-u", "kennel"), "choose exactly one action"),
            (("-u", ""), "'--unload': it is empty"),
            (("-s", "--plugin", "kennel"), "--plugin does not go with --show"),
            (("--cancel", "x", "--state", "running"), "--state does not go with --cancel"),
            (("--cancel-where", "[]"), "'[]' is not a JSON object"),
            (("-p", "0", "-s"), "0 is not in the range"),
        ],
    )
    def test_what_makes_no_sense_is_reported(self, site: Site, arguments: tuple[str, ...], says: str) -> None:
        assert says in site.mgt(*arguments, status=2)

    def test_an_agent_that_is_not_there_is_reported(self, tmp_path: Path) -> None:
        done = gofer("mgt", "-s", "--root", str(tmp_path))
        assert done.returncode == 6
        assert (
            done.stderr == f"gofer mgt: no goferd listens at {socket_of(Root(tmp_path))}: No such file or directory\n"
        )

    def test_a_reader_that_has_gone_away_is_its_status(self, site: Site) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        try:
            for option in ("--show", "--json"):
                command = [GOFER, "mgt", "--show", option, "--root", str(site.root)]
                done = forkserver.run(command, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60)
                assert (done.returncode, done.stderr) == (141, b"")
        finally:
            os.close(writing)

    def test_help_lists_the_exit_statuses(self) -> None:
        text = gofer("mgt", "--help").stdout
        for status in (*range(7), 130):
            assert re.search(rf"^ +{status} +\w", text, re.MULTILINE)


def test_an_agent_by_tcp_and_one_that_is_still_loading(root: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    flag = tmp_path / "go"
    install(site, "slow", f"import os, time\nwhile not os.path.exists({str(flag)!r}):\n    time.sleep(0.01)\n")
    describe(root, "slow")
    port = free_port()
    with AgentProcess(root, path=(site,)) as goferd:
        goferd.configure(f"[management]\nenabled=1\nhost=127.0.0.1\nport={port}\n")
        where = Root(root)
        starting = threading.Thread(target=goferd.start)
        starting.start()
        try:
            eventually(lambda: token_of(where).exists())

            def state() -> Any:
                told = ask(where, {"do": "show"}, host="127.0.0.1", port=port, wait=30)
                return [told["agent"]["state"], *(plugin["state"] for plugin in told["plugins"])]

            eventually(lambda: state() == ["starting", "loading"], what=f"{state()}")
        finally:
            flag.touch()
            starting.join()
        eventually(lambda: state() == ["running", "running"])
        done = gofer("mgt", "-p", str(port), "-u", "slow", environ={"GOFER_ROOT": str(root)})
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert goferd.stop() == 0
        assert not socket_of(where).exists()
        assert os.listdir(where.run) == ["goferd.lock"]


# Nobody may not read the modules that are imported late.
AS_NOBODY = """
import difflib, os, sys
import gofer.tools.main, gofer.tools.agent, gofer.tools.agent_client, gofer.tools.agent_tree
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print([gofer.tools.main.main(["mgt", *arguments.split()]) for arguments in sys.argv[1:]])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_as_another_user_everything_is_refused_and_as_root_it_is_served() -> None:
    top = Path(tempfile.mkdtemp())  # what pytest makes is closed to others
    top.chmod(0o755)
    asked = ["-s", "-l x.conf", "-r x", "-u x", "--requests", "--cancel x", "--retry x", "--drop x"]
    try:
        with AgentProcess(top) as goferd:
            goferd.start()

            def as_nobody() -> subprocess.CompletedProcess[str]:
                command = [sys.executable, "-c", AS_NOBODY, *asked]
                environ = {**os.environ, "GOFER_ROOT": str(top)}
                return subprocess.run(command, env=environ, capture_output=True, text=True, check=True)

            done = as_nobody()
            assert done.stdout == f"{[5] * 8}\n"
            assert "Permission denied; only root and the agent's own user may manage it" in done.stderr

            (top / "run/gofer").chmod(0o755)  # as a service manager may have made it
            done = as_nobody()
            assert done.stdout == f"{[5] * 8}\n"
            assert done.stderr == "gofer mgt: only root and the agent's own user may manage this agent\n" * 8
            refused = [line for line in goferd.tail(100).splitlines() if "management: refused: process" in line]
            assert len(refused) == 8
            assert gofer("mgt", "-s", environ={"GOFER_ROOT": str(top)}).returncode == 0
    finally:
        shutil.rmtree(top)
