"""Commands of the system, run by a method: their output, their progress, and their end when the call is cancelled."""

from __future__ import annotations

import os
import pwd
import selectors
import signal
import subprocess
import threading
from codecs import getincrementaldecoder
from time import monotonic
from typing import IO, Any

from gofer.rmi.context import Context
from gofer.rmi.progress import INTERVAL, Progress

__all__ = ["LIMIT", "Shell"]

#: The most bytes that are kept of standard output, and as many of standard error: the last ones.
LIMIT = 1 << 20

_LINES = 1 << 16  # characters of lines in one report of progress: the last ones
_GRACE = 2.0  # seconds between SIGTERM and SIGKILL
_LOOK = 0.1  # seconds after which it looks whether the call was cancelled
_CHUNK = 1 << 16


class Shell:
    """Runs commands without a shell in between: each argument is one argument. Any thread; for methods of any model.

    Within a call, new lines of the output are reported as the progress' ``details`` (text, at most ten times a second),
    and when the call is cancelled or takes too long, the command and all of its process group end: by SIGTERM, and by
    SIGKILL two seconds later.

    Args:
        user: whom commands run as, with this user's groups, in this user's home, and with nothing of this process's
            environment but PATH and the language. Only root can name somebody else than itself.

    Raises:
        LookupError: there is no such user.
        PermissionError: this process is not root, and the user is another one.
    """

    def __init__(self, *, user: str | None = None) -> None:
        self._options = {} if user is None else _as_user(user)

    def run(self, *command: str) -> tuple[int, dict[str, str]]:
        """Run a command to its end. It reads nothing; what it leaves in the background is not waited for.

        Returns:
            Its exit status (negative: the signal that has ended it), and ``{'stdout': text, 'stderr': text}``. Of each
            the last MiB is kept, behind a line that says how much was left out; what is no UTF-8 is replaced by U+FFFD.

        Raises:
            OSError: it cannot be run (FileNotFoundError: no such program).
            ValueError: no command was given.
        """
        if not command:
            raise ValueError("no command to run")
        try:
            context: Context | None = Context.current()
        except RuntimeError:
            context = None  # not within a call: nobody listens, and nobody cancels
        # A forked call leads a process group of its own, and ends as a whole: there the command is to belong to it.
        own_group = context is None or not context.forked
        process = subprocess.Popen(  # noqa: S603 - to run what the method says is what this is for
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0 if own_group else None,
            **self._options,
        )
        run = _Run(process, context, own_group)
        try:
            run.read()
        finally:
            run.end()
        return process.returncode, run.output()


def _as_user(name: str) -> dict[str, Any]:
    """Return the options of Popen that have a command run as a user."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise LookupError(f"there is no user {name!r} on this machine") from None
    kept = {one: os.environ[one] for one in ("PATH", "LANG", "LC_ALL", "TZ") if one in os.environ}
    named = {"HOME": user.pw_dir, "USER": name, "LOGNAME": name, "SHELL": user.pw_shell or "/bin/sh"}
    options: dict[str, Any] = {"env": {**kept, **named}, "cwd": user.pw_dir if os.path.isdir(user.pw_dir) else "/"}
    if os.geteuid() == 0:
        groups = os.getgrouplist(name, user.pw_gid)
        options |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": groups, "umask": 0o022}
    elif os.geteuid() != user.pw_uid:
        raise PermissionError(f"only an agent that runs as root can run commands as {name!r}")
    return options


class _Run:
    def __init__(self, process: subprocess.Popen[bytes], context: Context | None, own_group: bool) -> None:
        assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018 - both are pipes
        self._process = process
        self._context = context
        self._own_group = own_group
        self._lines = _Lines(None if context is None else context.progress)
        self._kept = {"stdout": _Kept(process.stdout), "stderr": _Kept(process.stderr)}
        self._kill_at: float | None = None
        self._never = threading.Event()  # to wait with: a command's end cannot be waited for without reaping it

    def read(self) -> None:
        """Read both pipes until the command has ended."""
        with selectors.DefaultSelector() as selector:
            for kept in self._kept.values():
                selector.register(kept.pipe, selectors.EVENT_READ, kept)
            while True:
                ended = self._has_ended()  # asked first: what it has written is in the pipes then
                ready = selector.select(0 if ended else self._lines.wait(_LOOK)) if selector.get_map() else []
                for key, _ in ready:
                    data = os.read(key.fd, _CHUNK)
                    if data:
                        key.data.add(data)
                        self._lines.add(key.data.decode(data))
                    else:
                        selector.unregister(key.fileobj)
                self._lines.tell()
                if ended and not ready:
                    return
                if not selector.get_map() and not ended:
                    self._never.wait(0.01)  # it has closed its output, and runs on
                self._look()

    def _has_ended(self) -> bool:
        if self._process.returncode is not None:
            return True
        # Not reaped while its group may have to be killed: until then its number is its own.
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _look(self) -> None:
        """End the command if its call has been told to stop."""
        if self._context is None or not self._context.cancelled():
            return
        now = monotonic()
        if self._kill_at is None:
            self._kill_at = now + _GRACE
            self._signal(signal.SIGTERM)
        elif now >= self._kill_at:
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is not None:
            return
        try:
            if self._own_group:
                os.killpg(self._process.pid, number)
            else:
                os.kill(self._process.pid, number)
        except ProcessLookupError:
            pass  # it has just ended

    def end(self) -> None:
        """Let go of the command: end it, if the method is being ended, with all that is left of a cancelled one."""
        if not self._has_ended():
            self._signal(signal.SIGTERM)
            until = monotonic() + _GRACE * 3 / 4  # a forked call that takes too long has no more time itself
            while not self._has_ended() and monotonic() < until:
                self._never.wait(0.01)
            self._signal(signal.SIGKILL)
        elif self._kill_at is not None:
            self._signal(signal.SIGKILL)
        self._process.wait()
        for kept in self._kept.values():
            kept.pipe.close()
        self._lines.tell(last=True)

    def output(self) -> dict[str, str]:
        """Return what was kept."""
        return {name: kept.text() for name, kept in self._kept.items()}


class _Kept:
    """The end of what came over one pipe."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.pipe = pipe
        self._bytes = bytearray()
        self._dropped = 0
        self.decode = getincrementaldecoder("utf-8")("replace").decode

    def add(self, data: bytes) -> None:
        self._bytes += data
        if len(self._bytes) > 2 * LIMIT:
            self._cut()

    def _cut(self) -> None:
        more = len(self._bytes) - LIMIT
        if more > 0:
            self._dropped += more
            del self._bytes[:more]

    def text(self) -> str:
        self._cut()
        text = self._bytes.decode("utf-8", "replace")
        return f"[{self._dropped} bytes left out]\n{text}" if self._dropped else text


class _Lines:
    """Lines that were not reported yet."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._text = ""
        self._next = 0.0

    def add(self, text: str) -> None:
        if self._progress is not None:
            self._text = (self._text + text)[-_LINES:]

    def wait(self, most: float) -> float:
        """How long to wait for more: not longer than until the next report is due."""
        return most if not self._text else min(most, max(0.0, self._next - monotonic()) or most)

    def tell(self, *, last: bool = False) -> None:
        """Report whole lines, if it is time for that; at the end whatever is left."""
        now = monotonic()
        if self._progress is None or (now < self._next and not last):
            return
        end = len(self._text) if last else self._text.rfind("\n") + 1
        if not end:
            return
        lines, self._text = self._text[:end], self._text[end:]
        self._next = now + INTERVAL
        self._progress.relay(self._progress.total, self._progress.completed, lines)
