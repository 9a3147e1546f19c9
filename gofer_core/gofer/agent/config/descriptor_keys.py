"""The table of descriptors: one file for each plugin."""

from __future__ import annotations

from gofer.agent.config import values as v
from gofer.agent.config.places import AddressText, BrokerURL, ExchangeName
from gofer.agent.config.schema import Key, Schema
from gofer.messaging.address import Address
from gofer.messaging.url import URL

__all__ = ["DESCRIPTOR", "Main", "Messaging", "Model"]

_FILE = v.Line("the path of a file, absolute or relative to this file's directory")


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
    MAX_AGE: Key[float | None] = Key(
        "main",
        "max_age",
        v.Seconds(above_zero=True),
        None,
        "How old a request without a `ttl` may be when it comes; an older one is rejected, not run.",
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
    TRUST: Key[tuple[str, ...]] = Key(
        "main",
        "trust",
        v.Names("plugin names with commas between", v.Name()),
        (),
        "The plugins whose callers may reach this one's methods with another authenticator, or with none.",
    )
    REQUIRED = Key(
        "main",
        "required",
        v.Flag(),
        False,
        "Whether the agent takes no requests for any plugin while this one does not run.",
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
        "0: the queue must exist; 1: it is declared and bound; 2: and drained and deleted when its plugin leaves it.",
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
        v.SecondsOrNever(),
        None,
        "After how long without a reader the broker deletes the queue and what waits in it; without it, or 0, never.",
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
        Main.MAX_AGE,
        Main.ACCEPT,
        Main.FORWARD,
        Main.EXTENDS,
        Main.ADMIN,
        Main.TRUST,
        Main.REQUIRED,
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
