"""The authenticator that a descriptor names: made once, before the plugin takes any request."""

from __future__ import annotations

import importlib
from typing import Any

from gofer.entry_points import listed
from gofer.entry_points import load as load_entry_point
from gofer.errors import PluginError

__all__ = ["make_authenticator", "missing_authenticator"]

_GROUP = "gofer.authenticators"


def make_authenticator(name: str | None) -> Any:
    """Make the authenticator of an installed entry point's name, or of the dotted path of a class. None stays None.

    It is made without arguments, and must have ``sign(digest)`` and ``validate(document, digest, signature)``.

    Raises:
        PluginError: there is none of that name, or it cannot be made: the plugin must not run without it.
    """
    if name is None:
        return None
    try:
        found = load_entry_point(_GROUP, name) if any(one.name == name for one in listed(_GROUP)) else _imported(name)
        made = found() if isinstance(found, type) else found
    except PluginError:
        raise
    except Exception as raised:
        raise PluginError(f"{name!r} cannot be made: {type(raised).__name__}: {raised}") from raised
    missing = [method for method in ("sign", "validate") if not callable(getattr(made, method, None))]
    if missing:
        raise PluginError(f"{name!r} is no authenticator: it has no method {' and no method '.join(missing)}")
    return made


def missing_authenticator(name: str) -> str | None:
    """Say that no authenticator of a name is installed, and what to install; None: one is, or it may be a class's path.

    Imports nothing.
    """
    if "." in name or any(one.name == name for one in listed(_GROUP)):
        return None
    return f"no authenticator {name!r} is installed; pip install gofer-authenticator-{name}"


def _imported(name: str) -> Any:
    missing = missing_authenticator(name)
    if missing is not None:
        raise PluginError(missing)
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as raised:
        raise PluginError(f"{name!r} is neither an installed authenticator nor a class: {raised}") from raised
