"""Running code of plugins for a limited time: nothing can end what hangs, but nobody has to wait for it for ever."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

__all__ = ["within"]

log = logging.getLogger(__name__)


def within(seconds: float, work: Callable[[], object], name: str, *, late: Callable[[], object] | None = None) -> bool:
    """Do some work in a thread of its own, and wait for that; False: it goes on, and nobody waits for it any more.

    Args:
        seconds: how long to wait.
        name: the thread's.
        late: called by that thread when the work has ended well, and nobody waits for it any more.

    Raises:
        BaseException: what the work has raised, if somebody still waits for it; else that is logged.
    """
    failed: list[BaseException] = []
    told = threading.Lock()  # taken by the end of the work, or by who does not wait any more

    def run() -> None:
        try:
            work()
        except BaseException as raised:  # noqa: BLE001 - raised again by whoever waits
            failed.append(raised)
        if told.acquire(blocking=False):
            return
        try:
            if failed:
                log.error("%s: what nobody waits for any more has failed", name, exc_info=failed[0])
            elif late is not None:
                late()
        except BaseException:  # a plugin's code, again
            log.exception("%s: what follows what came late has failed", name)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if told.acquire(blocking=False):
        return False
    if failed:
        raise failed[0]
    return True
