"""The tables of all sections and keys: what is read, what it defaults to, and what it means.

Reading, the hints about unknown keys, and the configuration reference are all made from these tables; there is no other
place where a key is named. The documentation of a key is one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gofer.agent.config import values as v
from gofer.agent.config.places import AddressText, BrokerURL, ExchangeName, OwnHost
from gofer.messaging.address import Address
from gofer.messaging.url import URL

__all__ = ["AGENT", "DESCRIPTOR", "Agent", "FreeKeys", "Key", "Messaging", "Main", "Model", "Schema"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Key(Generic[T_co]):
    """One key. ``default`` is what stands for an absent or blank one.

    ``blank``: whether it may be given without a value, as an old template does; where that could hide a slip that opens
    a door, it is an error. ``instead``: the key that replaces this old one; using it is a warning.
    """

    section: str
    name: str
    type: v.Type[T_co]
    default: T_co
    doc: str
    blank: bool = True
    instead: str | None = None


@dataclass(frozen=True, slots=True)
class FreeKeys(Generic[T_co]):
    """Keys of a section that are not known beforehand: a pattern for their names, and one type for all."""

    section: str
    name: str
    pattern: str
    type: v.Type[T_co]
    doc: str


@dataclass(frozen=True, slots=True)
class Schema:
    """Everything that one kind of file may hold.

    ``sections`` maps each section to its sentence. ``retired`` maps (section, key), or (section, None), to the sentence
    that says what became of it. ``open``: other sections belong to the user and are kept. ``required``: these must be
    there.
    """

    sections: Mapping[str, str]
    keys: tuple[Key[object], ...]
    free: tuple[FreeKeys[object], ...] = ()
    retired: Mapping[tuple[str, str | None], str] = field(default_factory=dict)
    open: bool = False
    required: tuple[str, ...] = ()

    def find(self, section: str, name: str) -> Key[object] | None:
        """Return the key of that name, or None."""
        return next((key for key in self.keys if (key.section, key.name) == (section, name)), None)

    def names(self, section: str) -> list[str]:
        """Return the names of a section's keys, in the table's order, old ones left out."""
        return [key.name for key in self.keys if key.section == section and key.instead is None]


_FILE = v.Line("the path of a file, absolute or relative to this file's directory")


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
    MAX_MESSAGE = Key(
        "messaging",
        "max_message",
        v.Size(1 << 10, 128 << 20),
        16 << 20,
        "The largest message that is sent or taken.",
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
        Agent.MAX_MESSAGE,
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


class Main:
    """The keys of a descriptor's ``[main]``."""

    NAME: Key[str | None] = Key("main", "name", v.Name(), None, "The plugin's name; without it the file's base name.")
    PLUGIN: Key[str | None] = Key(
        "main",
        "plugin",
        v.Dotted("the name of an installed plugin, or a dotted module"),
        None,
        "An installed plugin's name or a dotted module; without it the installed plugin of the file's base name.",
    )
    ENABLED = Key("main", "enabled", v.Flag(), False, "Whether the plugin is loaded.")
    THREADS = Key("main", "threads", v.Whole(1, 1000), 1, "How many calls run at once.")
    LATENCY = Key(
        "main", "latency", v.Seconds(), 0.0, "How long a request waits, and can be cancelled, before it runs."
    )
    TIMEOUT: Key[float | None] = Key(
        "main", "timeout", v.Seconds(above_zero=True), None, "The longest that a method may run."
    )
    ACCEPT: Key[tuple[str, ...]] = Key(
        "main",
        "accept",
        v.Names("plugin names with commas between, or * for all", v.Name(), star=True),
        (),
        "The plugins whose requests this one answers when they cannot.",
    )
    FORWARD: Key[tuple[str, ...]] = Key(
        "main",
        "forward",
        v.Names("plugin names with commas between, or * for all", v.Name(), star=True),
        (),
        "The plugins that are asked for what this one cannot answer.",
    )
    EXTENDS: Key[str | None] = Key(
        "main", "extends", v.Name("a plugin's name"), None, "The plugin that is given this one's remote methods."
    )
    ADMIN: Key[tuple[str, ...] | None] = Key(
        "main",
        "admin",
        v.Names("identities with commas between", v.Line("an identity")),
        None,
        "The identities that may use Admin; without it anyone who reaches the queue may.",
        blank=False,
    )


class Messaging:
    """The keys of a descriptor's ``[messaging]``."""

    URL: Key[URL | None] = Key(
        "messaging", "url", BrokerURL(), None, "The broker; without one the plugin connects to none, or sets its own."
    )
    URL_FILE: Key[str | None] = Key(
        "messaging", "url_file", _FILE, None, "A file that holds the broker's URL, read again at each connection."
    )
    AUTHENTICATOR: Key[str | None] = Key(
        "messaging",
        "authenticator",
        v.Line("the name of an installed authenticator, or the dotted path of a class"),
        None,
        "What signs and verifies this plugin's messages.",
        blank=False,
    )
    CACERT: Key[str | None] = Key(
        "messaging", "cacert", _FILE, None, "The CA certificates that the broker's is checked against (PEM)."
    )
    CLIENTCERT: Key[str | None] = Key(
        "messaging", "clientcert", _FILE, None, "The certificate shown to the broker (PEM); it may hold the key too."
    )
    CLIENTKEY: Key[str | None] = Key("messaging", "clientkey", _FILE, None, "The key of the client certificate (PEM).")
    HOST_VALIDATION = Key(
        "messaging", "host_validation", v.Flag(), True, "Whether the broker's certificate must be for the URL's host."
    )
    HEARTBEAT = Key(
        "messaging",
        "heartbeat",
        v.Seconds(high=3600),
        10.0,
        "The seconds between heartbeats; a broker silent for two of them counts as dead; 0 turns them off.",
    )
    AUDIENCE: Key[tuple[str, ...]] = Key(
        "messaging",
        "audience",
        v.Names("addresses with commas between", v.Line("an address")),
        (),
        "More addresses for which signed requests are taken, beside the queue's own.",
    )
    UUID: Key[str | None] = Key(
        "messaging", "uuid", v.Line("a queue's name"), None, "The older way to name the queue.", instead="[model] queue"
    )
    EXCHANGE: Key[str | None] = Key(
        "messaging",
        "exchange",
        ExchangeName(),
        None,
        "The older way to name the exchange.",
        instead="[model] queue as <exchange>/<queue>",
    )


class Model:
    """The keys of a descriptor's ``[model]``."""

    MANAGED = Key(
        "model",
        "managed",
        v.Whole(0, 2),
        2,
        "0: the queue must exist; 1: it is declared and bound; 2: and drained and deleted when the plugin is unloaded.",
    )
    QUEUE: Key[Address | None] = Key(
        "model",
        "queue",
        AddressText(),
        None,
        "The plugin's queue; with a URL and no queue it is a uuid kept on disk.",
    )
    EXPIRATION: Key[float | None] = Key(
        "model",
        "expiration",
        v.Seconds(above_zero=True),
        None,
        "How long the queue is kept when nobody uses it; without it, for ever.",
    )
    EXCLUSIVE = Key("model", "exclusive", v.Flag(), False, "Whether this agent must be the queue's only one.")
    PREFETCH = Key("model", "prefetch", v.Whole(1, 65535), 200, "How many requests the broker hands over unanswered.")
    TYPE = Key("model", "type", v.Choice(("classic", "quorum")), "classic", "The kind of queue that is declared.")
    EXCHANGE: Key[str | None] = Key(
        "model",
        "exchange",
        ExchangeName(),
        None,
        "The older way to name the exchange.",
        instead="[model] queue as <exchange>/<queue>",
    )


DESCRIPTOR = Schema(
    sections={
        "main": "The plugin.",
        "messaging": "Its connection to a broker.",
        "model": "Its queue at the broker.",
    },
    keys=(
        Main.NAME,
        Main.PLUGIN,
        Main.ENABLED,
        Main.THREADS,
        Main.LATENCY,
        Main.TIMEOUT,
        Main.ACCEPT,
        Main.FORWARD,
        Main.EXTENDS,
        Main.ADMIN,
        Messaging.URL,
        Messaging.URL_FILE,
        Messaging.AUTHENTICATOR,
        Messaging.CACERT,
        Messaging.CLIENTCERT,
        Messaging.CLIENTKEY,
        Messaging.HOST_VALIDATION,
        Messaging.HEARTBEAT,
        Messaging.AUDIENCE,
        Messaging.UUID,
        Messaging.EXCHANGE,
        Model.MANAGED,
        Model.QUEUE,
        Model.EXPIRATION,
        Model.EXCLUSIVE,
        Model.PREFETCH,
        Model.TYPE,
        Model.EXCHANGE,
    ),
    retired={
        ("messaging", "transport"): "the adapter is named in the url, like amqp+amqps://host",
        ("messaging", "threads"): "the number of workers is [main] threads",
    },
    open=True,
    required=("main",),
)
