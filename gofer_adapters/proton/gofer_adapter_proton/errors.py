"""What a broker refuses, and what that means to the user."""

from __future__ import annotations

from gofer.errors import AdapterError, MessagingError, NotFound
from proton import Condition

__all__ = ["NOT_FOUND", "Refused"]

NOT_FOUND = "amqp:not-found"


class Refused(Exception):
    """The broker refused a link, a message or a request: a condition of AMQP 1.0, and the broker's own words."""

    def __init__(self, condition: str, text: str) -> None:
        super().__init__(condition, text)
        self.condition, self.text = condition, text or condition

    @classmethod
    def of(cls, condition: Condition | None, otherwise: str) -> Refused:
        """Make it of what a frame says; ``otherwise``: what to say when it says nothing."""
        if condition is None:
            return cls("", otherwise)
        return cls(str(condition.name), str(condition.description or condition.name or otherwise))

    def error(self) -> MessagingError:
        """Return the error of the operation that it answers."""
        return NotFound(self.text) if self.condition == NOT_FOUND else AdapterError(self.text)
