"""A change freeze: while a file is there, only harmless methods run, and all others only for some callers."""

from collections.abc import Generator
from fnmatch import fnmatchcase
from typing import Any

from gofer.agent.plugin import Plugin
from gofer.decorators import load
from gofer.errors import NotAuthorized, PluginError
from gofer.hooks import hookimpl
from gofer.rmi.request import Received

__all__ = ["check", "gofer_call"]

plugin = Plugin.find(__name__)


@load
def check() -> None:
    """Refuse to be loaded without settings: an authorizer must not guess."""
    section = plugin.cfg.freeze
    missing = [key for key in ("file", "harmless", "exempt") if section is None or key not in section]
    if missing:
        raise PluginError(f"{plugin.descriptor.file}: [freeze] has no {', '.join(missing)}")


@hookimpl(wrapper=True)
def gofer_call(request: Received) -> Generator[None, Any, Any]:
    """Decide about each call, before its method runs: ``request.api`` is the method that was found."""
    method = request.target if request.api is None else request.api.name
    reason = freeze()
    if reason is not None and not is_allowed(request.identity, method):
        raise NotAuthorized(f"changes are frozen: {reason}. {method}() is not one of the harmless methods")
    return (yield)


def freeze() -> str | None:
    """Return why changes are frozen: what the file says. None: it is not there. If it cannot be read, no call runs."""
    try:
        # Relative to the descriptor, as the paths of authenticators are.
        return (plugin.descriptor.file.parent / plugin.cfg.freeze.file).read_text("utf-8").strip() or "no reason given"
    except FileNotFoundError:
        return None


def is_allowed(identity: str | None, method: str) -> bool:
    """Tell whether a caller may call a method during a freeze."""
    exempt = plugin.cfg.freeze.exempt.split()
    harmless = plugin.cfg.freeze.harmless.split()
    return identity in exempt or any(fnmatchcase(method, pattern) for pattern in harmless)
