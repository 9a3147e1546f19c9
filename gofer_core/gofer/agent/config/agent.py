"""The agent's own settings: ``agent.conf``, then ``conf.d/*`` in the order of their names.

Later files win, key by key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from gofer.agent.config.agent_keys import AGENT, Agent
from gofer.agent.config.files import list_files, list_unread, read_sections
from gofer.agent.config.problem import Problem
from gofer.agent.config.reading import Reader, Values
from gofer.root import Root

__all__ = [
    "AgentConfig",
    "LoggingConfig",
    "MainConfig",
    "ManagementConfig",
    "MessagingConfig",
    "PamConfig",
    "read_agent",
]


@dataclass(frozen=True, slots=True)
class MainConfig:
    """``[main]``. ``shutdown_timeout``: seconds that running calls have when the agent is told to stop."""

    shutdown_timeout: float = Agent.SHUTDOWN_TIMEOUT.default


@dataclass(frozen=True, slots=True)
class ManagementConfig:
    """``[management]``: whether and where ``gofer mgt`` reaches the agent."""

    enabled: bool = Agent.MANAGEMENT_ENABLED.default
    host: str = Agent.MANAGEMENT_HOST.default
    port: int = Agent.MANAGEMENT_PORT.default


@dataclass(frozen=True, slots=True)
class LoggingConfig:
    """``[logging]``. ``levels`` maps loggers' names (``root``: the root logger) to the numbers of ``logging``.

    ``file``: where to log, None: standard error. ``format``: ``text`` or ``json``.
    """

    levels: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    file: Path | None = None
    format: str = Agent.LOG_FORMAT.default


@dataclass(frozen=True, slots=True)
class PamConfig:
    """``[pam]``. ``service``: what checks passwords where a method names none; None: nothing was said."""

    service: str | None = Agent.PAM_SERVICE.default


@dataclass(frozen=True, slots=True)
class MessagingConfig:
    """``[messaging]``. ``adapter``: preferred where a URL names none, None: nothing was said.

    ``reconnect_max`` and ``probe_interval`` are in seconds (no interval: no probes), ``max_message`` in bytes.
    ``proxy``: an HTTP proxy, None: brokers are reached directly.
    """

    adapter: str | None = Agent.ADAPTER.default
    reconnect_max: float = Agent.RECONNECT_MAX.default
    max_message: int = Agent.MAX_MESSAGE.default
    proxy: str | None = field(default=None, repr=False)
    probe_interval: float = Agent.PROBE_INTERVAL.default


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """The agent's settings, a part for each section. Frozen; without arguments, the defaults."""

    main: MainConfig = MainConfig()
    management: ManagementConfig = ManagementConfig()
    logging: LoggingConfig = LoggingConfig()
    pam: PamConfig = PamConfig()
    messaging: MessagingConfig = MessagingConfig()


def read_agent(root: Root) -> tuple[AgentConfig, list[Problem]]:
    """Read the agent's settings, and tell all that is wrong with them. Never raises for what a file holds.

    No file at all is no problem. Where a value is wrong, the one of an earlier file, or the default, stands.
    """
    later, problem = list_files(root.conf_d)
    problems = [] if problem is None else [problem]
    values = Values()
    # lexists: a dangling link is somebody's mistake, not an absent file.
    first = [root.agent_conf] if _is_there(root.agent_conf) else []
    for path in [*first, *later]:
        content, found = read_sections(path, AGENT)
        problems += found
        if content is not None:
            reader = Reader(AGENT, str(path), values)
            reader.read(content.sections)
            problems += reader.problems
    problems += [
        Problem(
            "warning", str(path), None, None, f"is not read; allowed: {root.agent_conf}, or a file in {root.conf_d}"
        )
        for path in map(root.agent_conf.with_suffix, (".json", ".ini", ".cfg", ".yaml", ".yml", ".toml"))
        if path.exists()
    ]
    problems += list_unread(root.conf_d)
    log_file = values[Agent.LOG_FILE]
    config = AgentConfig(
        MainConfig(values[Agent.SHUTDOWN_TIMEOUT]),
        ManagementConfig(
            values[Agent.MANAGEMENT_ENABLED],
            values[Agent.MANAGEMENT_HOST],
            values[Agent.MANAGEMENT_PORT],
        ),
        LoggingConfig(
            MappingProxyType(values.free(Agent.LEVELS)),
            None if log_file is None else root.log / log_file,
            values[Agent.LOG_FORMAT],
        ),
        PamConfig(values[Agent.PAM_SERVICE]),
        MessagingConfig(
            values[Agent.ADAPTER],
            values[Agent.RECONNECT_MAX],
            values[Agent.MAX_MESSAGE],
            values[Agent.PROXY],
            values[Agent.PROBE_INTERVAL],
        ),
    )
    return config, problems


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    except OSError:
        return True  # reading it tells why it cannot be read
    return True
