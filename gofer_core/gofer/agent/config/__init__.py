"""What is configured: the agent's settings and the plugins' descriptors, read and checked.

Reading never raises for what a file holds: it returns values and a list of :class:`Problem`, each of which is one line
that names file, section, key and what is allowed. The annotations in ``agent`` and ``descriptor`` say what keys there
are.
"""

from gofer.agent.config.agent import (
    AgentConfig,
    FleetConfig,
    LoggingConfig,
    MainConfig,
    ManagementConfig,
    MessagingConfig,
    PamConfig,
    read_agent,
)
from gofer.agent.config.broken import asks_to_be_required, ruled_plugin
from gofer.agent.config.descriptor import (
    Descriptor,
    find_plugin_dirs,
    read_descriptor,
    read_descriptors,
    read_url_file,
    redescribe,
)
from gofer.agent.config.identity import Machine, made_elsewhere, stable_uuid
from gofer.agent.config.live import LiveSection, LiveSettings, as_changed
from gofer.agent.config.problem import Problem
from gofer.agent.config.together import check_together, not_trusted

__all__ = [
    "AgentConfig", "MainConfig", "ManagementConfig", "LoggingConfig", "PamConfig", "MessagingConfig", "FleetConfig",
    "read_agent", "Descriptor", "read_descriptor", "read_descriptors", "read_url_file", "redescribe",
    "find_plugin_dirs", "check_together", "not_trusted", "asks_to_be_required", "ruled_plugin", "Machine",
    "made_elsewhere", "stable_uuid", "LiveSection", "LiveSettings", "as_changed", "Problem",
]  # fmt: skip
