"""One call through RabbitMQ, and what Prometheus reads after it: docs/metrics.md shows it as it came out."""

from __future__ import annotations

from pathlib import Path

import pytest
from gofer.proxy import Agent
from support.brokers.rabbitmq import RabbitMQ
from support.goferd import AgentProcess
from support.pages import Block, read_page
from support.plugins import describe
from support.ports import free_port
from support.repository import TOP
from support.scrapes import Scrape, scrape
from support.waiting import eventually

#: Numbers that differ each time: of these the page's names and labels are compared.
CHANGING = ("process_", "gofer_request_duration_seconds", "gofer_request_wait_seconds", "gofer_probe_age_seconds")


@pytest.fixture
def exposition(rabbitmq: RabbitMQ, vhost: str, root: Path) -> Scrape:
    """What is read after one call of a method of the demo plugin."""
    url, port = rabbitmq.url(vhost=vhost), free_port()
    describe(root, "demo", f"[main]\nenabled=1\n[messaging]\nurl={url}\n[model]\nqueue=web1\n")
    describe(root, "metrics", f"[main]\nenabled=1\n[metrics]\nport={port}\n")
    with AgentProcess(root) as goferd, Agent(url, "web1", wait=20) as agent:
        goferd.start()
        eventually(lambda: scrape(port).value("gofer_listening", plugin="demo") == 1, what=goferd.tail())
        assert agent.Demo().echo("hello") == "hello"
        done = {"plugin": "demo", "method": "Demo.echo", "outcome": "value"}
        eventually(lambda: scrape(port).value("gofer_requests_total", **done) == 1)
        eventually(lambda: scrape(port).value("gofer_requests_open", plugin="demo", state="answering") == 0)
        eventually(lambda: scrape(port).value("gofer_probe_age_seconds", plugin="demo") is not None)
        return scrape(port)


def test_the_page_shows_what_comes_out(exposition: Scrape) -> None:
    page = read_page((TOP / "docs/metrics.md").read_text("utf-8"))
    (shown,) = [item for item in page if isinstance(item, Block) and "# TYPE" in item.text]
    told = [line for line in shown.text.splitlines() if not line.startswith("#")]
    assert len(told) > 40
    real = exposition.text.splitlines()
    for line in told:
        if line.startswith((*CHANGING, "gofer_plugin_info", "gofer_agent_info")):
            series = line.rpartition(" ")[0].partition("version=")[0]
            assert any(one.startswith(series) for one in real), line
        else:
            assert line in real
    # All that gofer exposes is on the page, but for repetitions.
    names = {line.partition("{")[0].partition(" ")[0] for line in real if line.startswith("gofer_")}
    assert names == {name for line in told if (name := line.partition("{")[0].partition(" ")[0]).startswith("gofer_")}


def test_the_page_names_every_metric(exposition: Scrape) -> None:
    page = (TOP / "docs/metrics.md").read_text("utf-8")
    families = [line.split()[2] for line in exposition.text.splitlines() if line.startswith("# TYPE gofer_")]
    assert [name for name in families if f"| `{name}` |" not in page] == []
