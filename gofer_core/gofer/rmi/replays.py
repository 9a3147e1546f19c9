"""What an agent remembers of signatures, so that a copy of a signed request is not run."""

from __future__ import annotations

import enum
import heapq
import logging
import os
import struct
import threading
import time
from pathlib import Path
from typing import NamedTuple

from gofer.errors import ConfigError
from gofer.rmi.limit import Limit

__all__ = ["Proof", "Replays", "Seen"]

log = logging.getLogger(__name__)

_RECORD = struct.Struct("!16sd")


class Proof(NamedTuple):
    """What makes a signature that one: 16 bytes, and the time (seconds since 1970) from which it is too old anyway.

    ``exact``: each publication has its own, so that one that was given again says that it was copied.
    """

    nonce: bytes
    expires: float
    exact: bool = True


class Seen(enum.Enum):
    """Whether a signature was seen."""

    NEVER = "never"
    BEFORE = "before"  # since this process began
    EARLIER = "earlier"  # by one that ran before: it may have died over the request


class Replays:
    """The signatures seen by one agent, as long as their age would let them pass. Any thread.

    No more than ``most`` are remembered; when there are more, the oldest go, and then whatever was signed before them
    counts as seen: it fails closed. With a file they survive the end of the process; that is written without a wait for
    the disk, so the last ones before a power failure may be missing. A file that cannot be used is told in the log, and
    then memory alone serves.
    """

    def __init__(self, file: Path | None = None, *, most: int = 100_000) -> None:
        self._file = file
        self._most = most
        self._lock = threading.Lock()
        self._known: dict[bytes, float] = {}
        self._earlier: set[bytes] = set()
        self._order: list[tuple[float, bytes]] = []
        self._floor = 0.0
        self._descriptor: int | None = None
        self._written = 0
        self._opened = False
        self._complaints = Limit(0.1, 1)

    def note(self, proof: Proof) -> Seen:
        """Remember a signature, and tell whether it was known."""
        with self._lock:
            if not self._opened:
                self._opened = True
                self._open()
            if proof.nonce in self._known:
                if proof.nonce not in self._earlier:
                    return Seen.BEFORE
                self._earlier.discard(proof.nonce)
                return Seen.EARLIER
            if proof.expires <= self._floor:
                return Seen.BEFORE
            self._add(proof.nonce, proof.expires)
            self._write(_RECORD.pack(proof.nonce, proof.expires))
            return Seen.NEVER

    def forget(self, proof: Proof | None) -> None:
        """Let a signature pass once more: its request was given back to the broker."""
        if proof is not None:
            with self._lock:
                self._known.pop(proof.nonce, None)
                self._earlier.discard(proof.nonce)

    def close(self) -> None:
        """Close the file. Idempotent; what comes later opens it again."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor, self._opened = None, False

    def __len__(self) -> int:
        return len(self._known)

    def _add(self, nonce: bytes, expires: float) -> None:
        self._known[nonce] = expires
        heapq.heappush(self._order, (expires, nonce))
        now = time.time()
        while self._order and (self._order[0][0] < now or len(self._order) > self._most):
            oldest, gone = heapq.heappop(self._order)
            if oldest >= now:
                self._floor = max(self._floor, oldest)
            self._known.pop(gone, None)
            self._earlier.discard(gone)

    # -- the file -------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._file is None:
            return
        try:
            records = self._read(self._file)
            now = time.time()
            for nonce, expires in records:
                if expires >= now and nonce not in self._known:
                    self._add(nonce, expires)
                    self._earlier.add(nonce)
            self._rewrite(self._file)
        except (OSError, ConfigError) as broken:
            self._give_up(broken)

    @staticmethod
    def _read(file: Path) -> list[tuple[bytes, float]]:
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            return []
        whole = len(data) - len(data) % _RECORD.size  # the end may have been cut
        return [(nonce, expires) for nonce, expires in _RECORD.iter_unpack(data[:whole])]

    def _rewrite(self, file: Path) -> None:
        """Write the file anew, with no more than what is known."""
        new = file.with_name(f"{file.name}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(descriptor, b"".join(_RECORD.pack(nonce, expires) for nonce, expires in self._known.items()))
            os.replace(new, file)
        except OSError:
            os.close(descriptor)
            raise
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor, self._written = descriptor, len(self._known)

    def _write(self, record: bytes) -> None:
        if self._descriptor is None or self._file is None:
            return
        try:
            _write_all(self._descriptor, record)
            self._written += 1
            if self._written > 2 * self._most:
                self._rewrite(self._file)
        except OSError as broken:
            self._give_up(broken)

    def _give_up(self, broken: Exception) -> None:
        """Do without the file."""
        if self._complaints.allows():
            log.error(
                "%s: cannot be used (%s): signed requests sent again after a restart cannot be told", self._file, broken
            )
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
