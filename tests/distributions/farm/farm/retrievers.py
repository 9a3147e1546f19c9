"""Retrievers: dogs that need a secret for what they do beyond barking."""

from __future__ import annotations

from gofer.agent.plugin import Plugin
from gofer.decorators import remote

__all__ = ["Puppy", "Retriever"]

animals = Plugin.find("animals")
Dog = animals["Dog"]


class Retriever(Dog):  # type: ignore[valid-type,misc]  # what another plugin gives is known when it is loaded
    """Inherits ``bark`` as it is, and asks for a secret to fetch."""

    @remote(secret="wag")
    def fetch(self) -> str:
        """Bring it."""
        return f"{self.bark()}, and brings it"


class Puppy(Dog):  # type: ignore[valid-type,misc]  # see above
    """Asks for a secret for barking, too: it is decorated anew."""

    @remote(secret="wag")
    def bark(self, words: str = "yap") -> str:
        """Say something small."""
        return str(super().bark(words))


plugin = Plugin.find(__name__)
plugin += animals["count"]
