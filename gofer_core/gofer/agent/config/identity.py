"""The identity of a plugin that names none: a uuid, made once and kept."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path

from gofer.errors import ConfigError
from gofer.root import Root

__all__ = ["stable_uuid"]


def stable_uuid(root: Root, name: str) -> str:
    """Return the uuid kept for the plugin ``name``; the first call makes it, safe on disk before this returns.

    It is kept in ``<lib>/identity/<name>``, mode 0600. Of several callers at once, in any processes, all get the same.

    Raises:
        ConfigError: the file does not hold a uuid, or cannot be read or written; the text names it.
        ValueError: ``name`` is not a plugin's name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise ValueError(f"{name[:200]!r} is not a plugin's name")
    root.ensure(root.lib)
    path = root.ensure(root.lib / "identity") / name
    try:
        if not os.path.lexists(path):
            _make(path)
        with open(path, "rb") as file:
            data = file.read(100)
    except OSError as error:
        raise ConfigError(f"{path}: the plugin's identity cannot be kept there: {error.strerror}") from error
    text = data.decode("ascii", "replace").strip()
    if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
        raise ConfigError(
            f"{path}: is not a plugin's identity: {text[:60]!r}; allowed: one uuid. "
            "Put the right one back, or remove the file: the plugin then gets a new queue"
        )
    return text


def _make(path: Path) -> None:
    """Write a new uuid whole and flushed, then give it its name, unless another was quicker."""
    fresh = uuid.uuid4()
    draft = path.with_name(f".{fresh}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(f"{fresh}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # unlike a rename it fails where the name is taken
        except FileExistsError:
            pass  # the other's stands, and is read next
    finally:
        os.unlink(draft)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
