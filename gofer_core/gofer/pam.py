"""Asking PAM for a user's password, for a plugin's own code. For remote methods there is ``@pam``."""

from __future__ import annotations

from gofer.agent.plugin import current
from gofer.errors import NotAuthorized
from gofer.rmi.server.logins import check_by_pam, pam_service

__all__ = ["authenticate"]

_LONG = 512  # bytes of a password, as PAM has it


def authenticate(user: str, password: str, service: str | None = None) -> bool:
    """Tell whether a user's password is right. Takes up to three seconds for one that is not. Any thread.

    Args:
        service: the PAM service; None: the agent's own (``[pam] service``), or else ``gofer`` or ``passwd``.

    Raises:
        NotAuthorized: passwords cannot be checked here: there is no such service, or python-pam is not installed.
    """
    plugin = current()
    asked = pam_service(service, None if plugin is None else plugin.container.config.pam.service)
    secret = password.encode()
    if not user or not 0 < len(secret) <= _LONG or b"\0" in secret:  # PAM reads up to a NUL
        return False
    try:
        return check_by_pam(user, secret, asked)
    except ImportError:
        raise NotAuthorized("passwords cannot be checked: pip install gofer-core[pam]") from None
