"""Following a run that another process runs, by its record alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from time import monotonic

from gofer.fleet.run import Outcome, RecordedRun, outcome_of

__all__ = ["Watch"]

_LOOK = 0.3  # seconds between two looks at the record
_BEGINS = 3.0  # seconds that a process may take to begin with the run that it has written down


class Watch(RecordedRun):
    """``async for outcome in watch``: outcomes as they come, those that are there already first. It ends with the run.

    It has the attributes of a :class:`gofer.fleet.run.Run`. ``stopped`` also tells that nobody runs it any more.
    """

    @property
    def counts(self) -> Counter[str]:
        """How many machines have which outcome."""
        return Counter(one.outcome for one in self._targets)

    async def __aiter__(self) -> AsyncGenerator[Outcome]:
        """Iterate over outcomes as they come.

        Raises:
            StateError: the record cannot be read.
            ConfigError: somebody has forgotten the run.
        """
        told = ["waiting"] * len(self._targets)
        counts: Counter[str] | None = None
        held = monotonic()
        while True:
            is_held = self._record.is_held(self._row)  # before what it has written is read
            self._row = self._record.run(self.id)
            before, counts = counts, self._record.counts(self._row.number)
            if counts != before or not is_held:
                self._targets = self._record.targets(self._row.number)
            for target in self._targets:
                if target.outcome != told[target.n]:
                    told[target.n] = target.outcome
                    yield outcome_of(target)
            if is_held:
                held = monotonic()
            elif self._row.state in ("ended", "stopped"):
                self._stopped = self._row.why
                return
            elif monotonic() - held > _BEGINS:
                self._stopped = "the process that ran it was killed, or has failed"
                return
            await asyncio.sleep(_LOOK)
