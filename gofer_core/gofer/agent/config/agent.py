"""The agent's own settings: ``agent.conf``, then ``conf.d/*`` in the order of their names.

Later files win, key by key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from msgspec import Struct, field
from msgspec.structs import fields

from gofer.agent.config import kinds
from gofer.agent.config.files import list_files, list_unread
from gofer.agent.config.keys import GUARD, Reader, Schema, keys_of
from gofer.agent.config.problem import Problem, shown
from gofer.ownership import distrust
from gofer.root import Root

__all__ = [
    "AGENT", "AgentConfig", "FleetConfig", "LoggingConfig", "MainConfig", "ManagementConfig", "MessagingConfig",
    "PamConfig", "read_agent",
]  # fmt: skip

_LOG_FILE = kinds.line("the path of a file, absolute or relative to /var/log/gofer")
_MEMBERS = kinds.names("identities with commas between", kinds.line("an identity"))
_LOGGER = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_GROUP = re.compile(r"[A-Za-z0-9_.-]+")


class MainConfig(Struct, frozen=True):
    """``[main]``. Times are in seconds."""

    shutdown_timeout: Annotated[
        float, "main", kinds.seconds(), "How long running calls may continue when the agent stops."
    ] = 30.0


class ManagementConfig(Struct, frozen=True):
    """``[management]``: whether and where ``gofer agent`` reaches the agent by TCP."""

    enabled: Annotated[
        bool, "management", kinds.FLAG, "Whether management also listens on TCP, beside its Unix socket."
    ] = False
    host: Annotated[str, "management", kinds.OWN_HOST, "Where management listens; other machines cannot reach it."] = (
        "localhost"
    )
    port: Annotated[int, "management", kinds.whole(1, 65535), "The port that management listens on."] = 5650


class LoggingConfig(Struct, frozen=True):
    """``[logging]``. ``levels`` maps loggers' names (``root``: the root logger) to the numbers of ``logging``.

    ``file``: where to log, None: standard error. Its name in files, and that of the format, have a hyphen, which no
    name of a Python package can have: they never stand for a logger.
    """

    file: Annotated[
        Path | None, "logging", _LOG_FILE, "A log file instead of standard error; relative paths: in /var/log/gofer."
    ] = field(default=None, name="log-file")
    format: Annotated[str, "logging", kinds.choice("text", "json"), "Whether log lines are text or JSON."] = field(
        default="text", name="log-format"
    )
    levels: Annotated[
        Mapping[str, int], "logging", kinds.LEVEL, "A package's level, by its name; `root` is the root logger.", _LOGGER
    ] = field(default=MappingProxyType({}), name="<package>")


class PamConfig(Struct, frozen=True):
    """``[pam]``. ``service``: None: nothing was said."""

    service: Annotated[
        str | None, "pam", kinds.NAME, "The PAM service that checks passwords, unless the method names another."
    ] = None


class MessagingConfig(Struct, frozen=True):
    """``[messaging]``. Times are in seconds (no interval: no probes), sizes in bytes.

    ``adapter``: None: nothing was said. ``proxy``: None: brokers are reached directly.
    """

    adapter: Annotated[str | None, "messaging", kinds.NAME, "The preferred adapter for URLs that name none."] = None
    reconnect_max: Annotated[
        float, "messaging", kinds.seconds(above_zero=True, high=86400), "The longest pause between attempts to connect."
    ] = 30.0
    max_message: Annotated[
        int, "messaging", kinds.size(1 << 10, 128 << 20), "The largest message that is sent or accepted."
    ] = 16 << 20
    proxy: Annotated[
        str | None,
        "messaging",
        kinds.PROXY,
        "The HTTP proxy for connections to brokers: `http://[user:password@]host:port`.",
    ] = None
    probe_interval: Annotated[
        float,
        "messaging",
        kinds.seconds(high=86400),
        "How often the agent sends itself a message as a check. 0: never.",
    ] = 60.0

    def __repr__(self) -> str:
        return f"<MessagingConfig: {', '.join(self.__struct_fields__)}>"  # the proxy's URL may hold a password


class FleetConfig(Struct, frozen=True):
    """``[fleet]``: whether callers find this machine without knowing its address. Times are in seconds.

    ``name``: None: the host name. ``plugin``: None: the first that has a broker.
    """

    enabled: Annotated[
        bool, "fleet", kinds.FLAG, "Whether this machine answers when a fleet is asked who is there."
    ] = False
    name: Annotated[
        str | None, "fleet", kinds.NAME, "What this machine is called in listings; the default is its host name."
    ] = None
    groups: Annotated[tuple[str, ...], "fleet", kinds.GROUPS, "The groups that it belongs to."] = ()
    plugin: Annotated[
        str | None,
        "fleet",
        kinds.NAME,
        "The plugin whose broker, certificates, authenticator and address are the machine's in the fleet; the default "
        "is the first, by name, that has a broker.",
    ] = None
    interval: Annotated[
        float,
        "fleet",
        kinds.seconds(above_zero=True, high=86400),
        "How often the machine's facts are looked at, and the binding of its queue for questions is renewed.",
    ] = 300.0


class AgentConfig(Struct, frozen=True):
    """The agent's settings, a part for each section. Frozen; without arguments, the defaults."""

    main: MainConfig = MainConfig()
    management: ManagementConfig = ManagementConfig()
    logging: LoggingConfig = LoggingConfig()
    pam: PamConfig = PamConfig()
    messaging: MessagingConfig = MessagingConfig()
    fleet: FleetConfig = FleetConfig()
    groups: Annotated[
        Mapping[str, frozenset[str]],
        "groups",
        _MEMBERS,
        "The identities in a group; `[access]` of descriptors names it with an @: `@operators`.",
        GUARD,
        _GROUP,
    ] = field(default=MappingProxyType({}), name="<group>")


AGENT = Schema(
    sections={
        "main": "The agent as a whole.",
        "management": "How `gofer agent` reaches the agent.",
        "logging": "What is logged, and where to.",
        "pam": "How passwords are checked.",
        "messaging": "What all connections to brokers share.",
        "fleet": "Whether this machine can be found by those who call many.",
        "groups": "Groups of callers.",
    },
    keys=tuple(
        keys_of(MainConfig, ManagementConfig, LoggingConfig, PamConfig, MessagingConfig, FleetConfig, AgentConfig)
    ),
    retired={
        ("main", "monitor"): "descriptors are not watched for changes; send SIGHUP or use `gofer agent reload`",
        ("pmon", None): "descriptors are not watched for changes; send SIGHUP or use `gofer agent reload`",
        ("loader", None): "plugins are always loaded at start",
        ("heartbeat", None): "heartbeats are set by [messaging] heartbeat in a plugin's descriptor",
        ("messaging", "url"): "brokers are named in the plugins' descriptors",
        ("messaging", "uuid"): "queues are named in the plugins' descriptors",
    },
)


def read_agent(root: Root) -> tuple[AgentConfig, list[Problem]]:
    """Read the agent's settings, and tell all that is wrong with them. Never raises for what a file holds.

    No file at all is no problem. Where a value is wrong, the one of an earlier file, or the default, stands.
    """
    later, problems = list_files(root.conf_d)
    values: dict[tuple[str, str], object] = {}
    for path in later if _is_absent(root.agent_conf) else [root.agent_conf, *later]:
        reader = Reader(AGENT, path)
        content = reader.read_file()
        if content is not None and "groups" in content.sections:
            _check_groups(reader)
        values |= reader.values
        problems += reader.problems
    for path in map(root.agent_conf.with_suffix, (".json", ".ini", ".cfg", ".yaml", ".yml", ".toml")):
        if path.exists():
            text = f"is not read; allowed: {root.agent_conf}, or a file in {root.conf_d}"
            problems.append(Problem("warning", str(path), None, None, text))
    problems += list_unread(root.conf_d)
    parts: dict[str, dict[str, Any]] = {section: {} for section in AGENT.sections}
    levels: dict[str, int] = {}
    groups: dict[str, frozenset[str]] = {}
    for (section, name), value in values.items():
        key = AGENT.find(section, name)
        if key is not None and key.pattern is None:
            parts[section][key.field] = value
        elif isinstance(value, int):
            levels[name] = value
        elif isinstance(value, tuple):
            groups[name] = frozenset(value)
    file = parts["logging"].get("file")
    parts["logging"] |= {"levels": MappingProxyType(levels), "file": None if file is None else root.log / file}
    types = {one.name: one.type for one in fields(AgentConfig)}
    del parts["groups"]
    made = {section: types[section](**given) for section, given in parts.items()}
    return AgentConfig(**made, groups=MappingProxyType(groups)), problems


def _check_groups(reader: Reader) -> None:
    """Refuse groups that somebody else could have written, or with members that are no identities."""
    for path in (reader.path, reader.path.absolute().parent):
        if reason := distrust(path):
            reader.error("groups", None, f"is not used: {path} {reason}")
            reader.values = {place: value for place, value in reader.values.items() if place[0] != "groups"}
    for (section, name), members in list(reader.values.items()):
        if section != "groups" or not isinstance(members, tuple):
            continue
        if wrong := [one for one in members if one[0] == "@" or one == "anonymous"]:
            reader.error(section, name, f"{shown(wrong[0])} is no identity; allowed: identities with commas between")
            del reader.values[section, name]
            continue
        for text in filter(None, map(kinds.odd_identity, members)):
            reader.warn(section, name, text)


def _is_absent(path: Path) -> bool:
    """Tell whether there is nothing. A link that leads nowhere, or a closed directory, is somebody's mistake."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # reading it tells why it cannot be read
    return False
