"""The contract on one's own broker ends when it is interrupted, whatever pytest makes of that."""

from __future__ import annotations

import signal

import pytest
from gofer.testing import own_broker


@pytest.mark.parametrize(
    "error",
    [ValueError("broken"), pytest.fail.Exception("failed"), BaseExceptionGroup("both", [KeyboardInterrupt()])],
    ids=lambda error: type(error).__name__,
)
def test_an_interrupt_counts_whatever_takes_its_place(error: BaseException) -> None:
    def interrupted() -> None:
        with own_broker._interruptible():
            try:
                signal.raise_signal(signal.SIGHUP)
            except KeyboardInterrupt:
                raise error from None

    with pytest.raises(KeyboardInterrupt):
        interrupted()
