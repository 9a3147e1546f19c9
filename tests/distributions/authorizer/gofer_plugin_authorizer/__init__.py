"""Who may call what: by identity (a key's id, or a certificate's name) and method, and nobody else anything.

The section ``[allow]`` says so for all plugins: ``Dog.* = alice, bob``. ``*`` is any identity, but no unsigned request.
"""

from __future__ import annotations

from collections.abc import Generator
from fnmatch import fnmatchcase
from typing import Any

from gofer.agent.plugin import Plugin
from gofer.errors import NotAuthorized
from gofer.hooks import hookimpl
from gofer.rmi.request import Received

__all__ = ["gofer_call"]

_allow = Plugin.find(__name__).cfg.allow
_rules = {pattern: [one.strip() for one in who.split(",")] for pattern, who in _allow}


def _allowed(identity: str | None, method: str) -> bool:
    if identity is None:
        return False
    return any(
        fnmatchcase(identity, who)
        for pattern, allowed in _rules.items()
        if fnmatchcase(method, pattern)
        for who in allowed
    )


@hookimpl(wrapper=True)
def gofer_call(request: Received) -> Generator[None, Any, Any]:
    """Refuse before the method is run. ``request.api`` is the one that was found: it may be inherited, or forwarded."""
    method = request.target if request.api is None else request.api.name
    if not _allowed(request.identity, method):
        raise NotAuthorized(f"{request.identity or 'who does not sign'} may not call {method}()")
    return (yield)
