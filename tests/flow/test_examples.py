"""The programs of examples/ with real agents: a machine that answers, one that does not, one that refuses.

What their READMEs say to type is run by tests/docs.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from gofer.proxy import Agent
from gofer.testing.emulator import Emulator, Script
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.repository import TOP
from support.waiting import eventually

pytestmark = pytest.mark.xdist_group("examples")  # one process makes what the module shares

MACHINES = ["web-1", "web-2", "web-3", "signed", "guarded", "slow"]
DESCRIPTOR = """
[main]
enabled = 1
threads = 4
plugin = {plugin}
[messaging]
url = {url}
{more}
[model]
queue = {name}
"""
SLOW = """
import threading
from gofer.agent.rmi import Context
from gofer.decorators import remote

class Disk:
    def __init__(self, path="/"):
        self.path = path

    @remote(timeout=5)  # it is told to stop then
    def usage(self):
        while not Context.current().cancelled():
            threading.Event().wait(0.01)
"""
GUARDED = """
from gofer.decorators import remote

class Disk:
    def __init__(self, path="/"):
        self.path = path

    @remote(secret="sesame")
    def usage(self):
        pass
"""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    root = tmp_path_factory.mktemp("agent")
    path = (TOP / "examples/first-plugin",)
    with LocalBroker(str(root / "broker.sock")) as broker, AgentProcess(root, path=path) as process:
        keys = root / "keys"
        keys.touch(0o600)
        keys.write_text("ops MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=\n")
        process.plugin("slow", SLOW, DESCRIPTOR.format(plugin="slow", url=broker.url, name="slow", more=""))
        process.plugin("guarded", GUARDED, DESCRIPTOR.format(plugin="guarded", url=broker.url, name="guarded", more=""))
        signed = f"authenticator = hmac\n[hmac]\nkeys = {keys}\n"
        for name, more in (("web-1", ""), ("web-2", ""), ("signed", signed)):
            text = DESCRIPTOR.format(plugin="gofer_plugin_disks", url=broker.url, name=name, more=more)
            process.descriptor(name, text)
        yield process.start()


@pytest.fixture(scope="module")
def url(process: AgentProcess) -> str:
    url = f"local://{process.root}/broker.sock"
    for name in ("web-1", "web-2", "signed", "slow", "guarded"):
        with Agent(url, name) as agent:
            until_it_answers(agent, process.tail())
    return url


def load(path: str) -> ModuleType:
    """Import a program of examples/."""
    spec = importlib.util.spec_from_file_location(f"example_{Path(path).stem}", TOP / "examples" / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestFleet:
    def ask(self, url: str, machines: list[str], **options: Any) -> dict[str, tuple[str, str]]:
        fleet = load("fleet/fleet.py")
        given = {"path": "/", "least": 0, "wait": 30.0, "at_once": 8, **options}
        outcomes = asyncio.run(fleet.ask_all(machines, url=url, **given))
        assert [one.machine for one in outcomes] == machines
        return {one.machine: (one.what, one.text) for one in outcomes}

    def test_each_machine_has_its_outcome(self, url: str) -> None:
        seen = self.ask(url, ["web-1", "web-3", "signed", "guarded", "web-2"])
        assert [seen["web-1"][0], seen["web-2"][0]] == ["ok", "ok"]
        assert seen["web-3"][0] == "no agent"
        assert seen["signed"][0] == "rejected"
        assert seen["signed"][1].startswith("security.authentication: ")
        assert seen["guarded"][0] == "failed"
        assert "\n" not in seen["guarded"][1]

    def test_too_little_space_and_a_directory_that_there_is_not(self, url: str) -> None:
        assert self.ask(url, ["web-1"], least=101)["web-1"][0] == "low"
        failed = self.ask(url, ["web-1"], path="/no/such")["web-1"]
        assert (failed[0], failed[1].partition(":")[0]) == ("failed", "FileNotFoundError")

    def test_one_that_takes_too_long_delays_no_other(self, url: str) -> None:
        for wait in (1, 4):  # on a busy machine the other takes longer, too
            seen = self.ask(url, ["slow", "web-1"], wait=float(wait))
            if seen["web-1"][0] == "ok" and "started" in seen["slow"][1]:
                break
        assert seen["web-1"][0] == "ok"
        assert seen["slow"] == ("timeout", f"after {wait} s; the last state was 'started'")

    def test_many_share_one_connection_and_a_limit(self, url: str) -> None:
        machines = ["web-1", "web-2"] * 100
        fleet = load("fleet/fleet.py")
        outcomes = asyncio.run(fleet.ask_all(machines, url=url, path="/", least=0, wait=30.0, at_once=4))
        assert {one.what for one in outcomes} == {"ok"}
        assert len(outcomes) == 200

    def test_two_hundred_emulated_machines_have_an_outcome_each(self, url: str) -> None:
        script = Script(
            answer={"free": 30, "total": 100}, fail=0.05, frozen=0.05, gone=0.05, crash=0.1, down=(0.0, 0.1), seed=4
        )

        async def go(wait: float) -> tuple[list[Any], Emulator]:
            fleet = load("fleet/fleet.py")
            async with Emulator(url, 200, script, prefix=f"many-{wait:g}") as emulator:
                machines = [agent.name for agent in emulator.agents]
                outcomes = await fleet.ask_all(machines, url=url, path="/", least=0, wait=wait, at_once=200)
                assert [one.machine for one in outcomes] == machines
                return outcomes, emulator

        for wait in (4.0, 20.0):  # on a busy machine those that answer take longer
            outcomes, emulator = asyncio.run(go(wait))
            counted = Counter(one.what for one in outcomes)
            if counted["timeout"] == 10:
                break
        assert max(emulator.runs.values()) == 1
        kinds = {agent.name: agent.kind for agent in emulator.agents}
        for one in outcomes:
            if kinds[one.machine] in ("frozen", "gone"):
                assert one.what == {"frozen": "timeout", "gone": "no agent"}[kinds[one.machine]]
            elif one.what == "failed":
                assert kinds[one.machine] == "failing" or "how far it got is not known" in one.text
            else:
                assert (one.what, one.text, kinds[one.machine]) == ("ok", "30 % free", "well")
        crashes = sum("how far it got is not known" in one.text for one in outcomes)
        assert crashes == emulator.crashes > 0
        assert counted["timeout"] == counted["no agent"] == 10
        assert sum(counted.values()) == 200

    def test_without_a_broker_each_has_failed(self, tmp_path: Path) -> None:
        program = [
            sys.executable,
            str(TOP / "examples/fleet/fleet.py"),
            "--url",
            f"local://{tmp_path}/none",
            "--wait",
            "1",
        ]
        done = subprocess.run([*program, "web-1", "web-2"], check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert done.stdout.splitlines()[-1] in ("2 timeout", "2 failed")


class WebApi:
    """The application in a server of its own, on a free port."""

    def __init__(self, url: str, folder: Path) -> None:
        self.log = folder / "uvicorn.log"
        environ = {**os.environ, "GOFER_URL": url, "GOFER_MACHINES": ",".join(MACHINES), "GOFER_WAIT": "1"}
        program = [sys.executable, "-W", "error::ResourceWarning", "-m", "uvicorn"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*program, "--app-dir", str(TOP / "examples/web-api"), "app:app", "--port", "0"],
                env=environ,
                stdout=log,
                stderr=log,
            )
        said = eventually(lambda: re.search(r"running on (http://\S+)", self.log.read_text()), what=str(self.log))
        self.address = said[1]

    def get(self, path: str) -> tuple[int, Any]:
        """Return the status and what the answer says."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as answer:
            with answer:
                return answer.code, json.load(answer)

    def stop(self) -> int:
        """Stop it as a service manager does, and return its exit status."""
        self.process.terminate()
        return self.process.wait(30)


@pytest.fixture(scope="module")
def api(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApi]:
    api = WebApi(url, tmp_path_factory.mktemp("web-api"))
    try:
        yield api
    finally:
        api.process.kill()
        api.process.wait()


class TestWebApi:
    def test_it_calls_machines(self, api: WebApi) -> None:
        assert api.get("/machines") == (200, MACHINES)
        status, usage = api.get("/machines/web-1/disk?path=/tmp")
        assert (status, sorted(usage)) == (200, ["free", "total", "used"])

    def test_only_listed_machines_can_be_called(self, api: WebApi) -> None:
        for name in ("web-9", "Admin", "web-1%2Fx", "amq.topic"):
            assert api.get(f"/machines/{name}/disk")[0] == 404

    @pytest.mark.parametrize(
        ("machine", "path", "status", "said"),
        [
            ("slow", "/", 504, {"error": "RequestTimeout", "state": "started"}),
            ("signed", "/", 403, {"error": "Rejected", "code": "security.authentication"}),
            ("guarded", "/", 403, {"error": "SecretRequired"}),
            ("web-3", "/", 503, {"error": "NotFound"}),
            ("web-1", "/no/such", 404, {"error": "FileNotFoundError"}),
            ("web-1", "/etc/passwd/x", 404, {"error": "NotADirectoryError"}),
        ],
    )
    def test_each_error_is_a_status(
        self, api: WebApi, machine: str, path: str, status: int, said: dict[str, str]
    ) -> None:
        seen, answer = api.get(f"/machines/{machine}/disk?path={path}")
        assert (seen, said.items() <= answer.items()) == (status, True), answer
        assert "Traceback" not in answer["detail"]

    def test_a_slow_machine_holds_up_no_other_request(self, api: WebApi) -> None:
        with ThreadPoolExecutor(21) as threads:
            slow = threads.submit(api.get, "/machines/slow/disk")
            quick = [threads.submit(api.get, "/machines/web-1/disk") for _ in range(20)]
            assert {call.result()[0] for call in quick} == {200}
            assert slow.result()[0] == 504

    def test_its_end_closes_the_agents(self, url: str, tmp_path: Path) -> None:
        api = WebApi(url, tmp_path)
        assert api.get("/machines/web-2/disk")[0] == 200
        assert api.stop() in (0, -signal.SIGTERM)  # uvicorn raises the signal again, once all is closed
        log = api.log.read_text()
        assert "Application shutdown complete" in log
        assert "Warning" not in log
        assert "Traceback" not in log
