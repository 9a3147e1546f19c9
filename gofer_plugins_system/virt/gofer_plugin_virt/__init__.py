"""Virtual machines of the host that the agent runs on, by libvirt.

Nobody may call these methods without a verified identity (the plugin has an authenticator) or root's password, which
PAM checks. Where neither is possible the plugin does not load.
"""

import libvirt
from gofer.agent.plugin import Plugin
from gofer.decorators import load, unload

from gofer_plugin_virt.connections import disconnect, uri_of
from gofer_plugin_virt.domains import Virt

__all__ = ["Virt", "check", "close"]


@load
def check() -> None:
    """Refuse to be loaded where nobody could ever show who they are. libvirt itself may come later.

    Raises:
        PluginError: there is no authenticator, and passwords cannot be checked; or ``[virt] uri`` is empty.
    """
    plugin = Plugin.find(__name__)
    plugin.require_authentication()
    uri_of(plugin.cfg)
    libvirt.registerErrorHandler(lambda *_: None, None)  # it would write each error to the agent's standard error


@unload
def close() -> None:
    """Close the connection to libvirt."""
    disconnect(Plugin.find(__name__))
