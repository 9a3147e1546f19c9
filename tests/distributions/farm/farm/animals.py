"""Dogs, for others to inherit from and to use."""

from __future__ import annotations

from gofer.decorators import remote

__all__ = ["Dog", "count"]


class Dog:
    """Barks and wags."""

    @remote
    def bark(self, words: str = "woof") -> str:
        """Say something."""
        return f"the dog says {words}"

    @remote
    def wag(self, times: int) -> str:
        """Wag the tail."""
        return " ".join(["wag"] * times)


@remote
def count() -> int:
    """Tell how many there are."""
    return 1
