"""What is read of the agent when somebody asks for its metrics."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from gofer.agent.certificates import certificates_in_use
from gofer.rmi.request import ANSWERING, RUNNING
from gofer.rmi.server.counters import BOUNDS
from gofer.rmi.store import requests
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from gofer.agent.container import PluginContainer
    from gofer.agent.plugin import Plugin

__all__ = ["Readings"]

log = logging.getLogger(__name__)

_PATIENCE = 2.0  # seconds that a scrape waits for the disk

#: Counts of a plugin: the metric, the agent's own name of the count, and what it is.
_COUNTS = (
    ("gofer_requests_accepted", "accepted", "Requests taken on"),
    ("gofer_requests_repeated", "repeated", "Deliveries of a request that was known already, and was not run again"),
    ("gofer_messages_dropped", "dropped", "Messages that nobody could be answered for"),
    ("gofer_replies_retried", "retried", "Results and rejections that were sent more than once"),
    ("gofer_replies_undeliverable", "undeliverable", "Results and rejections that were given up"),
    ("gofer_statuses_lost", "statuses_lost", "Statuses that could not be sent, or were not taken"),
)
_LEDGER = (
    requests.QUEUED, requests.RUNNING, requests.ANSWERING, requests.DONE, requests.UNDELIVERABLE, requests.INTERRUPTED,
    requests.CANCELLED,
)  # fmt: skip


class Readings(Collector):
    """Collects the metrics of one agent. Any thread; waits for files and the ledger, a little."""

    def __init__(self, container: PluginContainer) -> None:
        """Keep what is read."""
        self._container = container

    def describe(self) -> Iterable[Metric]:
        """Return nothing: the agent is read when somebody asks, not before."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read all metrics."""
        plugins = list(self._container.plugins.values())
        yield from self._agent()
        yield from _states(plugins)
        # Those that only have hooks or actions answer nobody.
        answering = [one for one in plugins if self._container.endpoints.of(one.name) or one.counters["accepted"]]
        yield from _requests(answering)
        yield from self._work(answering)
        yield from self._connections(answering)
        yield from self._ledger(answering)
        ends = GaugeMetricFamily(
            "gofer_certificate_ends_timestamp_seconds", "When a certificate in use ends", labels=("file", "name")
        )
        unreadable = GaugeMetricFamily("gofer_certificate_unreadable", "A certificate cannot be read", labels=("file",))
        for one in certificates_in_use(plugins):
            if one.ends is None:
                unreadable.add_metric((one.file,), 1)
            else:
                ends.add_metric((one.file, one.name), one.ends)
        yield from (ends, unreadable)

    def _agent(self) -> Iterator[Metric]:
        info = GaugeMetricFamily("gofer_agent_info", "The agent's versions", labels=("version", "python"))
        info.add_metric((version("gofer-core"), sys.version.split()[0]), 1)
        yield info
        text = "0: a required plugin does not run, so none takes requests"
        yield GaugeMetricFamily("gofer_agent_open", text, not self._container.endpoints.closed)

    def _work(self, plugins: Iterable[Plugin]) -> Iterator[Metric]:
        """Read what is in hand."""
        in_hand = GaugeMetricFamily("gofer_requests_open", "Requests in hand", labels=("plugin", "state"))
        overdue = GaugeMetricFamily("gofer_requests_overdue", "Methods that run past their limit", labels=("plugin",))
        threads = GaugeMetricFamily("gofer_workers", "Threads that run methods", labels=("plugin", "state"))
        late = Counter(one.channel.service.name for one in self._container.services.registry.overdue())
        for plugin in plugins:
            states: Counter[str] = Counter()
            endpoint = self._container.endpoints.of(plugin.name)
            if endpoint is not None:
                channel = endpoint.consumer.channel
                states["waiting"] = channel.backlog.count
                for request in channel.opened():
                    state = request.state
                    states["running" if state == RUNNING else "answering" if state >= ANSWERING else "waiting"] += 1
            for name in ("waiting", "running", "answering"):
                in_hand.add_metric((plugin.name, name), states[name])
            overdue.add_metric((plugin.name,), late[plugin.name])
            busy = plugin.workers.busy
            threads.add_metric((plugin.name, "busy"), busy)
            threads.add_metric((plugin.name, "free"), max(0, plugin.descriptor.threads - busy))
        yield from (in_hand, overdue, threads)

    def _connections(self, plugins: Iterable[Plugin]) -> Iterator[Metric]:
        """Read how the plugins stand with their brokers."""
        connected = GaugeMetricFamily("gofer_connected", "The plugin's connection is open", labels=("plugin",))
        listening = GaugeMetricFamily("gofer_listening", "The plugin's queue is subscribed to", labels=("plugin",))
        deaf = GaugeMetricFamily("gofer_deaf", "The connection is open and nothing comes through", labels=("plugin",))
        probed = GaugeMetricFamily(
            "gofer_probe_age_seconds", "Since when no probe has come back through the broker", labels=("plugin",)
        )
        again = CounterMetricFamily("gofer_reconnects", "Connections made after the first one", labels=("plugin",))
        for plugin in plugins:
            endpoint = self._container.endpoints.of(plugin.name)
            if endpoint is None:
                continue
            link, subscription, labels = endpoint.link, endpoint.consumer.subscription, (plugin.name,)
            connected.add_metric(labels, link.is_open)
            listening.add_metric(labels, link.is_open and subscription is not None and subscription.active)
            again.add_metric(labels, max(0, link.core.openings - 1))
            probe = self._container.links.probe(link)
            if probe is not None:
                deaf.add_metric(labels, probe.deaf is not None)
                age = probe.describe()["returned"]
                if age is not None:
                    probed.add_metric(labels, age)
        yield from (connected, listening, deaf, probed, again)

    def _ledger(self, plugins: Iterable[Plugin]) -> Iterator[Metric]:
        """Count what is on the disk. A ledger that does not answer is told as that; the rest is shown all the same."""
        store = self._container.store
        counts: dict[tuple[str, str], int] | None = {}
        if store.exists():
            answered = threading.Event()
            found: list[Any] = []

            def done(value: Any, failed: Exception | None) -> None:
                found[:] = [value, failed]
                answered.set()

            store.post(requests.count_all, done)
            if not answered.wait(_PATIENCE) or found[1] is not None:
                counts = None
            else:
                counts = {(plugin, state): number for plugin, state, number in found[0]}
        yield GaugeMetricFamily("gofer_ledger_usable", "The ledger can be read", counts is not None and not store.error)
        if counts is None:
            return
        rows = GaugeMetricFamily("gofer_ledger_requests", "Requests in the ledger", labels=("plugin", "state"))
        for plugin in sorted({plugin.name for plugin in plugins} | {plugin for plugin, _ in counts}):
            for state in _LEDGER:
                rows.add_metric((plugin, state), counts.get((plugin, state), 0))
        yield rows


def _states(plugins: Iterable[Plugin]) -> Iterator[Metric]:
    info = GaugeMetricFamily("gofer_plugin_info", "A plugin's code", labels=("plugin", "distribution", "version"))
    running = GaugeMetricFamily("gofer_plugin_running", "The plugin answers requests", labels=("plugin",))
    for plugin in plugins:
        source = plugin.source
        code = ("", "") if source is None else (source.distribution or "", source.version or "")
        info.add_metric((plugin.name, *code), 1)
        if plugin.enabled:
            running.add_metric((plugin.name,), plugin.is_running)
    yield from (info, running)


def _requests(plugins: Iterable[Plugin]) -> Iterator[Metric]:
    """Read what became of requests, and how long that took."""
    ended = CounterMetricFamily("gofer_requests", "Requests that have ended", labels=("plugin", "method", "outcome"))
    rejected = CounterMetricFamily("gofer_requests_rejected", "Rejections", labels=("plugin", "code"))
    text = "Seconds from the start of a method to its result"
    ran = HistogramMetricFamily("gofer_request_duration_seconds", text, labels=("plugin", "method"))
    text = "Seconds from the delivery of a request to the start of its method"
    waited = HistogramMetricFamily("gofer_request_wait_seconds", text, labels=("plugin",))
    text = "Seconds in other plugins' hooks, without the method"
    hooks = SummaryMetricFamily("gofer_hook_duration_seconds", text, labels=("plugin", "hook"))
    counts = [CounterMetricFamily(name, text, labels=("plugin",)) for name, _, text in _COUNTS]
    for plugin in plugins:
        counters = plugin.counters
        for family, (_, name, _) in zip(counts, _COUNTS, strict=True):
            family.add_metric((plugin.name,), counters[name])
        durations: dict[str, list[float]] = {}
        for what, classes in sorted(counters.times().items()):
            number = sum(classes[:-1])
            if what[0] in ("ran", "left"):
                method = ".".join(filter(None, what[2:]))
                ended.add_metric((plugin.name, method, what[1]), number)
                if what[0] == "ran":
                    known = durations.get(method, [0] * len(classes))
                    durations[method] = [a + b for a, b in zip(classes, known, strict=True)]
            elif what[0] == "rejected":
                rejected.add_metric((plugin.name, what[1]), number)
            elif what[0] == "hook":
                hooks.add_metric((plugin.name, what[1]), int(number), classes[-1])
            else:
                waited.add_metric((plugin.name,), _buckets(classes), classes[-1])
        for method, classes in durations.items():
            ran.add_metric((plugin.name, method), _buckets(classes), classes[-1])
    yield from (ended, rejected, ran, waited, hooks, *counts)


def _buckets(classes: list[float]) -> list[tuple[str, float]]:
    """Return the classes as Prometheus has them: how many took at most so long."""
    total, found = 0.0, []
    for bound, number in zip((*map(str, BOUNDS), "+Inf"), classes[:-1], strict=True):
        total += number
        found.append((bound, total))
    return found
