"""What is known of each request at the end: what its caller was told, and what the methods have written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Request", "collect"]


@dataclass(slots=True)
class Request:
    """One request. Times are of ``time.time()``.

    Attributes:
        ends: the outcomes that its caller was told, with details, seconds and the time.
        told: the ends that consumers of the queue for replies were told; ``late``: statuses that came after one.
        begun, ended: when its runs began and ended.
        sns: the serial numbers that its runs saw; ``agents``: the processes that they ran in.
    """

    id: str
    kind: str = "unknown"
    sent: float = 0.0
    ends: list[dict[str, Any]] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    late: int = 0
    begun: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    sns: set[str] = field(default_factory=set)
    agents: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """How it ended for its caller; of one that was answered to a queue and taken, what was told there."""
        if not self.ends:
            return "none"
        outcome = str(self.ends[0]["outcome"])
        if self.kind == "replies" and outcome == "taken":
            return str(self.told[0]["outcome"]) if self.told else "none"
        return outcome

    @property
    def detail(self) -> str:
        """More on its outcome."""
        return str(self.ends[0]["detail"]) if self.ends else ""

    @property
    def seconds(self) -> float | None:
        """How long its caller waited."""
        return self.ends[0].get("seconds") if self.ends else None

    def shown(self) -> str:
        """Tell all of it in a line."""
        return (
            f"{self.id} sn {','.join(self.sns) or '?'} sent {self.sent:.3f} "
            f"begun {[round(at, 3) for at in self.begun]} ended {[round(at, 3) for at in self.ended]} "
            f"pids {self.agents} outcome {self.outcome}: {self.detail} "
            f"told {[(one['outcome'], one['at']) for one in self.told]}"
        )


def collect(journals: Iterable[dict[str, Any]], runs: Path) -> dict[str, Request]:
    """Put together what the callers and the methods have written, by the requests' names."""
    requests: defaultdict[str, Request] = defaultdict(lambda: Request(""))

    def of(name: str) -> Request:
        request = requests[name]
        request.id = name
        return request

    for event in sorted((one for one in journals if one["event"] != "size"), key=lambda one: float(one["at"])):
        request = of(event["id"])
        match event["event"]:
            case "sent":
                request.kind, request.sent = event["kind"], event["at"]
            case "end":
                request.ends.append(event)
            case "told" if event["done"]:
                request.told.append(event)
            case "told" if any(end["by"] == event["by"] for end in request.told):
                request.late += 1
    for line in runs.read_text().splitlines():
        at, what, sn, name, agent = line.split(" ")
        request = of(name)
        request.sns.add(sn)
        if what == "begun":
            request.begun.append(float(at))
            request.agents.append(agent)
        else:
            request.ended.append(float(at))
    return dict(requests)
