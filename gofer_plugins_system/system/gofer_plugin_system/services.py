"""Services, by systemd where it runs, else by the command ``service``."""

from __future__ import annotations

import os
import re

from gofer.agent.plugin import Plugin
from gofer.decorators import once, pam, remote
from gofer.rmi import shell

from gofer_plugin_system.commands import Ended

__all__ = ["Service"]

# No slash: `service` would look for it elsewhere than among the services. No hyphen first: it would be an option.
_NAME = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9_@:.\\-]{0,254}")
_SYSTEMD = "/run/systemd/system"  # is there while systemd runs, as sd_booted(3) has it


class Service:
    """A service of the agent's machine, by its name.

    Args:
        name: as ``systemctl`` or ``service`` know it.

    Raises:
        ValueError: it is not a name.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"{name!r:.100} is not the name of a service")
        self._name = name

    @remote
    @once
    @pam(user="root", identity=True)
    def start(self) -> Ended:
        """Start it. Returns as ``Shell.run``: status 0 if it runs."""
        return self._do("start")

    @remote
    @once
    @pam(user="root", identity=True)
    def stop(self) -> Ended:
        """Stop it. Returns as ``Shell.run``: status 0 if it does not run any more."""
        return self._do("stop")

    @remote
    @once
    @pam(user="root", identity=True)
    def restart(self) -> Ended:
        """Stop and start it. Returns as ``Shell.run``: status 0 if it runs."""
        return self._do("restart")

    @remote
    @pam(user="root", identity=True)
    def status(self) -> Ended:
        """Tell its status. Returns as ``Shell.run``: status 0 if it runs, 3 if it does not, 4 if there is none such."""
        return self._do("status")

    def _do(self, what: str) -> Ended:
        if _by_systemd():
            return shell.Shell().run("systemctl", "--no-pager", "--no-ask-password", what, "--", self._name)
        return shell.Shell().run("service", self._name, what)


def _by_systemd() -> bool:
    """Tell which of the two is asked: what ``[system] services`` of the descriptor says, else what there is."""
    cfg = Plugin.find(__name__).cfg
    wanted = cfg.system.services if "system" in cfg and "services" in cfg.system else "auto"
    if wanted not in ("auto", "systemctl", "service"):
        raise ValueError(f"[system] services is {wanted!r}; allowed: auto, systemctl, service")
    return wanted == "systemctl" or (wanted == "auto" and os.path.isdir(_SYSTEMD))
