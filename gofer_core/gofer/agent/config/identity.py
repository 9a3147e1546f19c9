"""The identity of a plugin that names none: a uuid, made once and kept, and the machine that it was made on.

A copied disk has the identity of another machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from pathlib import Path

from msgspec import Struct

from gofer.agent.config.problem import shown
from gofer.errors import ConfigError
from gofer.root import Root, sync

__all__ = ["Machine", "made_elsewhere", "stable_uuid"]

_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))  # the machine's own, whatever the root


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
        text = _kept(path, str(uuid.uuid4()))
    except OSError as error:
        raise ConfigError(f"{path}: the plugin's identity cannot be kept there: {error.strerror}") from error
    if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text):
        raise ConfigError(
            f"{path}: is not a plugin's identity: {text[:60]!r}; allowed: one uuid. "
            "Put the right one back, or remove the file: the plugin then gets a new queue"
        )
    return text


class Machine(Struct, frozen=True):
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


def made_elsewhere(root: Root, name: str, queue: str) -> str | None:
    """Say that a plugin's queue got its name on another machine, and what to do; None: it was on this one.

    The machine is written into a file beside the uuid, ``<lib>/identity/.<name>.machine``, now if there is none.
    """
    kept, file, here = root.lib / "identity" / name, root.lib / "identity" / f".{name}.machine", Machine.this()
    try:
        key, _, host = _kept(file, f"{here.key} {here.host}").partition(" ")
    except OSError as error:
        return f"{file}: cannot record the machine on which the identity was made: {error.strerror}"
    if key == here.key:
        return None
    return (
        f"its queue {queue} was made on another machine, {shown(host)}; this is {shown(here.host)}. "
        "If that one still runs, its agent reads this queue, too, and each of the two answers half of the calls. "
        f"Then stop goferd here and remove {kept} and {file}: this agent gets its own queue. "
        f"If this machine has replaced that one, remove {file} alone"
    )


def _kept(path: Path, text: str) -> str:
    """Return the text that a file keeps; if there is none, it is made with this one, whole and flushed."""
    if not os.path.lexists(path):
        _make(path, text)
    with open(path, "rb") as file:
        return file.read(1000).decode("utf-8", "replace").strip()


def _make(path: Path, text: str) -> None:
    draft = path.with_name(f".{uuid.uuid4()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(f"{text}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # unlike a rename it fails where the name is taken
        except FileExistsError:
            pass  # the other's stands, and is read next
    finally:
        os.unlink(draft)
    sync(path.parent)
