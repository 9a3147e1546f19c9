"""``gofer authenticators``: the authenticators that are installed, which sign and verify messages."""

from __future__ import annotations

import click

from gofer.tools.listing import list_entry_points, listing_options

__all__ = ["authenticators"]


@click.command()
@listing_options
def authenticators(as_json: bool, timeout: float) -> None:
    """List the installed authenticators, by the names that descriptors and `gofer rmi -A` use.

    Each is imported in a separate process, to show whether it is broken.
    """
    list_entry_points("gofer.authenticators", as_json, timeout, "authenticator")
