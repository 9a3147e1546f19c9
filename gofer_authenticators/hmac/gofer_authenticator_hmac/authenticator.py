"""HMAC-SHA256 with the keys of one file. Who knows a key is whom its id names."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gofer.errors import ConfigError
from gofer.messaging.auth import ValidationFailed
from gofer.messaging.keyfiles import Watched, read_secret
from gofer.messaging.stamped import MAX_AGE, StampedAuthenticator, read_limits

__all__ = ["HmacAuthenticator"]

_LEAST = 32  # bytes of a key: as many as the digest has
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class HmacAuthenticator(StampedAuthenticator):
    """Signs with one key of a file, and takes what any of its keys has signed. Any thread.

    A line of the file is a key's id and the key, 32 bytes or more in base64; ``#`` begins a comment. The file must be
    readable by nobody but its owner (and its group), and is read again when it changes.

    Args:
        keys: the file.
        key: the id of the key to sign with; None: the file's first one.
        max_age, peers: see :class:`gofer.messaging.stamped.StampedAuthenticator`. An identity is a key's id.

    Raises:
        ConfigError: the file cannot be used; the text tells no key.
    """

    scheme = "hmac-sha256-1"

    def __init__(
        self,
        keys: str | Path,
        *,
        key: str | None = None,
        max_age: float = MAX_AGE,
        peers: Iterable[str] | None = None,
    ) -> None:
        super().__init__(max_age=max_age, peers=peers)
        path = Path(keys)
        self._path = path
        self._key = key
        self._keys = Watched(lambda: _parse(path, read_secret(path), key), path)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], folder: Path) -> HmacAuthenticator:
        """Make one of the settings ``keys``, ``key``, ``max_age`` and ``peers``.

        Raises:
            ConfigError: one is unknown, missing or wrong.
        """
        limits = read_limits(settings, ["keys", "key"], ["keys"])
        return cls(folder / str(settings["keys"]), key=settings.get("key") or None, **limits)

    def signer(self) -> bytes:
        """Do as StampedAuthenticator says."""
        return (self._key or next(iter(self._keys.get()))).encode()

    def seal(self, data: bytes, key: bytes) -> bytes:
        """Do as StampedAuthenticator says."""
        return hmac.digest(self._keys.get()[key.decode()], data, "sha256")

    def check(self, key: bytes, data: bytes, seal: bytes) -> str:
        """Do as StampedAuthenticator says."""
        name = key.decode("ascii", "replace")
        known = self._keys.get().get(name)
        # An unknown key takes as long as a known one.
        right = hmac.compare_digest(hmac.digest(known or bytes(_LEAST), data, "sha256"), seal)
        if known is None:
            raise ValidationFailed(f"the key {name[:100]!r} is not known")
        if not right:
            raise ValidationFailed("the signature does not match")
        return name

    def __repr__(self) -> str:
        return f"<HmacAuthenticator of {self._path}>"


def _parse(path: Path, data: bytes, wanted: str | None) -> dict[str, bytes]:
    keys: dict[str, bytes] = {}
    try:
        lines = data.decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not text of ASCII") from None
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"{path}, line {number}"
        if len(words) != 2:
            raise ConfigError(f"{where}: is not a key's id and the key")
        name, text = words
        if not _ID.fullmatch(name):
            raise ConfigError(f"{where}: a key's id has letters, digits and . _ @ -, at most 64")
        if name in keys:
            raise ConfigError(f"{where}: {name!r} is there already")
        try:
            key = base64.b64decode(text, validate=True)
        except binascii.Error:
            raise ConfigError(f"{where}: the key is not base64") from None
        if len(key) < _LEAST:
            raise ConfigError(f"{where}: the key has {len(key)} bytes, fewer than {_LEAST}")
        keys[name] = key
    if not keys:
        raise ConfigError(f"{path}: has no key")
    if wanted is not None and wanted not in keys:
        raise ConfigError(f"{path}: has no key {wanted!r}; it has: {', '.join(keys)}")
    return keys
