"""Adapters: the interface, and finding the one that a URL asks for."""

from __future__ import annotations

from gofer.entry_points import Installed, listed, load, scan
from gofer.errors import AdapterError, PluginError
from gofer.messaging.adapter import Adapter
from gofer.messaging.url import URL
from gofer.suggest import available, did_you_mean

__all__ = ["GROUP", "find", "installed"]

#: The entry point group of adapters.
GROUP = "gofer.adapters"

#: Our own adapters, in the order in which a URL without a name tries them, and their other names.
_OURS = {
    "amqp": ("amqp-0-9-1", "rabbitmq", "rabbit"),
    "proton": ("amqp-1-0",),
    "qpid": ("amqp-0-10", "qpid.messaging"),
}


def installed() -> list[Installed]:
    """Return the adapters that are installed, by name. Imports none of them."""
    return listed(GROUP)


def find(url: URL, preferred: str | None = None) -> type[Adapter]:
    """Return the adapter for a URL, and import that one only.

    Args:
        url: its adapter's name decides, or ``local`` its protocol. ``qpid`` falls back to ``proton`` when that is all
            there is.
        preferred: the adapter for a URL that names none; None: the first of amqp, proton and qpid that is installed.

    Raises:
        AdapterError: no such adapter (the text says what is installed and what to install), two distributions claim it,
            importing it fails, or it is not an adapter.
    """
    scanned = scan(GROUP)
    names = {one.name for one in scanned}
    name = _choose(url, preferred, names)
    if name not in names:
        asked = f"the adapter {name!r} of {url}" if url.adapter or not preferred else f"the preferred adapter {name!r}"
        hint = did_you_mean(name, names)
        instead = _instead(name)
        raise AdapterError(f"{asked} is not installed{hint}; installed: {available(names)}{instead}")
    try:
        found = load(GROUP, name, scanned)
    except PluginError as error:
        raise AdapterError(f"no adapter for {url}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        who = ", ".join(str(one) for one in scanned if one.name == name)
        raise AdapterError(f"no adapter for {url}: {name!r} of {who} is {found!r}, and not a subclass of Adapter")
    return found


def _choose(url: URL, preferred: str | None, names: set[str]) -> str:
    """Return the name of the adapter to use; it need not be installed."""
    name = "local" if url.adapter is None and url.protocol == "local" else url.adapter or preferred
    if name is None:
        return next((own for own in _OURS if own in names), next(iter(_OURS)))
    if name not in names and name in ("qpid", *_OURS["qpid"]) and "proton" in names:
        return "proton"
    return name


def _instead(name: str) -> str:
    """Return what to do about one of our adapters that is not installed; "" for any other name.

    Never suggest a distribution made from the given name: anybody may have published one under a mistyped name.
    """
    ours = next((own for own, others in _OURS.items() if name == own or name in others), None)
    if name == "local":
        return ". It is part of gofer-core; to repair that: pip install --force-reinstall gofer-core"
    return "" if ours is None else f". To install it: pip install gofer-adapter-{ours}"
