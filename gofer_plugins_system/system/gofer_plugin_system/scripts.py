"""Scripts that come with the call, run as a user whose password comes with it, too, or as the agent's own."""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gofer.decorators import once, remote
from gofer.rmi import shell

from gofer_plugin_system.access import run_as
from gofer_plugin_system.commands import Ended

__all__ = ["Script"]


class Script:
    """A script, run on the agent's machine.

    Args:
        content: its text. The first line may name an interpreter (``#!/usr/bin/env python3``); else it is for /bin/sh.

    Raises:
        TypeError: content is not a text.
    """

    def __init__(self, content: str) -> None:
        if not isinstance(content, str):
            raise TypeError(f"content is the text of a script, not {type(content).__name__}")
        self._content = content

    @remote
    @once
    def run(self, user: str | None, password: str | None, *options: str) -> Ended:
        """Run the script as a user of the agent's machine, in the user's home, and report its output as progress.

        It is written to a file that only this user can read, and that is gone when the call has ended.

        Args:
            user: whom it runs as. None, with no password either, needs a verified identity: the agent's own user.
            password: of this user. PAM checks it, as it does for methods marked ``@user``: three wrong ones in a row,
                and the next are refused for a while.
            options: arguments of the script.

        Returns:
            As ``Shell.run``.

        Raises:
            UserRequired, PasswordRequired: one is blank, or no text.
            NotAuthenticated: they were refused, or tried too often.
            PermissionError: the agent does not run as root, and the user is another one than its own.
            OSError: the interpreter cannot be run (FileNotFoundError: no such program).
            TypeError: an option is not a text.
        """
        for option in options:
            if not isinstance(option, str):
                raise TypeError(f"the options of a script are texts, not {option!r:.100}")
        name = run_as("Script.run", user, password)
        runner = shell.Shell(user=name)
        with _private_file(self._content, pwd.getpwuid(os.geteuid()) if name is None else pwd.getpwnam(name)) as file:
            return runner.run(*_interpreter(self._content), str(file), *options)


@contextmanager
def _private_file(text: str, account: pwd.struct_passwd) -> Iterator[Path]:
    """Give a file of the user's own, in a directory that belongs to the agent, and remove both afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="gofer-script-"))
    file = folder / "script"
    try:
        # Its name cannot be guessed; still, only the user's group may pass the directory, and nobody may write to it.
        os.chown(folder, -1, account.pw_gid)
        folder.chmod(0o710)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
            os.fchown(opened.fileno(), account.pw_uid, account.pw_gid)
            os.fchmod(opened.fileno(), 0o500)
            opened.write(text)
        yield file
    finally:
        file.unlink(missing_ok=True)
        folder.rmdir()


def _interpreter(text: str) -> list[str]:
    """Return the words before a script's name, as the kernel would read its first line.

    They are used instead of the kernel's own reading, which file systems that are mounted noexec do not allow.
    """
    first = text.partition("\n")[0]
    words = first[2:].strip().split(None, 1) if first.startswith("#!") else []
    return words or ["/bin/sh"]
