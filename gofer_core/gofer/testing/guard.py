"""Ending what a test has started when the test's own process ends without doing so: killed, or by ``os._exit``."""

from __future__ import annotations

import subprocess

__all__ = ["Guard"]

# It gets the line when there is something to end, and the end of its input when nobody is left who would end it.
_SCRIPT = 'read -r target && { read -r _; kill -s KILL -- "$target"; } 2>/dev/null'


class Guard:
    """A small child process that kills another one, or its group, should this process end before ``release``.

    It hears of that by a pipe, which this process and those that it has *forked* hold.
    """

    def __init__(self) -> None:
        """Start it; to be done before what it guards is started."""
        self._process = subprocess.Popen(  # noqa: S603 - the script above
            ["/bin/sh", "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # what is typed at a terminal, or kills this process's group, is not meant for it
        )

    def watch(self, pid: int, *, group: bool = False) -> None:
        """Say which process, or with ``group`` which process group, is to be killed. Once."""
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        try:
            self._process.stdin.write(f"{'-' if group else ''}{pid}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # somebody has killed it; then there is no guard

    def release(self) -> None:
        """End it: nothing is killed any more. To be called before the process that it guards is waited for."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass  # what was not written any more
