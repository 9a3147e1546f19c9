"""Commands, as a user whose password comes with the call, or as the agent's own."""

from __future__ import annotations

from collections.abc import Sequence

from gofer.decorators import once, remote
from gofer.rmi import shell

from gofer_plugin_system.access import run_as

__all__ = ["Shell", "Ended"]

#: How a command has ended: its exit status, or the signal that has ended it as a negative number; and what it wrote.
Ended = tuple[int, dict[str, str]]


class Shell:
    """Runs commands.

    Args:
        user: whom they run as. None, which needs a verified identity: the agent's own user, root as a rule.
        password: of this user, for PAM to check.
    """

    def __init__(self, user: str | None = None, password: str | None = None) -> None:
        self._user = user
        self._password = password

    @remote
    @once
    def run(self, cmd: str | Sequence[str]) -> Ended:
        """Run a command to its end, and report its output as progress, line by line.

        Args:
            cmd: a text is a command line for /bin/sh; a list is a program and its arguments, without a shell between.

        Returns:
            The exit status (negative: the signal that has ended it), and ``{"stdout": text, "stderr": text}``: of each
            the last MiB.

        Raises:
            UserRequired, PasswordRequired, NotAuthenticated: of user and password one is missing, or they were refused.
            PermissionError: the agent does not run as root, and the user is another one than its own.
            OSError: the program of a list cannot be run (FileNotFoundError: no such program).
            TypeError: neither a text nor a list of texts.
            ValueError: an empty list.
        """
        runner = shell.Shell(user=run_as("Shell.run", self._user, self._password))
        if isinstance(cmd, str):
            return runner.run("/bin/sh", "-c", cmd)
        if not isinstance(cmd, list) or not all(isinstance(word, str) for word in cmd):
            raise TypeError(f"cmd is a text or a list of texts, not {cmd!r:.100}")
        return runner.run(*cmd)
