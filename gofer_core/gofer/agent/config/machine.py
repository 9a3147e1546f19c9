"""Which machine this is, and which one a plugin's identity was made on: a copied disk has the identity of another."""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from gofer.errors import ConfigError
from gofer.root import Root

__all__ = ["Machine", "made_on"]

_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))  # the machine's own, whatever the root


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine. ``key`` is the same as long as it is the same machine; ``host`` is its name."""

    key: str
    host: str

    @classmethod
    def this(cls) -> Machine:
        """Return the one that this process runs on: known by its machine-id, or by its host name where it has none."""
        host = os.uname().nodename
        for file in _IDS:
            try:
                text = file.read_text("ascii", "replace").strip()
            except OSError:
                continue  # as in many containers
            if text and text != "uninitialized":
                # Never the number itself: it is for this machine alone.
                return cls("machine-id:" + hashlib.sha256(b"gofer " + text.encode()).hexdigest()[:32], host)
        return cls(f"host:{host}", host)


def made_on(root: Root, name: str) -> tuple[Machine, Path]:
    """Return the machine that a plugin's uuid was made on, and the file that says so; written now if there is none.

    The file stands beside the uuid: ``<lib>/identity/.<name>.machine``.

    Raises:
        ConfigError: it cannot be read or written; the text names it.
    """
    path = root.lib / "identity" / f".{name}.machine"
    try:
        if not path.exists():
            here = Machine.this()
            draft = path.with_name(f".{uuid.uuid4()}")
            draft.write_text(f"{here.key} {here.host}\n", "utf-8")
            os.replace(draft, path)
        key, _, host = path.read_text("utf-8", "replace")[:1000].strip().partition(" ")
    except OSError as error:
        raise ConfigError(f"{path}: cannot tell the machine that the identity was made on: {error.strerror}") from error
    return Machine(key, host), path
