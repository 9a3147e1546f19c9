"""Reads systemd's units, and starts what they say, as far as the tests need it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
from pathlib import Path

from support.waiting import eventually

__all__ = ["Started", "command", "read_unit"]


def read_unit(path: Path) -> dict[str, dict[str, list[str]]]:
    """Return a unit's sections; each maps its keys to their values, in their order."""
    sections: dict[str, dict[str, list[str]]] = {}
    section = ""
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if not line or line[0] in "#;":
            continue
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
            assert section not in sections, f"{path}:{number}: twice"
            sections[section] = {}
        else:
            key, equals, value = line.partition("=")
            assert equals, f"{path}:{number}: {line!r} is neither a section nor a setting"
            assert not value.endswith("\\"), f"{path}:{number}: goes on in the next line"
            sections[section].setdefault(key, []).append(value)
    return sections


def command(unit: dict[str, dict[str, list[str]]]) -> list[str]:
    """Return the words of ExecStart, as systemd would start them."""
    (line,) = unit["Service"]["ExecStart"]
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]


class Started:
    """What a unit says, started as systemd would start it: its ExecStart, told of a socket and of a watchdog.

    Args:
        unit: the file of the unit.
        log: where standard output and standard error go.
        watchdog: seconds of the watchdog; those of the unit are too long for a test.
    """

    def __init__(self, unit: Path, log: Path, watchdog: float) -> None:
        self.unit = read_unit(unit)
        self.log = log
        self._watchdog = watchdog
        self.told: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready, within the time of the unit."""
        assert self.unit["Service"]["Type"] == ["notify"]
        self.told = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = f"\0gofer-unit-{os.getpid()}-{id(self)}"  # an abstract one: paths of tests may be too long
        self._socket.bind(address)
        self._socket.setblocking(False)
        environ = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
            "LANG": "C.UTF-8",
            "NOTIFY_SOCKET": f"@{address[1:]}",
            "WATCHDOG_USEC": str(round(self._watchdog * 1e6)),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command(self.unit), env=environ, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.until("READY=1")

    def until(self, message: str, times: int = 1) -> None:
        """Wait until it has told that."""
        assert self._socket is not None
        assert self.process is not None

        def look() -> bool:
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.told += self._socket.recv(4096).decode().splitlines()
            assert self.told.count(message) >= times or self.process.poll() is None, self.log.read_text()
            return self.told.count(message) >= times

        eventually(look, float(self.unit["Service"]["TimeoutStartSec"][0]), f"{message}: {self.told}")

    def stop(self) -> int:
        """Stop it as systemd does, and return its exit status."""
        assert self.process is not None
        assert self._socket is not None
        self.process.terminate()
        status = self.process.wait(float(self.unit["Service"]["TimeoutStopSec"][0]))
        self.until("STOPPING=1")
        self.close()
        return status

    def close(self) -> None:
        """Kill it if it runs."""
        if self.process is not None and self._socket is not None:
            self.process.kill()
            self.process.wait()
            self._socket.close()
            self._socket = None
