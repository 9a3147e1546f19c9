"""The judgement: what was promised, beside what the evidence shows."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from soak.evidence import Request
from soak.places import THREADS

__all__ = ["Line", "judged", "table"]

#: Their processes are killed: of some no outcome is known, and some find no broker at the first call.
_MORTAL = "mortal"
_ONE_WAY = ("posts", "replies")
_PROPER = {"value", "raised", "interrupted", "cancelled", "taken", "not taken", "not sent"}


@dataclass(frozen=True, slots=True)
class Line:
    """One promise: whether it was kept, in what numbers, and who shows that it was not."""

    kept: bool
    promise: str
    numbers: str
    culprits: tuple[Request, ...] = ()


def judged(
    requests: dict[str, Request], ends: list[float], blows: list[float], listed: set[str], least: int
) -> list[Line]:
    """Hold the evidence against each promise.

    Args:
        ends: when the agent was killed or stopped (``time.time()``).
        blows: when anything happened to the agent or the broker.
        listed: the serial numbers that the agent's ledger says were interrupted.
        least: how many requests there must be.
    """
    every = list(requests.values())
    callers = [one for one in every if one.kind != _MORTAL]
    waiting = [one for one in callers if one.kind not in _ONE_WAY]
    answered = [one for one in callers if one.kind != "posts" and one.outcome not in ("not sent", "not taken")]
    taken = [one for one in callers if one.kind in _ONE_WAY and one.ends and one.ends[0]["outcome"] == "taken"]
    values = sum(one.outcome == "value" for one in answered)
    interrupted = [one for one in callers if one.outcome == "interrupted"]
    most = len(ends) * sum(THREADS.values())
    unproved = [one for one in waiting if one.outcome.startswith("timeout") and not proved(one)]
    timeouts = [one for one in waiting if one.outcome.startswith("timeout")]
    replies = [one for one in taken if one.kind == "replies"]

    unseen = [one for one in taken if not one.begun]

    def none(promise: str, culprits: Iterable[Request], of: int, more: str = "") -> Line:
        found = tuple(culprits)
        return Line(not found, promise, f"{len(found)} of {of} did not{more}", found)

    return [
        Line(len(every) >= least, "there were enough requests", f"{len(every)}, at least {least}"),
        none(
            "each request ended in exactly one outcome at its caller",
            (one for one in callers if one.kind == "unknown" or len(one.ends) != 1),
            len(callers),
        ),
        none(
            "each outcome is one that was promised",
            (one for one in every if not proper(one)),
            len(every),
        ),
        none(
            "each reply queue told one end of each request taken, to a consumer once, and no status after",
            (one for one in replies if not once_told(one)),
            len(replies),
        ),
        Line(
            values >= 0.95 * len(answered),
            "at least 95 % of what was answered are values",
            f"{values} of {len(answered)}, {100 * values / max(1, len(answered)):.2f} %",
        ),
        Line(not unproved, "each timeout named the true state", f"{len(timeouts)} timeouts", tuple(unproved)),
        Line(
            len(interrupted) <= most,
            "Interrupted at most kills x workers",
            f"{len(interrupted)}, at most {most}",
            () if len(interrupted) <= most else tuple(interrupted),
        ),
        none(
            "each Interrupted is of a run that a kill cut off",
            (one for one in interrupted if not cut_off(one, ends)),
            len(interrupted),
        ),
        none(
            "what was reported as cancelled did not return, but where a blow fell between",
            (
                one
                for one in waiting
                if one.outcome == "value"
                and one.detail
                and not any(one.sent - 1.0 <= blow <= float(one.ends[0]["at"]) for blow in blows)
            ),
            sum(one.outcome == "cancelled" for one in waiting),
        ),
        none("no request ran more than twice", (one for one in every if len(one.begun) > 2), len(every)),
        none(
            "no @once ran more than once",
            (one for one in every if one.kind == "once" and len(one.begun) > 1),
            sum(one.kind == "once" for one in every),
        ),
        none("each request kept its serial number", (one for one in every if len(one.sns) > 1), len(every)),
        none(
            "each value is of a run that ended",
            (one for one in callers if one.outcome == "value" and not one.ended),
            values,
        ),
        none(
            "each request reported as taken has run, or is listed as interrupted",
            (one for one in unseen if one.ends[0].get("sn") not in listed),
            len(taken),
            f"; {len(unseen)} were interrupted before they left a line",
        ),
    ]


def proper(request: Request) -> bool:
    """Tell whether a request ended in a way that callers are told of."""
    outcome = request.outcome
    if outcome in _PROPER or outcome.startswith("timeout"):
        return True
    if request.kind != _MORTAL:
        return False
    # Its first connection is refused, or cut while broker and caller still shake hands.
    return outcome == "none" or (outcome in ("error: ConnectionLost", "error: AdapterError") and not request.begun)


def cut_off(request: Request, kills: list[float]) -> bool:
    """Tell whether the last run of a request did not end, or so shortly before a kill that this was not noted.

    A second run may have been noted, and cut off before it left its first line.
    """
    if len(request.ended) < len(request.begun):
        return True
    heard = float((request.told or request.ends)[0]["at"])
    since = request.ended[-1] if request.ended else request.sent
    until = since + 1.0 if request.ended else heard
    twice = request.kind != "once" and sum(request.sent <= kill <= heard for kill in kills) >= 2
    return twice or any(since <= kill <= until for kill in kills)


def once_told(request: Request) -> bool:
    """Tell whether an end was told; again only to a consumer that took the place of a killed one, and the same end."""
    consumers = [one["by"] for one in request.told]
    same = len({one["outcome"] for one in request.told}) == 1
    return same and len(consumers) == len(set(consumers)) and not request.late


def proved(request: Request) -> bool:
    """Tell whether the methods' own lines prove the state that a timeout named."""
    at = float(request.ends[0]["at"])
    begun = any(one <= at for one in request.begun)
    ended = len([one for one in request.ended if one <= at]) >= len([one for one in request.begun if one <= at])
    state = request.outcome.removeprefix("timeout: ")
    return (begun and not ended) if state in ("started", "progress") else not begun


def table(requests: dict[str, Request]) -> str:
    """Lay the outcomes out in markdown, by the kinds of callers."""
    outcomes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    twice: Counter[str] = Counter()
    for one in requests.values():
        outcomes[one.kind][one.outcome.split(":")[0]] += 1
        twice[one.kind] += len(one.begun) == 2
        if one.seconds is not None:
            seconds[one.kind].append(one.seconds)
    names = [
        "value",
        "raised",
        "cancelled",
        "interrupted",
        "timeout",
        "taken",
        "not taken",
        "not sent",
        "error",
        "none",
    ]
    shown = [name for name in names if any(name in counted for counted in outcomes.values())]
    lines = [
        f"| callers | requests | {' | '.join(shown)} | run twice | p50 s | p99 s | most s |",
        "|---" * (6 + len(shown)) + "|",
    ]
    for kind, counted in sorted(outcomes.items()):
        times = sorted(seconds[kind])
        parts = [f"{times[int(len(times) * part)]:.3f}" if times else "" for part in (0.5, 0.99)]
        most = f"{times[-1]:.1f}" if times else ""
        cells = [str(counted[name] or "") for name in shown]
        total = sum(counted.values())
        lines.append(f"| {kind} | {total} | {' | '.join([*cells, str(twice[kind] or ''), *parts, most])} |")
    return "\n".join(lines)
