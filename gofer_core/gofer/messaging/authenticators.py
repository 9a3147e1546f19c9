"""Authenticators by name: an installed one's, or the dotted path of a class; and where their settings come from."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gofer.entry_points import listed
from gofer.entry_points import load as load_entry_point
from gofer.errors import ConfigError, PluginError
from gofer.messaging.caller_conf import caller_conf, read_section
from gofer.suggest import available, did_you_mean

__all__ = ["GROUP", "caller_authenticator", "make_authenticator"]

GROUP = "gofer.authenticators"

#: The authenticators of this project; each is in a distribution of its own.
_OURS = ("hmac", "x509")


def make_authenticator(name: str, settings: Mapping[str, Any], folder: Path) -> Any:
    """Make the authenticator of an installed entry point's name, or of the dotted path of a class.

    One that has the classmethod ``from_settings(settings, folder)`` is made by that; any other without arguments. It
    must have ``sign(digest)`` and ``validate(document, digest, signature)``.

    Args:
        settings: those of the section named like the authenticator.
        folder: what relative paths in them are relative to.

    Raises:
        PluginError: there is none of that name, or it cannot be made.
    """
    try:
        found: Any = load_entry_point(GROUP, name) if _is_installed(name) else _imported(name)
        if hasattr(found, "from_settings"):
            made = found.from_settings(settings, folder)
        elif settings:
            raise ConfigError(f"[{name}] has settings, and {name!r} takes none (it has no from_settings)")
        else:
            made = found() if isinstance(found, type) else found
    except PluginError:
        raise
    except ConfigError as wrong:
        raise PluginError(f"{name!r} cannot be made of section [{name}]: {wrong}") from wrong
    except Exception as raised:
        raise PluginError(f"{name!r} cannot be made: {type(raised).__name__}: {raised}") from raised
    missing = [method for method in ("sign", "validate") if not callable(getattr(made, method, None))]
    if missing:
        raise PluginError(f"{name!r} is no authenticator: it has no method {' and no method '.join(missing)}")
    return made


def _missing(name: str) -> str | None:
    """Say that no authenticator of a name is installed, and what to install; None: one is, or it may be a class's path.

    Imports nothing.
    """
    if _is_installed(name):
        return None
    if re.fullmatch(r"\w[\w-]*", name) is None and not all(part.isidentifier() for part in name.split(".")):
        return f"{name!r} is neither a name nor the dotted path of a class"
    if "." in name:
        top = name.partition(".")[0]
        # Of a top-level name: that imports nothing.
        return None if top in sys.modules or find_spec(top) is not None else f"there is no module {top!r} for {name!r}"
    known = {one.name for one in listed(GROUP)}
    hint = did_you_mean(name, known)
    # Only for our own names: anybody may publish a distribution under a mistyped name.
    install = f". To install it: pip install gofer-authenticator-{name}" if name in _OURS else ""
    return f"no authenticator {name!r} is installed{hint}; installed: {available(known)}{install}"


def caller_authenticator(name: str) -> Any:
    """Make a caller's authenticator by name.

    Its settings are the section named like it of the ini file that the environment's ``GOFER_CALLER_CONF`` names,
    or else of ``/etc/gofer/caller.conf``, if there is one.

    Raises:
        ConfigError: the file cannot be read, or others may write to it.
        PluginError: as ``make_authenticator``.
    """
    path, settings = caller_conf(), read_section(name)
    try:
        return make_authenticator(name, settings, path.absolute().parent)
    except PluginError as wrong:
        raise PluginError(f"{wrong} (settings of callers are in {path})") from wrong


def _is_installed(name: str) -> bool:
    return any(one.name == name for one in listed(GROUP))


def _imported(name: str) -> Any:
    missing = _missing(name)
    if missing is not None:
        raise PluginError(missing)
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as raised:
        raise PluginError(f"{name!r} is neither an installed authenticator nor a class: {raised}") from raised
