"""examples/container: what can be told of it without a container engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from gofer.agent.config import read_descriptor
from gofer.proxy import Agent
from gofer.root import Root
from gofer.testing.agents import AgentProcess
from support.commands import gofer
from support.localbroker import LocalBroker
from support.presence import until_it_answers
from support.repository import TOP

FOLDER = TOP / "examples/container"


@pytest.fixture
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return found


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    command = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert command is not None, "hadolint is not installed; tests/requirements.txt names it"
    return subprocess.run([command, file], capture_output=True, text=True, timeout=60, check=False)


def test_hadolint_accepts_the_containerfile_and_would_not_accept_any(tmp_path: Path) -> None:
    done = hadolint(FOLDER / "Containerfile")
    assert (done.returncode, done.stdout) == (0, "")
    (tmp_path / "Containerfile").write_text("FROM debian\nRUN cd /tmp\n")
    assert hadolint(tmp_path / "Containerfile").returncode == 1


def test_what_the_containerfile_copies_is_there_and_is_installed() -> None:
    lines = [line.split() for line in (FOLDER / "Containerfile").read_text().splitlines() if line.startswith("COPY ")]
    sources = [words[-2] for words in lines if not any(word.startswith("--from") for word in words)]
    assert [source for source in sources if not (TOP / source).exists()] == []
    folders = [source for source in sources if (TOP / source).is_dir()]
    assert all(f"./{folder}" in (FOLDER / "Containerfile").read_text() for folder in folders)


def test_the_services_fit_each_other(compose: dict[str, Any], tmp_path: Path) -> None:
    known = {"image", "hostname", "environment", "volumes", "healthcheck", "build", "init", "restart", "depends_on"}
    known |= {"stop_grace_period", "command"}
    services = compose["services"]
    assert set(services) == {"rabbitmq", "agent", "caller"}
    for service in services.values():
        assert set(service) <= known
        assert set(service.get("depends_on", ())) <= set(services)
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in compose["volumes"]
        assert service["image"] == "gofer" or ":" in service["image"]  # a broker of a known version
    build = services["agent"]["build"]
    assert (FOLDER / build["context"]).resolve() == TOP
    assert (TOP / build["dockerfile"]).samefile(FOLDER / "Containerfile")
    broker = services["rabbitmq"]["environment"]
    url = f"amqp://{broker['RABBITMQ_DEFAULT_USER']}:{broker['RABBITMQ_DEFAULT_PASS']}@rabbitmq"
    assert services["caller"]["environment"] == {"GOFER_URL": url}
    (tmp_path / "demo.conf").write_text((FOLDER / "demo.conf").read_text())
    (tmp_path / "demo.conf").chmod(0o644)
    descriptor, problems = read_descriptor(Root(tmp_path), tmp_path / "demo.conf")
    assert problems == []
    assert f"url = {url}\n" in (FOLDER / "demo.conf").read_text()
    assert descriptor is not None


def test_the_caller_gets_its_answer_from_such_an_agent(compose: dict[str, Any], root: Path) -> None:
    """With the local broker in RabbitMQ's place."""
    with LocalBroker(str(root / "run/gofer/broker.sock")) as broker, AgentProcess(root) as goferd:
        text = (FOLDER / "demo.conf").read_text()
        goferd.descriptor("demo", text.replace("amqp://gofer:gofer@rabbitmq", broker.url))
        goferd.start()
        with Agent(broker.url, "demo") as agent:
            until_it_answers(agent, goferd.tail())
        command, *words = compose["services"]["caller"]["command"]
        done = gofer(*words, environ={"GOFER_URL": broker.url})
        assert (command, done.returncode, done.stdout) == ("gofer", 0, "hello\n"), done.stderr
        health = compose["services"]["agent"]["healthcheck"]["test"][2:]
        assert gofer(*health).returncode == 0
