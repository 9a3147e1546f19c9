"""Old McDonald's toy: it has a dog's voice, and is none."""

from __future__ import annotations

from gofer.agent.plugin import Plugin
from gofer.decorators import remote

__all__ = ["Toy"]

animals = Plugin.find("animals")


class Toy:
    """Presses a button."""

    @remote
    def theDog(self) -> str:  # noqa: N802 - its callers have always known it by this name
        """Let a dog bark."""
        return f"with a woof woof here: {animals['Dog']().bark()}"
