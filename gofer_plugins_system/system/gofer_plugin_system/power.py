"""Halting and rebooting the machine, by ``shutdown``."""

from __future__ import annotations

import re
import subprocess
import tempfile
import threading

from gofer.decorators import once, pam, remote
from gofer.rmi import shell

from gofer_plugin_system.commands import Ended

__all__ = ["System"]

_WHEN = re.compile(r"now|\+?(\d{1,6})|([01]?\d|2[0-3]):[0-5]\d")
_SOON = 5.0  # seconds after which a `shutdown` that goes on waits for its time


class System:
    """The agent's machine as a whole."""

    @remote
    @once
    @pam(user="root", identity=True)
    def halt(self, when: int | str = 1) -> Ended:
        """Have the machine stop, and switch itself off where it can.

        Args:
            when: in so many minutes (5, "5" or "+5"), at a time ("23:30"), or "now". Now may be too soon for the result
                to reach its caller.

        Returns:
            As ``Shell.run``: status 0 if it is going to be.

        Raises:
            ValueError: when is none of these.
        """
        return _schedule("-h", when)

    @remote
    @once
    @pam(user="root", identity=True)
    def reboot(self, when: int | str = 1) -> Ended:
        """Have the machine start anew. Arguments, result and errors are those of ``halt``.

        It is done once for a request: the agent that comes up again does not take it for one that still has to run.
        """
        return _schedule("-r", when)

    @remote
    @pam(user="root", identity=True)
    def cancel(self) -> Ended:
        """Take back what ``halt`` or ``reboot`` have scheduled. Returns as ``Shell.run``."""
        return shell.Shell().run("shutdown", "-c")


def _schedule(how: str, when: int | str) -> Ended:
    """Run shutdown, which ends at once where systemd takes it over, and elsewhere waits itself for its time."""
    command = ["shutdown", how, _time(when)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # A session of its own: it is to outlive the call, and the agent.
        process = subprocess.Popen(  # noqa: S603 - these words, of which `when` was looked at
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
        )
        try:
            status = process.wait(_SOON)
        except subprocess.TimeoutExpired:
            status = 0
            threading.Thread(target=process.wait, name="gofer-shutdown", daemon=True).start()  # so it is no zombie
        out.seek(0)
        err.seek(0)
        return status, {"stdout": out.read().decode(errors="replace"), "stderr": err.read().decode(errors="replace")}


def _time(when: object) -> str:
    """Return a time as shutdown reads it."""
    text = str(when) if isinstance(when, str | int) and not isinstance(when, bool) else ""
    found = _WHEN.fullmatch(text)
    if found is None:
        raise ValueError(f"{when!r:.100} is no time; allowed: minutes from now, hh:mm, or now")
    return f"+{int(found[1])}" if found[1] else text
