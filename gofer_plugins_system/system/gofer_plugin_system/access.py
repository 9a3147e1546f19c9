"""Who may call: a verified identity, or a user of the machine with the right password."""

from __future__ import annotations

from queue import SimpleQueue

from gofer.agent.plugin import Plugin
from gofer.agent.rmi import Context
from gofer.decorators import Login
from gofer.errors import NotAuthorized
from gofer.rmi.server.logins import attempt

__all__ = ["run_as"]


def run_as(method: str, user: object, password: object) -> str | None:
    """Return the user that a call is to run as: the one whose password it brings; None: the agent's own.

    PAM checks the password as it does for methods marked ``@user``, and this waits for it.

    Args:
        method: its name, for errors.
        user, password: what the caller has passed. Only a caller with a verified identity may leave both out.

    Raises:
        UserRequired, PasswordRequired: one is blank, or no text.
        NotAuthenticated: they were refused, or tried too often.
    """
    if user is None and password is None and Context.current().identity is not None:
        return None
    # Whoever is named may be the one who calls: what counts is the password.
    logins = (Login(user),) if isinstance(user, str) else ()
    asked = attempt(method, logins, {"user": user, "password": password})
    answer: SimpleQueue[NotAuthorized | None] = SimpleQueue()
    Plugin.find(__name__).container.logins.check(asked, answer.put)
    refused = answer.get()
    if refused is not None:
        raise refused
    return asked.user
