"""The table of the agent's own settings: ``agent.conf`` and ``conf.d/*``."""

from __future__ import annotations

from gofer.agent.config import values as v
from gofer.agent.config.places import OwnHost
from gofer.agent.config.schema import FreeKeys, Key, Schema

__all__ = ["AGENT", "Agent"]


class Agent:
    """The keys of ``agent.conf`` and ``conf.d/*``."""

    SHUTDOWN_TIMEOUT = Key(
        "main",
        "shutdown_timeout",
        v.Seconds(),
        30.0,
        "How long running calls may go on when the agent is told to stop.",
    )
    MANAGEMENT_ENABLED = Key(
        "management", "enabled", v.Flag(), False, "Whether management listens by TCP, too, beside its Unix socket."
    )
    MANAGEMENT_HOST = Key(
        "management", "host", OwnHost(), "localhost", "Where management listens; other machines cannot reach it."
    )
    MANAGEMENT_PORT = Key("management", "port", v.Whole(1, 65535), 5650, "The port that management listens on.")
    # These two have a hyphen, which no name of a Python package can have: they never stand for a logger.
    LOG_FILE: Key[str | None] = Key(
        "logging",
        "log-file",
        v.Line("the path of a file, absolute or relative to /var/log/gofer"),
        None,
        "A file to log to instead of standard error; a relative path is below /var/log/gofer.",
    )
    LOG_FORMAT = Key("logging", "log-format", v.Choice(("text", "json")), "text", "Whether log lines are text or JSON.")
    LEVELS = FreeKeys(
        "logging",
        "<package>",
        r"[^\W\d]\w*(\.[^\W\d]\w*)*",
        v.Level(),
        "The level of a package's logger, by the package's name; `root` is the root logger.",
    )
    PAM_SERVICE: Key[str | None] = Key(
        "pam", "service", v.Name(), None, "The PAM service that checks passwords where a method names none."
    )
    ADAPTER: Key[str | None] = Key(
        "messaging", "adapter", v.Name(), None, "The adapter for URLs that name none, before any other installed one."
    )
    RECONNECT_MAX = Key(
        "messaging",
        "reconnect_max",
        v.Seconds(above_zero=True, high=86400),
        30.0,
        "The longest pause between two attempts to connect to a broker.",
    )
    PROBE_INTERVAL = Key(
        "messaging",
        "probe_interval",
        v.Seconds(high=86400),
        60.0,
        "How often the agent checks that messages reach it: it sends one to itself. 0 turns this off.",
    )
    MAX_MESSAGE = Key(
        "messaging",
        "max_message",
        v.Size(1 << 10, 128 << 20),
        16 << 20,
        "The largest message that is sent or taken.",
    )
    PROXY: Key[str | None] = Key(
        "messaging",
        "proxy",
        v.Proxy(),
        None,
        "An HTTP proxy to brokers: `http://[user:password@]host:port`.",
    )


AGENT = Schema(
    sections={
        "main": "The agent as a whole.",
        "management": "How `gofer mgt` reaches the agent.",
        "logging": "What is logged, and where to.",
        "pam": "How passwords are checked.",
        "messaging": "What all connections to brokers share.",
    },
    keys=(
        Agent.SHUTDOWN_TIMEOUT,
        Agent.MANAGEMENT_ENABLED,
        Agent.MANAGEMENT_HOST,
        Agent.MANAGEMENT_PORT,
        Agent.LOG_FILE,
        Agent.LOG_FORMAT,
        Agent.PAM_SERVICE,
        Agent.ADAPTER,
        Agent.RECONNECT_MAX,
        Agent.PROBE_INTERVAL,
        Agent.MAX_MESSAGE,
        Agent.PROXY,
    ),
    free=(Agent.LEVELS,),
    retired={
        ("main", "monitor"): "descriptors are not watched for changes; send SIGHUP or use `gofer mgt -r`",
        ("pmon", None): "descriptors are not watched for changes; send SIGHUP or use `gofer mgt -r`",
        ("loader", None): "plugins are always loaded at start",
        ("heartbeat", None): "heartbeats are set by [messaging] heartbeat in a plugin's descriptor",
        ("messaging", "url"): "brokers are named in the plugins' descriptors",
        ("messaging", "uuid"): "queues are named in the plugins' descriptors",
    },
)
