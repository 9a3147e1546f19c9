"""Certificates for tests, made by what ``gofer certs`` makes them with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from gofer.tools.pki import Entry, Store


class Certificates:
    """An authority with a server's (localhost, 127.0.0.1, ::1) and a client's certificate, and another authority.

    All are PEM files under ``folder``; ``client_both`` holds the client's certificate and its key in one file.
    """

    def __init__(self, folder: Path, client: str = "gofer-client", key: str = "ec") -> None:
        self.client_name = client
        self.store, self.other = Store(folder / "pki"), Store(folder / "other")
        self._key = key
        self.authority = self.store.make_authority("ca", "test authority", days=20, key=key).file
        self.other_authority = self.other.make_authority("ca", "test other", days=20, key=key).file
        self.store.save(replace=False)
        self.other.save(replace=False)
        self.server, self.server_key = self.broker("server", "localhost", "127.0.0.1", "::1")
        self.elsewhere, self.elsewhere_key = self.broker("elsewhere", "elsewhere.example")
        entry = self.store.issue("clients", client, days=10, bundle=True, key=key)
        self.store.save(replace=False)
        self.client, self.client_key, self.client_both = entry.file, entry.key, entry.bundle

    def broker(self, name: str, *names: str, days: tuple[int, int] = (0, 10), other: bool = False) -> tuple[Path, Path]:
        """Issue a broker's certificate, valid from and to so many days from now; ``other``: by the other authority."""
        entry = self._issue("brokers", name, names, days, other)
        entry.key.chmod(0o644)  # the broker may run as somebody else
        return entry.file, entry.key

    def user(self, name: str, *, days: tuple[int, int] = (0, 10), other: bool = False) -> tuple[Path, Path]:
        """Issue a client's certificate, likewise."""
        entry = self._issue("clients", name, (), days, other)
        return entry.file, entry.key

    def _issue(self, kind: str, name: str, names: tuple[str, ...], days: tuple[int, int], other: bool) -> Entry:
        store = self.other if other else self.store
        starts = datetime.now(UTC) + timedelta(days=days[0])
        entry = store.issue(kind, name, names, days=days[1] - days[0], starts=starts, key=self._key)
        store.save(replace=False)
        return entry
