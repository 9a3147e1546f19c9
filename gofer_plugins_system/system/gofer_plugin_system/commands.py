"""Commands, as the user that the agent runs as."""

from __future__ import annotations

from collections.abc import Sequence

from gofer.decorators import once, remote
from gofer.rmi import shell

__all__ = ["Shell", "Ended"]

#: How a command has ended: its exit status, or the signal that has ended it as a negative number; and what it wrote.
Ended = tuple[int, dict[str, str]]


class Shell:
    """Runs commands as the agent's own user, which is root as a rule."""

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
            OSError: the program of a list cannot be run (FileNotFoundError: there is none of that name).
            TypeError: neither a text nor a list of texts.
            ValueError: an empty list.
        """
        if isinstance(cmd, str):
            return shell.Shell().run("/bin/sh", "-c", cmd)
        if not isinstance(cmd, list) or not all(isinstance(word, str) for word in cmd):
            raise TypeError(f"cmd is a text or a list of texts, not {cmd!r:.100}")
        return shell.Shell().run(*cmd)
