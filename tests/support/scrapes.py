"""What Prometheus reads of an agent, and what rules and dashboards name."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

__all__ = ["Scrape", "names_in", "scrape"]

#: What gofer exposes, and what else the examples name: Prometheus's own, node_exporter's, and of the process.
_NAME = re.compile(r"\b(?:gofer|process|node|up)(?:_[a-z]+)*\b(?!=)")


class Scrape:
    """One exposition: samples by name and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                self._samples.setdefault(one.name, []).append((one.labels, one.value))

    @property
    def names(self) -> set[str]:
        """The names of all samples."""
        return set(self._samples)

    def value(self, name: str, **labels: str) -> float | None:
        """The value of the only sample with these labels (and perhaps others); None: there is none."""
        found = [value for known, value in self._samples.get(name, ()) if labels.items() <= known.items()]
        assert len(found) < 2, (name, labels, found)
        return found[0] if found else None

    def labels(self, name: str, label: str) -> set[str]:
        """All values of a label."""
        return {known[label] for known, _ in self._samples.get(name, ())}


def scrape(port: int) -> Scrape:
    """Ask at a port of this machine, as Prometheus does."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        return Scrape(answer.read().decode())


def names_in(text: str) -> set[str]:
    """The metrics that an expression of Prometheus names."""
    return set(_NAME.findall(re.sub(r'"[^"]*"', '""', text)))
