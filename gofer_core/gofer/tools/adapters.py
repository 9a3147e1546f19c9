"""``gofer adapters``: the adapters that are installed, which speak to brokers."""

from __future__ import annotations

import click

from gofer.tools.listing import list_entry_points, listing_options

__all__ = ["adapters"]


@click.command()
@listing_options
def adapters(as_json: bool, timeout: float) -> None:
    """List the installed adapters, by the names that stand in URLs before the +.

    Each is imported in a separate process, to show whether it is broken.
    """
    list_entry_points("gofer.adapters", as_json, timeout, "adapter")
