"""Packages of the machine that the agent runs on: installed, updated and removed by apt, dnf or yum.

Nobody may call these methods without a verified identity (the plugin has an authenticator) or root's password, which
PAM checks. Where neither is possible the plugin does not load.

A change runs in a session of its own. It goes on when the agent dies, and a cancelled call ends it at a safe point.
"""

from gofer.agent.plugin import Plugin
from gofer.decorators import load

from gofer_plugin_package.packages import Package
from gofer_plugin_package.settings import read_settings

__all__ = ["Package", "check"]


@load
def check() -> None:
    """Refuse to be loaded with settings that are wrong, or where nobody could ever show who they are.

    Raises:
        PluginError: there is no authenticator, and passwords cannot be checked; a setting is wrong; or the machine has
            no package manager. The text says what to set.
    """
    plugin = Plugin.find(__name__)
    plugin.require_authentication()
    read_settings(plugin.cfg)
