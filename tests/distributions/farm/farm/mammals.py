"""All that animals and others have; its descriptor says who is asked for what it does not have."""

from __future__ import annotations

from gofer.decorators import remote

__all__ = ["Cow"]


class Cow:
    """Moos."""

    @remote
    def moo(self) -> str:
        """Say something."""
        return "moo"
