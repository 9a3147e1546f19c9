"""Where the parts of a soak meet: queues, files, descriptors and keys; and its lines of JSON."""

from __future__ import annotations

import json
import os
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gofer.testing.agents import AgentProcess

__all__ = ["ONCE", "PLAIN", "REPLIES", "SIGNED", "THREADS", "WAIT", "Journal", "Places", "read_journals", "size_of"]

PLAIN, SIGNED, ONCE = "soak", "soak-signed", "soak-once"
REPLIES = "soak-replies"
#: The threads of each plugin.
THREADS = {PLAIN: 16, SIGNED: 4, ONCE: 4}
#: Seconds that every waiting caller waits.
WAIT = 150.0

_DESCRIPTOR = """
[main]
enabled = 1
threads = {threads}

[messaging]
url = {url}
{authenticator}

[model]
queue = {queue}
exclusive = {exclusive}

[soak]
runs = {runs}

[hmac]
keys = {keys}
"""


@dataclass(frozen=True, slots=True)
class Places:
    """The files of one soak, under one directory."""

    home: Path

    @property
    def runs(self) -> Path:
        """What the methods write."""
        return self.home / "runs"

    @property
    def keys(self) -> Path:
        """The key that the signed plugin and its callers share."""
        return self.home / "keys"

    @property
    def journals(self) -> Path:
        """The directory of what the callers write."""
        return self.home / "journals"

    def make(self) -> None:
        """Make what has to be there first."""
        self.journals.mkdir(parents=True)
        self.runs.touch()
        self.keys.touch(0o600)
        self.keys.write_text(f"soak {b64encode(os.urandom(32)).decode()}\n")

    def furnish(self, process: AgentProcess, url: str) -> None:
        """Give an agent the three plugins."""
        code = Path(__file__).with_name("methods.py").read_text()
        process.configure("[main]\nshutdown_timeout = 5\n")  # less than some methods take
        for queue, threads in THREADS.items():
            process.plugin(queue.replace("-", "_"), code, self._descriptor(url, queue, threads))

    def change(self, process: AgentProcess, url: str, queue: str, threads: int) -> None:
        """Change a descriptor of an agent, which is reloaded then."""
        process.descriptor(queue.replace("-", "_"), self._descriptor(url, queue, threads))

    def _descriptor(self, url: str, queue: str, threads: int) -> str:
        return _DESCRIPTOR.format(
            threads=threads,
            url=url,
            authenticator="authenticator = hmac" if queue == SIGNED else "",
            queue=queue,
            exclusive=int(queue == ONCE),
            runs=self.runs,
            keys=self.keys,
        )


class Journal:
    """Lines of JSON that one process writes, each in one piece. Any thread."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._lock = threading.Lock()

    def write(self, event: str, id: str, **more: Any) -> None:
        """Write what has happened to a request."""
        line = json.dumps({"at": round(time.time(), 6), "event": event, "id": id, **more}) + "\n"
        with self._lock:
            os.write(self._file, line.encode())


def size_of(pid: int | str) -> str:
    """Tell how much a process has: memory, threads, descriptors."""
    folder = Path(f"/proc/{pid}")
    resident = int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    threads, files = len(list((folder / "task").iterdir())), len(list((folder / "fd").iterdir()))
    return f"{resident / 1e6:.1f} MB RSS, {threads} threads, {files} descriptors"


def read_journals(folder: Path) -> Iterator[dict[str, Any]]:
    """Read what all processes have written. A last line that a killed one has left unfinished is passed over."""
    for path in sorted(folder.iterdir()):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)
