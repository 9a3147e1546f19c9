"""What ``gofer fleet`` prints: outcomes with failures first, identical answers once, a live line, and plans."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gofer.errors import CallError, MessagingError
from gofer.tools.describe import at_address, method_lines
from gofer.tools.fleet_do import fleet_words
from gofer.tools.output import complain, harmless, print_json, text_of

if TYPE_CHECKING:
    from gofer.fleet import Fleet, Found, Outcome, Plan, Run, Selection, Watch

__all__ = [
    "histogram", "live_line", "machines", "plain", "print_groups", "print_plan", "print_report", "summary_line",
    "tell_of_care", "tell_unfinished",
]  # fmt: skip

#: The order in which outcomes are shown: what somebody has to look after comes first.
_ORDER = (
    "exception", "refused", "interrupted", "unreachable", "cancelled", "running", "queued", "untouched", "waiting",
    "value",
)  # fmt: skip
_NAMES = 8  # names of machines behind one answer
_FEW = 5  # names of machines in a sentence
_TELLERS = 3  # machines that are asked for a method's documentation, until one tells
_RANGES = 10
_SMALLEST, _LARGEST = 1e-300, 1e300
_LONG = 2000  # characters of one answer


def machines(count: int) -> str:
    """Return ``1 machine``, ``2 machines``."""
    return f"{count} machine{'' if count == 1 else 's'}"


def tell_unfinished(found: Found, targets: str, wait: float) -> None:
    """Say so on standard error if machines may still have been answering when the time to answer was over."""
    if found.still_coming:
        longer = shlex.join([*fleet_words(), "ping", targets, "--wait", f"{math.ceil(2 * wait)}s"])
        complain(
            "gofer fleet",
            f"{machines(len(found.cards))} answered until the time was over, and there may be more; to give them"
            f" longer, type: {longer}",
        )


def summary_line(counts: Mapping[str, int]) -> str:
    """Count outcomes in a few words, failures first."""
    words = [f"{counts[kind]} {kind}" for kind in _ORDER if counts.get(kind)]
    return ", ".join(words) or "no machines"


def print_report(run: Run | Watch, given: dict[str, Any]) -> None:
    """Print how a run has ended, as the options of the command say."""
    outcomes = run.outcomes
    if given["as_json"]:
        print_json({"run": run.id, "counts": run.counts, "outcomes": [one._asdict() for one in outcomes]})
    elif not given["jsonl"]:
        if given["group_by"] or given["sums"] or given["hist"]:
            _print_values(outcomes, given["group_by"], given["sums"], given["hist"])
        else:
            _print_outcomes(outcomes)
        print(f"run {run.id}: {summary_line(run.counts)}")


def _print_outcomes(outcomes: Iterable[Outcome]) -> None:
    """Print outcomes, the same answer of many machines once."""
    print_groups((one.name, one.kind, plain(one.value, one.address, one.sn)) for one in outcomes)


def plain(value: Any, address: str, sn: str) -> Any:
    """Return an answer without the name and number of its request, which differ where the answer does not."""
    if not isinstance(value, str):
        return value
    return value.replace(f" at {address!r}", "").replace(f" (request {sn})", "").replace(sn, "...")


def print_groups(rows: Iterable[tuple[str, str, Any]]) -> None:
    """Print names, outcomes and answers; those with the same outcome and answer are one line."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, kind, value in rows:
        text = text_of(value) if kind == "value" else ("" if value is None else str(value))
        groups.setdefault((kind, text), []).append(name)
    ordered = sorted(groups.items(), key=lambda one: (_ORDER.index(one[0][0]), -len(one[1])))
    for (kind, text), names in ordered:
        shown = text if len(text) <= _LONG else f"{text[:_LONG]}... ({len(text)} characters)"
        more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        answer = harmless(shown if kind == "value" else f"{kind}: {shown}" if shown else kind)
        answer = answer.replace("\n", "\n    | ")  # or it could look like another line of ours
        print(f"{len(names)} × {answer}" if len(names) > 1 else answer)  # noqa: RUF001 - the sign is meant
        print(f"    {harmless(', '.join(sorted(names)[:_NAMES]))}{more}")


def _print_values(outcomes: Sequence[Outcome], group_by: str | None, sums: str | None, hist: str | None) -> None:
    """Print how many values have what at a path, the sum of their numbers at another, and how those at a third spread.

    Failures come first.
    """
    _print_outcomes(one for one in outcomes if not one.ok)
    values = [one.value for one in outcomes if one.ok]
    if group_by is not None:
        counts = Counter(json.dumps(_at(value, group_by), ensure_ascii=False, sort_keys=True) for value in values)
        for text, count in counts.most_common():
            print(f"{count} × {harmless(text)}")  # noqa: RUF001 - as above
    if sums is not None:
        numbers, missing = _numbers(values, sums)
        print(f"sum of {sums}: {sum(numbers)}{missing}")
    if hist is not None:
        numbers, missing = _numbers(values, hist)
        print(f"spread of {hist}: {len(numbers)} numbers{missing}")
        for line in histogram(numbers):
            print(line)


def _numbers(values: Sequence[Any], path: str) -> tuple[list[int | float], str]:
    """Return the numbers at a path, and how many values have none."""
    found = [_at(value, path) for value in values]
    numbers = [one for one in found if isinstance(one, int | float) and not isinstance(one, bool) and _fits(one)]
    left = len(found) - len(numbers)
    return numbers, f" ({left} values have no number there)" if left else ""


def _fits(number: int | float) -> bool:
    return abs(number) < _LARGEST  # it can be added to others as float


def histogram(numbers: Sequence[int | float]) -> list[str]:
    """Draw how numbers are spread: a line for each of some ten ranges of equal width, of less than 80 characters."""
    if not numbers:
        return []
    least, most = min(numbers), max(numbers)
    width = _round_up((most - least) / _RANGES) if most > least else 1.0
    begin = math.floor(least / width)
    counts = Counter(math.floor(one / width) - begin for one in numbers)
    ranges = range(max(counts) + 1)
    names = [f"{(begin + n) * width:.6g} to {(begin + n + 1) * width:.6g}" for n in ranges]
    if most == least:
        names = [f"{least:.6g}"]
    highest = max(counts.values())
    left, right = max(map(len, names)), len(str(highest))
    room = 79 - left - right - 4
    bars = ["#" * -(-counts[n] * room // highest) for n in ranges]
    return [f"{names[n]:>{left}}  {counts[n]:>{right}}  {bars[n]}".rstrip() for n in ranges]


def _round_up(width: float) -> float:
    """Return the next of 1, 2, 2.5, 5 and 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(width)) if width > _SMALLEST else _SMALLEST
    return next((step * power for step in (1.0, 2.0, 2.5, 5.0) if step * power >= width), 10.0 * power)


def _at(value: Any, path: str) -> Any:
    for step in path.split("."):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


@contextmanager
def live_line(run: Run | Watch, *, quiet: bool) -> Iterator[Callable[[], object]]:
    """Give what shows how far a run is, as a line on the terminal; nothing where a program reads."""
    if quiet or not sys.stderr.isatty():
        yield lambda: None
        return

    def show() -> None:
        counts = run.counts
        line = f"{len(run) - counts['waiting']}/{len(run)}  {summary_line({**counts, 'waiting': 0})}"
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{line[:width]}", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# -- plans -------------------------------------------------------------------------------------------------------------


async def print_plan(fleet: Fleet, selection: Selection, method: tuple[str, str], *, as_json: bool) -> int:
    """Print what is known of the method, and the waves with their machines; return the exit status."""
    plan = selection.plan(*method)
    documentation = await _documentation(fleet, plan, method)
    if as_json:
        names = [one.name for one in plan.members]
        told = {
            "method": ".".join(method),
            "documentation": documentation,
            "destructive": [one.name for one in plan.destructive],
            "options": plan.waves.text(),
            "waves": [names[begin:end] for begin, end in pairwise([0, *plan.ends])],
        }
        print_json(told)
        return 0
    for line in documentation:
        print(harmless(line))
    print()
    if plan.waves != selection.waves:
        print(_care(plan, method))
    for n, (begin, end) in enumerate(pairwise([0, *plan.ends])):
        print(f"wave {n + 1} of {len(plan.ends)}: {'.'.join(method)} on {machines(end - begin)}")
        for member in plan.members[begin:end]:
            print(f"  {harmless(member.name)} ({harmless(member.card.address_of(method[0]))})")
    return 0


async def _documentation(fleet: Fleet, plan: Plan, method: tuple[str, str]) -> list[str]:
    """Have one of the machines tell of the method; or say why none does."""
    why = ""
    for member in plan.members[:_TELLERS]:
        try:
            told = await fleet.describe(member, method[0])
            lines = method_lines(at_address(told), *method)
        except (CallError, MessagingError) as failed:
            why = why or f"{member.name} does not tell of it: {failed}"
            continue
        except (AttributeError, KeyError, TypeError, ValueError):  # whatever an agent of somebody else's has sent
            why = why or f"{member.name} does not tell of it: its answer is no description"
            continue
        if lines:
            return [*lines, f"(from {member.name})"]
        why = why or f"{member.name} has no such method that you may call"
    return [f"{'.'.join(method)}: {why}"]


def tell_of_care(selection: Selection, method: tuple[str, str]) -> None:
    """Say so on standard error if a method gets careful waves because it is marked destructive."""
    plan = selection.plan(*method)
    if plan.waves != selection.waves and len(plan.members) > 1:
        complain("gofer fleet", _care(plan, method))


def _care(plan: Plan, method: tuple[str, str]) -> str:
    names = ", ".join(harmless(one.name) for one in plan.destructive[:_FEW])
    more = f" and {len(plan.destructive) - _FEW} more" if len(plan.destructive) > _FEW else ""
    return (
        f"{'.'.join(method)} is marked destructive at {names}{more}: it is called on one machine, then on a tenth, "
        "then on the rest, up to the first failure; --ramp, --batch or --stop-after says otherwise"
    )
