"""The documents of gofer 2.12 in tests/wire/documents."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from gofer.messaging.auth import Authenticator, ValidationFailed

from support.repository import TOP

__all__ = ["CAPTURED", "Captured", "HexAuthenticator", "captured"]

_FOLDER = TOP / "tests/wire/documents"


@dataclass(frozen=True)
class Captured:
    """A message of gofer 2.12; ``ttl`` in seconds."""

    name: str
    what: str
    sender: str
    address: str
    ttl: float | None
    body: bytes

    @property
    def signed(self) -> bool:
        return set(json.loads(self.body)) == {"message", "signature"}

    @property
    def inner(self) -> bytes:
        """The document itself, without its signature."""
        return json.loads(self.body)["message"].encode() if self.signed else self.body

    @property
    def document(self) -> dict[str, Any]:
        """The document as Python's own json reads it."""
        found: dict[str, Any] = json.loads(self.inner)
        return found

    def __str__(self) -> str:
        return self.name


class HexAuthenticator(Authenticator):
    """The authenticator that the signed documents were captured with."""

    def sign(self, digest: str) -> str:
        return hashlib.sha256(digest.encode()).hexdigest()

    def validate(self, document: Any, digest: str, signature: Any) -> None:
        if signature != self.sign(digest):
            raise ValidationFailed("signature not matched")

    def wrap(self, text: str) -> bytes:
        """Sign as 2.12 did, with nothing of ours in between."""
        signature = self.sign(hashlib.sha256(text.encode()).hexdigest())
        return json.dumps({"message": text, "signature": base64.b64encode(signature.encode()).decode()}).encode()


def _read() -> dict[str, Captured]:
    documents = {}
    for path in sorted(_FOLDER.glob("*.json"), key=lambda path: path.stem):
        raw = json.loads(path.read_text())
        expiration = raw["properties"].get("expiration")
        documents[path.stem] = Captured(
            path.stem,
            raw["what"],
            raw["from"],
            raw["address"],
            None if expiration is None else int(expiration) / 1000,
            raw["body"].encode(),
        )
    return documents


CAPTURED = _read()


def captured(*prefixes: str) -> list[Captured]:
    """Return the documents whose names begin with one of the prefixes."""
    return [document for name, document in CAPTURED.items() if name.startswith(prefixes)]
