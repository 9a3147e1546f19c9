"""The machine that the agent runs on: commands, scripts, services, and its power.

What these methods start is noted before it is started (``@once``): a request never starts it a second time, whatever
happens to the agent, which may well be what a command has done. Commands end when their call is cancelled.
"""

from gofer_plugin_system.commands import Shell
from gofer_plugin_system.power import System
from gofer_plugin_system.scripts import Script
from gofer_plugin_system.services import Service

__all__ = ["Script", "Service", "Shell", "System"]
