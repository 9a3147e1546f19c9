"""The machine that the agent runs on: commands, scripts, services, and its power.

Nobody may call these methods without a verified identity (the plugin has an authenticator) or the password of a user of
this machine, which PAM checks. Where neither is possible the plugin does not load.

What these methods start is noted before it is started (``@once``): a request never starts it a second time, whatever
happens to the agent, which may well be what a command has done. Commands end when their call is cancelled.
"""

import logging
import os

from gofer.agent.plugin import Plugin
from gofer.decorators import load

from gofer_plugin_system.commands import Shell
from gofer_plugin_system.power import System
from gofer_plugin_system.scripts import Script
from gofer_plugin_system.services import Service

__all__ = ["Script", "Service", "Shell", "System", "check"]

log = logging.getLogger(__name__)


@load
def check() -> None:
    """Refuse to be loaded where nobody could ever show who they are.

    Raises:
        PluginError: there is no authenticator, and passwords cannot be checked. The text says what to set.
    """
    plugin = Plugin.find(__name__)
    plugin.require_authentication()
    if plugin.authenticator is None:
        whose = "a user's password" if os.geteuid() == 0 else "the password of the agent's own user, as it is not root,"
        log.info("plugin %s: no [messaging] authenticator is set, so every call needs %s", plugin.name, whose)
