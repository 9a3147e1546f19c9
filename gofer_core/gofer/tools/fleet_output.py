"""What ``gofer fleet`` prints: outcomes with failures first, identical answers once, and a line that is alive."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gofer.tools.output import harmless, text_of

if TYPE_CHECKING:
    from gofer.fleet import Outcome, Run

__all__ = ["Live", "plain", "print_groups", "print_outcomes", "print_values", "summary_line"]

#: The order in which outcomes are shown: what somebody has to look after comes first.
_ORDER = (
    "exception", "refused", "interrupted", "unreachable", "cancelled", "running", "queued", "untouched", "waiting",
    "value",
)  # fmt: skip
_NAMES = 8  # names of machines behind one answer
_LONG = 2000  # characters of one answer


def summary_line(counts: Mapping[str, int]) -> str:
    """Count outcomes in a few words, failures first."""
    words = [f"{counts[kind]} {kind}" for kind in _ORDER if counts.get(kind)]
    return ", ".join(words) or "no machines"


def print_outcomes(outcomes: Iterable[Outcome]) -> None:
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


def print_values(outcomes: Sequence[Outcome], group_by: str | None, sums: str | None) -> None:
    """Print how many values have what at a path, and the sum of their numbers at another one; failures first."""
    print_outcomes(one for one in outcomes if not one.ok)
    values = [one.value for one in outcomes if one.ok]
    if group_by is not None:
        counts = Counter(json.dumps(_at(value, group_by), ensure_ascii=False, sort_keys=True) for value in values)
        for text, count in counts.most_common():
            print(f"{count} × {harmless(text)}")  # noqa: RUF001 - as above
    if sums is not None:
        numbers = [_at(value, sums) for value in values]
        plain = [one for one in numbers if isinstance(one, int | float) and not isinstance(one, bool)]
        missing = f" ({len(numbers) - len(plain)} values have no number there)" if len(plain) < len(numbers) else ""
        print(f"sum of {sums}: {sum(plain)}{missing}")


def _at(value: Any, path: str) -> Any:
    for step in path.split("."):
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


class Live:
    """A line on the terminal that tells how far a run is; nothing where a program reads."""

    def __init__(self, run: Run, *, quiet: bool) -> None:
        self._run = run
        self._on = sys.stderr.isatty() and not quiet

    def __enter__(self) -> Live:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._on:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def show(self, _: Outcome) -> None:
        """Show how far the run is."""
        if self._on:
            counts = self._run.counts
            open_ = counts["waiting"]
            line = f"{len(self._run) - open_}/{len(self._run)}  {summary_line({**counts, 'waiting': 0})}"
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{line[:width]}", end="", file=sys.stderr, flush=True)
