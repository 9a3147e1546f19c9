"""What a descriptor that cannot be used asks for: whether the agent must not take requests without its plugin."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from gofer.agent.config.descriptor_keys import DESCRIPTOR
from gofer.agent.config.files import MAX_FILE
from gofer.agent.config.ini import Unreadable, parse_ini, parse_json
from gofer.agent.config.values import Flag, Wrong

__all__ = ["asks_to_be_required"]

_REQUIRED = re.compile(r"""^\s*["{\s]*required"?\s*[=:]\s*"?(1|yes|true|on)\b""", re.IGNORECASE | re.MULTILINE)
_HEADER = re.compile(r"^\s*\[([^\]\n]*)\].*$", re.MULTILINE)
_ENABLED = re.compile(r"""\benabled"?\s*[=:]\s*"?(1|yes|true|on)\b""", re.IGNORECASE)


def asks_to_be_required(path: Path) -> bool:
    """Tell whether a descriptor with errors switches on a plugin that it calls required. In doubt it does.

    Of a file that cannot be read at all nothing is known: False.
    """
    text = _text(path)
    if text is None:
        return False
    try:
        parse = parse_json(text, {}) if path.suffix == ".json" else parse_ini(text, {}, frozenset(DESCRIPTOR.sections))
    except Unreadable:
        return bool(_REQUIRED.search(text) and _ENABLED.search(text))
    main = parse.sections.get("main", {})
    if _may_be(main.get("required")) and _may_be(main.get("enabled")):
        return True
    # A section that is there twice, or misspelt like [Main], has lost what it asked for.
    lost = path.suffix != ".json" and "required" not in main
    return lost and any(_REQUIRED.search(one) and _ENABLED.search(text) for one in _sections_like_main(text))


def _sections_like_main(text: str) -> list[str]:
    parts = _HEADER.split(text)
    return [body for name, body in zip(parts[1::2], parts[2::2], strict=True) if name.strip().lower() == "main"]


def _may_be(raw: object) -> bool:
    """Tell whether a flag is on, or was perhaps meant to be."""
    if raw is None:
        return False
    try:
        return Flag().read(raw)
    except Wrong:
        return True


def _text(path: Path) -> str | None:
    try:
        # O_NONBLOCK: opening a FIFO would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_FILE)
        coding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
        return data.decode(coding, "replace").replace("\0", "").replace("\r\n", "\n")
    except OSError:
        return None
    finally:
        os.close(descriptor)
