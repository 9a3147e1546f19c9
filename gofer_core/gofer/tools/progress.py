"""Progress reports as a live bar on a terminal, and as lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from gofer.tools.output import harmless, text_of

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Bar"]


class Bar:
    """What ``progress=`` of an Agent may be given: it shows each report, on standard error unless told otherwise.

    ``with Bar("copying") as bar: Agent(url, address, progress=bar).Files().copy()``. Used by one thread.
    """

    def __init__(self, prefix: str = "", stream: TextIO | None = None) -> None:
        """Show ``prefix`` in front of every report."""
        self._prefix = prefix
        self._stream = stream or sys.stderr
        self._live: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Bar:
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
            details = TextColumn("{task.fields[details]}", markup=False)
            # No refreshing thread: agents send at most ten reports a second, and each is drawn when it comes.
            self._live = Progress(*columns, details, console=Console(file=self._stream), auto_refresh=False)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, report: dict[str, Any]) -> None:
        """Show a report."""
        total, completed, details = report["total"], report["completed"], report["details"]
        said = "" if details in (None, "", {}) else " ".join(harmless(text_of(details)).split())
        if self._live is None:
            words = (self._prefix, f"{completed or 0}/{'?' if total is None else total}", said)
            print(*filter(None, words), file=self._stream, flush=True)
            return
        if self._task is None:
            self._task = self._live.add_task(self._prefix or "progress", total=total, details=said)
        self._live.update(self._task, total=total, completed=completed or 0, details=said, refresh=True)
