"""A machine is copied with its /var/lib/gofer: its agent says so, and can be told from the original."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from gofer.proxy import Agent
from support.commands import gofer
from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.probe import PROBE
from support.waiting import eventually


@pytest.fixture
def broker(root: Path) -> Iterator[LocalBroker]:
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker:
        yield broker


def described(process: AgentProcess, broker: LocalBroker) -> AgentProcess:
    process.plugin("probe", PROBE, f"[main]\nenabled = 1\n[messaging]\nurl = {broker.url}\n")
    return process


def warnings(process: AgentProcess) -> list[str]:
    return [line for line in process.tail().splitlines() if " WARNING " in line and "another machine" in line]


def shown(process: AgentProcess) -> str:
    done = gofer("mgt", "--show", environ={"GOFER_ROOT": str(process.root)})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_copy_warns_and_is_distinguished_from_the_original(broker: LocalBroker, root: Path, tmp_path: Path) -> None:
    with described(AgentProcess(root), broker) as original:
        original.start()
        identity = root / "var/lib/gofer/identity"
        address = (identity / "probe").read_text().strip()
        with Agent(broker.url, address, wait=30) as agent:
            until_it_answers(agent, original.tail())
            assert agent.Admin().hello() == "Hello, I am gofer agent"
            told = agent.Admin().hello(who=True)
            assert (told["hello"], told["pid"], told["root"]) == ("Hello, I am gofer agent", original.pid, str(root))
            assert (told["host"], told["queue"], told["plugin"]) == (socket.gethostname(), address, "probe")
            original.stop()
            original.start()
            until_it_answers(agent, original.tail())
            assert warnings(original) == []

            copied = tmp_path / "copied"
            copied.mkdir()
            shutil.copytree(root / "var/lib/gofer", copied / "var/lib/gofer")
            (copied / "var/lib/gofer").chmod(0o700)
            kept = copied / "var/lib/gofer/identity/.probe.machine"
            assert socket.gethostname() in kept.read_text()
            machine_id = Path("/etc/machine-id")
            assert not machine_id.exists() or machine_id.read_text().strip() not in kept.read_text()
            kept.write_text("machine-id:0123 web1\n")  # what the original would have written, had it been another one
            with described(AgentProcess(copied), broker) as copy:
                copy.start()
                (line,) = warnings(copy)
                assert f"plugin probe: its queue {address} was made on another machine, 'web1'" in line
                assert f"remove {kept.parent / 'probe'} and {kept}" in line
                assert "was made on another machine, 'web1'" in shown(copy)
                assert "another machine" not in shown(original)
                assert f"root {copied}, host {socket.gethostname()}, since" in shown(copy)
                found: set[int] = set()
                eventually(lambda: found.add(agent.Admin().hello(who=True)["pid"]) or len(found) == 2)
                assert found == {original.pid, copy.pid}

                copy.stop()
                (kept.parent / "probe").unlink()
                kept.unlink()
                before = len(warnings(copy))
                copy.start()
                assert len(warnings(copy)) == before
                assert (kept.parent / "probe").read_text().strip() != address


def test_an_identity_of_before_is_taken_for_this_machines(broker: LocalBroker, root: Path) -> None:
    identity = root / "var/lib/gofer/identity"
    identity.mkdir(mode=0o700)
    (identity / "probe").write_text("6f53ec74-a1ef-4e24-949e-9039a8670c2c\n")
    with described(AgentProcess(root), broker) as process:
        process.start()
        assert warnings(process) == []
        assert os.listdir(identity) != ["probe"]
        with Agent(broker.url, "6f53ec74-a1ef-4e24-949e-9039a8670c2c", wait=30) as agent:
            until_it_answers(agent, process.tail())
