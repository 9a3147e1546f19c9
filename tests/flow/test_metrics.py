"""The plugin `metrics` in a goferd: what Prometheus reads, by port and by file, and what the examples name."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from gofer.errors import Cancelled, GoferError, Rejected
from gofer.messaging.address import Address
from gofer.messaging.document import encode
from support.company import connected, linked
from support.managed import Site
from support.plugins import describe
from support.ports import free_port
from support.presence import until_it_answers
from support.scrapes import Scrape, names_in, scrape
from support.waiting import eventually

EXAMPLES = Path(__file__).parents[2] / "examples/monitoring"
#: What the examples name, and the agent does not expose: Prometheus's own, and node_exporter's.
OTHERS = {"up", "node_textfile_mtime_seconds"}

WATCHED = """
    import time
    from gofer.decorators import fork, remote
    from gofer.hooks import hookimpl

    @hookimpl(wrapper=True)
    def gofer_call(plugin, request):
        time.sleep(0.02)
        return (yield)

    @hookimpl
    def gofer_accept(request):
        if request.data == "no":
            raise PermissionError("not today")

    @remote
    @fork
    def apart():
        return "apart"

    @remote
    async def later():
        return "later"
"""


class Watched(Site):
    """A goferd whose metrics are read."""

    def __init__(self, top: Path) -> None:
        super().__init__(top)
        self.port = free_port()
        self.file = top / "gofer.prom"
        describe(self.root, "metrics", f"[main]\nenabled=1\n[metrics]\nport={self.port}\n")

    def scrape(self) -> Scrape:
        return scrape(self.port)

    def until(self, wanted: float, name: str, **labels: str) -> None:
        """Wait until a sample has a value."""
        eventually(lambda: self.scrape().value(name, **labels) == wanted, what=f"{name} {labels} is {wanted}")


@contextmanager
def watched(top: Path) -> Iterator[Watched]:
    top.chmod(0o755)
    site = Watched(top)
    with site.broker, site.goferd:
        site.goferd.start()
        with site.caller() as agent:
            until_it_answers(agent, site.goferd.tail())
        yield site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Watched]:
    with watched(tmp_path) as site:
        yield site


def test_requests_are_counted_by_plugin_method_and_outcome(site: Watched) -> None:
    with site.caller() as agent:
        for _ in range(3):
            assert agent.Dog().bark("woof") == "woof"
        with pytest.raises(TypeError):
            agent.Dog().bark()
        for number in range(20):  # whatever callers make up becomes no label
            with pytest.raises(GoferError):
                agent["Cat"][f"meow{number}"]()

    for wanted, method, outcome in ((3, "Dog.bark", "value"), (1, "Dog.bark", "exception"), (20, "", "exception")):
        site.until(wanted, "gofer_requests_total", plugin="kennel", method=method, outcome=outcome)
    found = site.scrape()
    assert found.labels("gofer_requests_total", "method") == {"Dog.bark", "", "Admin.hello"}
    seconds = {"plugin": "kennel", "method": "Dog.bark"}
    assert found.value("gofer_request_duration_seconds_count", **seconds) == 4
    assert found.value("gofer_request_duration_seconds_bucket", le="+Inf", **seconds) == 4
    assert 0 < (found.value("gofer_request_duration_seconds_sum", **seconds) or 0) < 60
    ended = 24 + (found.value("gofer_requests_total", plugin="kennel", method="Admin.hello") or 0)
    assert found.value("gofer_requests_accepted_total", plugin="kennel") == ended
    assert found.value("gofer_request_wait_seconds_count", plugin="kennel") == ended
    assert found.value("gofer_plugin_running", plugin="broken") == 0
    assert found.value("gofer_plugin_running", plugin="resting") is None


def test_what_runs_waits_and_is_on_the_disk_is_shown(site: Watched) -> None:
    with site.caller() as agent, ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(agent(data={"who": "dog"}).Dog().stay) for _ in range(3)]  # there are two workers
        site.until(2, "gofer_requests_open", plugin="kennel", state="running")
        site.until(1, "gofer_requests_open", plugin="kennel", state="waiting")
        assert site.scrape().value("gofer_workers", plugin="kennel", state="busy") == 2
        site.until(1, "gofer_ledger_requests", plugin="kennel", state="queued")
        site.until(2, "gofer_ledger_requests", plugin="kennel", state="running")
        agent.Admin().cancel(criteria={"match": {"who": "dog"}})
        for call in calls:
            with pytest.raises(Cancelled):
                call.result(60)
    site.until(0, "gofer_requests_open", plugin="kennel", state="running")
    site.until(0, "gofer_workers", plugin="kennel", state="busy")
    found = site.scrape()
    assert found.value("gofer_requests_total", plugin="kennel", method="Dog.stay", outcome="cancelled") == 2
    assert found.value("gofer_requests_total", plugin="kennel", method="", outcome="cancelled") == 1
    assert found.value("gofer_request_duration_seconds_count", plugin="kennel", method="Dog.stay") == 2
    assert found.value("gofer_ledger_usable") == 1


def test_rejections_have_their_code(site: Watched) -> None:
    document = {"sn": "1", "version": "9.9", "request": {"classname": "Dog", "method": "bark"}}
    with linked(connected(site.broker.url)) as link:
        link.publish(Address("", "kennel"), encode(document), deadline=time.monotonic() + 30)
        site.until(1, "gofer_requests_rejected_total", plugin="kennel", code="model.version")
        site.until(1, "gofer_messages_dropped_total", plugin="kennel")


def test_time_in_hooks_is_measured_without_the_method(site: Watched) -> None:
    site.ask("load", path=str(site.plugin("watched", WATCHED)))
    with site.caller("watched") as agent:
        until_it_answers(agent)
        assert agent.watched.apart() == "apart"
        assert agent.watched.later() == "later"
        with pytest.raises(Rejected):
            agent(data="no").watched.later()
    with site.caller() as agent:
        assert agent.Dog().bark("woof") == "woof"
    site.until(1, "gofer_requests_rejected_total", plugin="watched", code="hook.refused")
    site.until(1, "gofer_requests_total", plugin="watched", method="watched.apart", outcome="value")
    found = site.scrape()
    count = found.value("gofer_hook_duration_seconds_count", plugin="kennel", hook="gofer_call")
    total = found.value("gofer_hook_duration_seconds_sum", plugin="kennel", hook="gofer_call")
    assert count is not None
    assert total is not None
    assert total >= 0.02 * count > 0
    accepted = found.value("gofer_hook_duration_seconds_count", plugin="watched", hook="gofer_accept")
    assert accepted is not None
    assert accepted >= 3


def test_a_lost_broker_is_seen(site: Watched) -> None:
    found = site.scrape()
    assert found.value("gofer_connected", plugin="kennel") == found.value("gofer_listening", plugin="kennel") == 1
    assert found.value("gofer_reconnects_total", plugin="kennel") == 0
    site.broker.stop()
    site.until(0, "gofer_connected", plugin="kennel")
    site.until(0, "gofer_listening", plugin="kennel")
    site.broker.start()
    site.until(1, "gofer_listening", plugin="kennel")
    site.until(1, "gofer_reconnects_total", plugin="kennel")
    assert site.scrape().value("gofer_connected", plugin="metrics") is None


def test_a_reload_neither_loses_counts_nor_the_port(site: Watched) -> None:
    with site.caller() as agent:
        assert agent.Dog().bark("woof") == "woof"
        site.ask("reload", which="kennel")
        site.ask("reload", which="metrics")
        assert agent.Dog().bark("woof") == "woof"
    site.until(2, "gofer_requests_total", plugin="kennel", method="Dog.bark", outcome="value")
    site.ask("unload", which="metrics")
    with pytest.raises(OSError, match="refused"):
        site.scrape()


def test_callers_of_the_port_that_say_nothing_hold_up_no_other(site: Watched) -> None:
    idle = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(20)]
    try:
        assert site.scrape().value("gofer_agent_open") == 1
    finally:
        for one in idle:
            one.close()


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        (
            "port={taken}",
            r"metrics.conf: \[metrics\] port: cannot listen on 127.0.0.1 port \d+: Address already in use",
        ),
        ("port=many", r"\[metrics\] port: 'many' is not a port; allowed: 1 to 65535"),
        ("port=0", r"\[metrics\] port: '0' is not a port"),
        ("port=70000", r"\[metrics\] port: '70000' is not a port"),
        ("file=gofer.prom", r"\[metrics\] file: 'gofer.prom' is not an absolute path"),
        ("file=/nowhere/at/all/gofer.prom", r"\[metrics\] file: /nowhere/.* cannot be written: No such file"),
    ],
)
def test_a_setting_that_cannot_be_used_is_reported_and_changes_nothing(site: Watched, setting: str, error: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        setting = setting.format(taken=other.getsockname()[1])
        path = describe(site.root, "metrics", f"[main]\nenabled=1\n[metrics]\n{setting}\n")
        with pytest.raises(GoferError, match=error):
            site.ask("reload", which=str(path))
    # The one that could not be replaced runs on.
    assert site.scrape().value("gofer_plugin_running", plugin="metrics") == 1


@pytest.mark.slow
def test_the_file_is_whole_at_any_time_and_goes_with_the_agent(site: Watched) -> None:
    path = describe(site.root, "metrics", f"[main]\nenabled=1\n[metrics]\nfile={site.file}\n")
    site.ask("reload", which=str(path))
    with pytest.raises(OSError, match="refused"):
        site.scrape()
    first = site.file.stat().st_mtime_ns
    ended = threading.Event()

    def read() -> int:
        times = 0
        while not ended.is_set():
            assert Scrape(site.file.read_text()).value("gofer_agent_open") == 1
            times += 1
            time.sleep(0.001)
        return times

    with ThreadPoolExecutor(1) as pool, site.caller() as agent:
        reading = pool.submit(read)
        assert agent.Dog().bark("woof") == "woof"
        eventually(lambda: site.file.stat().st_mtime_ns > first)
        ended.set()
        assert reading.result(60) > 1
    found = Scrape(site.file.read_text())
    assert found.value("gofer_requests_total", plugin="kennel", method="Dog.bark", outcome="value") == 1
    assert site.file.stat().st_mode & 0o444 == 0o444  # node_exporter is another user
    site.goferd.stop()
    assert sorted(one.name for one in site.file.parent.iterdir() if "prom" in one.name) == []


class TestExamples:
    def test_every_metric_that_rules_and_dashboard_name_is_exposed(self, site: Watched) -> None:
        with site.caller() as agent:
            assert agent.Dog().bark("woof") == "woof"
        site.ask("load", path=str(site.plugin("watched", WATCHED)))
        with site.caller("watched") as agent:
            until_it_answers(agent)
            with pytest.raises(Rejected):
                agent(data="no").watched.later()
        site.until(1, "gofer_requests_rejected_total", plugin="watched", code="hook.refused")
        exposed = site.scrape().text
        groups = yaml.safe_load((EXAMPLES / "alerts.yml").read_text())["groups"]
        panels = json.loads((EXAMPLES / "dashboard.json").read_text())["panels"]
        expressions = [rule["expr"] for group in groups for rule in group["rules"]]
        expressions += [target["expr"] for panel in panels for target in panel["targets"]]
        named = set().union(*map(names_in, expressions))
        assert len(named) > 15
        families = {line.split()[2] for line in exposed.splitlines() if line.startswith("# TYPE ")}
        families |= {f"{name}{part}" for name in families for part in ("_bucket", "_sum", "_count")}
        assert named - families == OTHERS

    @pytest.mark.skipif(shutil.which("promtool") is None and not os.environ.get("CI"), reason="no promtool here")
    def test_promtool_finds_no_fault(self, site: Watched) -> None:
        for arguments in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
            done = subprocess.run(
                ["promtool", *arguments], cwd=EXAMPLES, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        done = subprocess.run(
            ["promtool", "check", "config", "prometheus.yml"],
            cwd=EXAMPLES,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        linted = subprocess.run(
            ["promtool", "check", "metrics"],
            input=site.scrape().text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (linted.returncode, linted.stderr) == (0, "")
