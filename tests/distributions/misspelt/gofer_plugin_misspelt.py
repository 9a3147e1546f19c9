"""Has a hook that there is not."""

from typing import Any

from gofer.hooks import hookimpl


@hookimpl
def gofer_finnished(plugin: Any) -> None:
    """Never be called."""
