"""Fails when it is loaded."""

from gofer.decorators import load


@load
def begin() -> None:
    """Fail."""
    raise OSError("no disk")
