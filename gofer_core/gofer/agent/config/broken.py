"""What a descriptor that cannot be used asks for, as far as that can be seen: its plugin is required, or has rules."""

from __future__ import annotations

import re
from pathlib import Path

from gofer.agent.config.descriptor import DESCRIPTOR
from gofer.agent.config.files import read_bytes
from gofer.agent.config.kinds import FLAG, Wrong
from gofer.sections import Unreadable, parse_ini, parse_json

__all__ = ["asks_to_be_required", "ruled_plugin"]

_REQUIRED = re.compile(r"""^\s*["{\s]*required"?\s*[=:]\s*"?(1|yes|true|on)\b""", re.IGNORECASE | re.MULTILINE)
_ENABLED = re.compile(r"""\benabled"?\s*[=:]\s*"?(1|yes|true|on)\b""", re.IGNORECASE)
_PLUGIN = re.compile(r"^\s*plugin\s*[=:]\s*\"?([\w.-]+)", re.MULTILINE)
_PLUGIN_IN_JSON = re.compile(r'"plugin"\s*:\s*"([\w.-]+)')
_HEADER = re.compile(r"^\s*\[([^\]\n]*)\].*$", re.MULTILINE)


def asks_to_be_required(path: Path) -> bool:
    """Tell whether a descriptor with errors switches on a plugin that it calls required. In doubt it does.

    Of a file that cannot be read at all nothing is known: False.
    """
    text = _text_of(path)
    if text is None:
        return False
    is_json = path.suffix == ".json"
    try:
        content = parse_json(text) if is_json else parse_ini(text, None, frozenset(DESCRIPTOR.sections))
    except Unreadable:
        return bool(_REQUIRED.search(text) and _ENABLED.search(text))
    main = content.sections.get("main", {})
    if _may_be_on(main.get("required")) and _may_be_on(main.get("enabled")):
        return True
    # A section that is there twice, or misspelt like [Main], has lost what it asked for.
    lost = not is_json and "required" not in main and _ENABLED.search(text) is not None
    _, *parts = _HEADER.split(text)
    bodies = (body for name, body in zip(parts[::2], parts[1::2], strict=True) if name.strip().lower() == "main")
    return lost and any(_REQUIRED.search(body) for body in bodies)


def ruled_plugin(path: Path) -> str | None:
    """Return the plugin that a descriptor names, or its file, if it may have rules of access; None: it has none.

    Of a file that cannot be read at all nobody knows; then it may.
    """
    text = _text_of(path)
    if text is not None and "access" not in text.lower():
        return None
    named = (_PLUGIN_IN_JSON if path.suffix == ".json" else _PLUGIN).search(text or "")
    return path.stem if named is None else named[1]


def _text_of(path: Path) -> str | None:
    """Read a file that may be no text, or in another coding; None: it cannot be read."""
    try:
        data = read_bytes(path)
    except Unreadable:
        return None
    coding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return data.decode(coding, "replace").replace("\0", "").replace("\r\n", "\n")


def _may_be_on(raw: object) -> bool:
    """Tell whether a flag is on, or was perhaps meant to be."""
    try:
        return raw is not None and bool(FLAG.read(raw))
    except Wrong:
        return True
