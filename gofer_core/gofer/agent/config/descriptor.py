"""Plugins' descriptors: ``/etc/gofer/plugins/*.conf`` and ``*.json``, one for each plugin."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from msgspec import Struct, field
from msgspec.structs import replace

from gofer.agent.config.agent import MessagingConfig
from gofer.agent.config.files import distrusted, list_files, list_misplaced, list_unread, read_text
from gofer.agent.config.keys import GUARD, Key, Reader, Schema, keys_of
from gofer.agent.config.kinds import (
    ADDRESS,
    BROKER,
    EXCHANGE,
    FLAG,
    NAME,
    Kind,
    Wrong,
    choice,
    dotted,
    line,
    names,
    odd_identity,
    seconds,
    whole,
)
from gofer.agent.config.problem import Problem, shown
from gofer.errors import ConfigError
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.rmi.server.access import Rule
from gofer.root import Root
from gofer.sections import Sections, Unreadable

__all__ = [
    "DESCRIPTOR", "Descriptor", "find_plugin_dirs", "read_descriptor", "read_descriptors", "read_url_file",
    "redescribe",
]  # fmt: skip

Names = tuple[str, ...]

_DEFAULTS = MessagingConfig()
_PLUGIN = dotted("the name of an installed plugin, or a dotted module")
_OTHER = Kind("a plugin's name", NAME.read)
_PLUGINS = names("plugin names with commas between", NAME)
_PLUGINS_OR_ALL = names("plugin names with commas between, or * for all", NAME, star=True)
_IDENTITIES = names("identities with commas between", line("an identity"))
_CALLERS = names(
    "identities, @groups and anonymous with commas between, or * for every identity", line("an identity"), star=True
)
_ADDRESSES = names("addresses with commas between", line("an address"))
_AUTHENTICATOR = line("the name of an installed authenticator, or the dotted path of a class")
_TIME = seconds(above_zero=True)
_OR_NEVER = seconds(never=True)
_FILE = line("the path of a file, absolute or relative to this file's directory")


class Descriptor(Struct, frozen=True, kw_only=True):
    """What a plugin's descriptor says. Frozen; equal when all it says is equal, so a reload knows what has changed.

    Durations are seconds, files absolute paths; None: not given (and no limit). ``entry``: what to load when
    ``plugin`` is None, the file's base name. ``queue``: its ``key`` is the queue's name, its ``exchange`` (``""``: the
    default one) what it is bound to; None: not given, and then ``exchange`` says what a queue named later is bound to.
    ``admin`` and ``access``: None: anyone. ``sections``: all sections as written, the user's own and the standard ones;
    not to be changed.
    """

    file: Path
    entry: str
    name: Annotated[str, "main", NAME, "The plugin's name; without it the file's base name."]
    plugin: Annotated[
        str | None,
        "main",
        _PLUGIN,
        "An installed plugin or a dotted module; without it, the plugin of the file's name.",
    ] = None
    enabled: Annotated[bool, "main", FLAG, "Whether the plugin is loaded."] = False
    threads: Annotated[int, "main", whole(1, 1000), "How many calls run at once."] = 1
    latency: Annotated[
        float, "main", seconds(), "How long a request waits, and can be cancelled, before a worker takes it."
    ] = 0.0
    timeout: Annotated[float | None, "main", _TIME, "How long a method may run."] = None
    max_age: Annotated[
        float | None,
        "main",
        _TIME,
        "How old a request without a `ttl` may be when it arrives. Older requests are rejected.",
    ] = None
    typed: Annotated[
        bool, "main", FLAG, "Whether arguments that do not fit the annotations of a method are refused."
    ] = True
    accept: Annotated[Names, "main", _PLUGINS_OR_ALL, "The plugins that may forward requests to this one."] = ()
    forward: Annotated[
        Names, "main", _PLUGINS_OR_ALL, "The plugins to which this one forwards requests that it cannot answer."
    ] = ()
    extends: Annotated[str | None, "main", _OTHER, "The plugin to whose API this one adds its remote methods."] = None
    admin: Annotated[
        Names | None, "main", _IDENTITIES, "The identities that may use Admin. Without it, every caller may.", GUARD
    ] = None
    trust: Annotated[
        Names, "main", _PLUGINS, "The plugins whose callers may reach this one's methods past its authenticator."
    ] = ()
    required: Annotated[
        bool, "main", FLAG, "Whether the agent takes no requests for any plugin while this one does not run.", GUARD
    ] = False
    url: Annotated[
        URL | None,
        "messaging",
        BROKER,
        "The broker's URL. Without it, the plugin does not connect, or sets the URL itself.",
    ] = None
    url_file: Annotated[
        Path | None, "messaging", _FILE, "A file with the broker's URL. It is read again before each connection."
    ] = None
    authenticator: Annotated[
        str | None, "messaging", _AUTHENTICATOR, "What signs and verifies this plugin's messages.", GUARD
    ] = None
    cacert: Annotated[
        Path | None, "messaging", _FILE, "The CA certificates that verify the broker's certificate (PEM)."
    ] = None
    clientcert: Annotated[
        Path | None, "messaging", _FILE, "The client certificate for the broker (PEM). It may hold the key, too."
    ] = None
    clientkey: Annotated[Path | None, "messaging", _FILE, "The key of the client certificate (PEM)."] = None
    host_validation: Annotated[
        bool, "messaging", FLAG, "Whether the broker's certificate must be for the URL's host."
    ] = True
    heartbeat: Annotated[
        float,
        "messaging",
        seconds(high=3600),
        "The time between heartbeats. 0: none. A broker that is silent for two heartbeats counts as dead.",
    ] = 10.0
    audience: Annotated[
        Names, "messaging", _ADDRESSES, "More addresses for which signed requests are accepted, beside the queue's own."
    ] = ()
    managed: Annotated[
        int,
        "model",
        whole(0, 2),
        "0: the queue must exist. 1: the agent declares and binds it. 2: it also deletes it when the plugin goes.",
    ] = 2
    queue: Annotated[
        Address | None,
        "model",
        ADDRESS,
        "The plugin's queue. With a URL and no queue, it is a uuid that is kept on disk.",
    ] = None
    exchange: str = ""
    expiration: Annotated[
        float | None, "model", _OR_NEVER, "The broker deletes the queue after this time without a reader. 0: never."
    ] = None
    exclusive: Annotated[bool, "model", FLAG, "Whether this agent must be the queue's only one."] = False
    prefetch: Annotated[int, "model", whole(1, 65535), "How many unacknowledged requests the broker delivers."] = 200
    kind: Annotated[str, "model", choice("classic", "quorum"), "The kind of queue that is declared."] = field(
        default="classic", name="type"
    )
    access: Annotated[
        tuple[Rule, ...] | None,
        "access",
        _CALLERS,
        "Who may call `Class.method`; each part may have `*` and `?`, and `*` alone is everything.",
        GUARD,
        re.compile(".*", re.DOTALL),
    ] = field(default=None, name="<Class.method>")
    sections: Sections

    def __hash__(self) -> int:
        return hash((self.file, self.name, self.url, self.queue))  # sections may hold lists

    def __repr__(self) -> str:
        return f"<Descriptor {self.name} of {self.file}>"  # its sections may hold passwords

    def forwards_to(self, other: Descriptor) -> bool:
        """Tell whether requests for this plugin may be forwarded to another one, as both must say."""
        wanted = other.name in self.forward or "*" in self.forward
        return wanted and (self.name in other.accept or "*" in other.accept)

    def differs_in_access_alone(self, other: Descriptor) -> bool:
        """Tell whether another descriptor of the plugin has other rules of access, and is the same in all else."""
        mine, theirs = ({**one.sections, "access": {}} for one in (self, other))
        same: bool = replace(self, access=None, sections=mine) == replace(other, access=None, sections=theirs)
        return same and self != other

    def same_authenticator(self, other: Descriptor) -> bool:
        """Tell whether both descriptors name the same authenticator, with the same settings."""
        name = self.authenticator
        if name is None or name != other.authenticator:
            return False
        # Relative paths in the settings are relative to the descriptor.
        beside = self.file.absolute().parent == other.file.absolute().parent
        return beside and self.sections.get(name) == other.sections.get(name)

    def connector(self, messaging: MessagingConfig = _DEFAULTS, url: URL | None = None) -> Connector:
        """Make the connector for this plugin's broker.

        Args:
            messaging: what the agent's settings say for all connections.
            url: stands in for the descriptor's: a plugin may set its own, and a ``url_file`` may have changed.

        Raises:
            ConfigError: there is no URL.
        """
        url = url or self.url
        if url is None:
            raise ConfigError(f"{self.file}: [messaging] url: is not given, and plugin {self.name!r} has set none")
        return Connector(
            url,
            None if self.cacert is None else str(self.cacert),
            None if self.clientcert is None else str(self.clientcert),
            None if self.clientkey is None else str(self.clientkey),
            host_validation=self.host_validation,
            heartbeat=self.heartbeat,
            adapter=messaging.adapter,
            reconnect_max=messaging.reconnect_max,
            max_message=messaging.max_message,
            proxy=messaging.proxy or "",  # an agent's own environment does not count
            # Another password, say, is taken up when the connection is made again; what a plugin has set stays.
            source=partial(read_url_file, self.url_file) if self.url_file is not None and url == self.url else None,
        )


_OLD_EXCHANGE = "The older way to name the exchange.", "[model] queue as <exchange>/<queue>"
DESCRIPTOR = Schema(
    sections={
        "main": "The plugin.",
        "messaging": "Its connection to a broker.",
        "model": "Its queue at the broker.",
        "access": "Who may call what. With this section, nobody may call what it does not allow.",
    },
    keys=(
        *keys_of(Descriptor),
        Key("messaging", "uuid", "", ADDRESS, "The older way to name the queue.", instead="[model] queue"),
        Key("messaging", "exchange", "", EXCHANGE, _OLD_EXCHANGE[0], instead=_OLD_EXCHANGE[1]),
        Key("model", "exchange", "", EXCHANGE, _OLD_EXCHANGE[0], instead=_OLD_EXCHANGE[1]),
    ),
    retired={
        ("messaging", "transport"): "the adapter is named in the url, like amqp+amqps://host",
        ("messaging", "threads"): "the number of workers is [main] threads",
    },
    open=True,
    required="main",
)


def read_descriptors(root: Root) -> tuple[list[Descriptor], list[Problem]]:
    """Read all descriptors, in the order of their files' names, and tell all that is wrong.

    Never raises for what is there. One with an error is left out and does not touch the others. Of two with one
    plugin's name the second is left out.
    """
    if not os.path.lexists(root.descriptors):
        text = "directory does not exist, so no plugin is described"
        return [], [Problem("warning", str(root.descriptors), None, None, text)]
    if problems := distrusted(root.descriptors):
        return [], problems
    paths, problems = list_files(root.descriptors)
    found: dict[str, Descriptor] = {}
    named: list[Path] = []  # what may be files that descriptors name: keys and certificates may lie beside these
    for path in paths:
        descriptor, wrong = _read(path, named)
        problems += wrong
        first = descriptor and found.setdefault(descriptor.name, descriptor)
        if descriptor is not None and first is not None and first is not descriptor:
            text = f"plugin {descriptor.name!r} is described by {first.file}, which is used; this one is not"
            problems.append(Problem("error", str(path), "main", "name", f"{text}; allowed: each name once"))
    odd = [*list_unread(root.descriptors, named), *list_misplaced(root.etc, root.descriptors)]
    return list(found.values()), problems + odd


def read_descriptor(root: Root, path: Path) -> tuple[Descriptor | None, list[Problem]]:
    """Read one descriptor, wherever it is. None when there is an error among the problems.

    Its directory must be as safe as the root's own one. A relative path is taken from the root's descriptors.
    """
    path = root.descriptors / path
    if problems := distrusted(path.parent):
        return None, problems
    if path.suffix not in (".conf", ".json"):
        text = "is not named as a descriptor; allowed: a name that ends in .conf or .json"
        return None, [Problem("error", str(path), None, None, text)]
    return _read(path, [])


def redescribe(path: Path, sections: Sections) -> tuple[Descriptor, list[Problem]]:
    """Read sections as if they stood in the descriptor's file: a plugin's code has changed them.

    Raises:
        ConfigError: they cannot be used; one line for each reason.
    """
    messaging = sections.get("messaging", {})
    if messaging.get("url"):
        messaging.pop("url_file", None)  # what the code says stands over what is in a file
    reader = Reader(DESCRIPTOR, path)
    reader.read(sections)
    descriptor = _describe(reader, sections)
    if descriptor is None:
        raise ConfigError("\n".join(str(one) for one in reader.problems if one.severity == "error"))
    return descriptor, reader.problems


def read_url_file(path: Path) -> URL:
    """Read the URL that a ``url_file`` holds: one line. Read it again before each connection: it may have changed.

    Raises:
        ConfigError: it cannot be read, others may write to it, or it holds no URL. The text names the file and shows no
            password.
    """
    try:
        url: URL = BROKER.read(read_text(path, trusted=True))
    except Unreadable as error:
        raise ConfigError(f"{path}: {error}") from None
    except Wrong as error:
        raise ConfigError(f"{path}: {error}; allowed: {BROKER.allowed}") from None
    return url


def find_plugin_dirs(root: Root) -> tuple[list[Path], list[Problem]]:
    """Return those of the root's plugin directories that exist and are safe to load code from, in search order."""
    there = [directory for directory in root.plugin_dirs if os.path.lexists(directory)]
    wrong = {directory: distrusted(directory) for directory in there}
    return [one for one in there if not wrong[one]], [problem for one in there for problem in wrong[one]]


def _read(path: Path, named: list[Path]) -> tuple[Descriptor | None, list[Problem]]:
    """Read a descriptor, and add what files it may name to ``named``."""
    reader = Reader(DESCRIPTOR, path)
    content = reader.read_file(trusted=True)
    if content is None:
        return None, reader.problems
    values = (value for keys in content.sections.values() for value in keys.values())
    texts = (value for value in values if isinstance(value, str) and 0 < len(value) < 4096 and "\0" not in value)
    named += [path.absolute().parent / text for text in texts]
    authenticator = reader.values.get(("messaging", "authenticator"))
    if isinstance(authenticator, str) and authenticator in content.incomplete:  # its settings say who is believed
        text = "some of it is not used, and these are the settings of the authenticator; correct that first"
        reader.error(authenticator, None, text)
    return _describe(reader, content.sections), reader.problems


def _describe(reader: Reader, sections: Sections) -> Descriptor | None:
    """Make the descriptor of what was read; None: there is an error."""
    path, values = reader.path, reader.fields()
    if "name" not in values:
        try:
            values["name"] = NAME.read(path.stem)
        except Wrong as wrong:
            text = f"is not given, and the file's base name will not do: {wrong}; allowed: {NAME.allowed}"
            reader.error("main", "name", text)
    for key in ("url_file", "cacert", "clientcert", "clientkey"):
        if key in values:
            values[key] = path.absolute().parent / values[key]
    if "url_file" in values:
        if "url" in values:
            reader.error("messaging", "url_file", "is given beside url; allowed: one of them")
        else:
            try:
                values["url"] = read_url_file(values["url_file"])
            except ConfigError as error:
                reader.error("messaging", "url_file", str(error))
    if "access" in sections:
        values["access"] = tuple(_rules(reader))
    _warn_of_odd(reader, "main", "admin", values.get("admin") or ())
    _place_queue(reader, values)
    _check_tls(reader, values)
    return None if reader.failed else Descriptor(file=path, entry=path.stem, sections=sections, **values)


def _rules(reader: Reader) -> Iterator[Rule]:
    for (section, called), who in reader.values.items():
        if section != "access" or not isinstance(who, tuple):
            continue
        if not Rule.is_valid(called):
            text = "is no method; allowed: Class.method or module.function, with * and ? in each part, or * for all"
            reader.error(section, called, text)
        else:
            _warn_of_odd(reader, section, called, who, groups=True)
            yield Rule(called, who, str(reader.path), reader.lines.get((section, called)))


def _warn_of_odd(reader: Reader, section: str, key: str, who: Iterable[str], *, groups: bool = False) -> None:
    if not any((problem.section, problem.key) == (section, key) for problem in reader.problems):  # quotes, say
        for text in [text for one in who if (text := odd_identity(one, groups=groups))]:
            reader.warn(section, key, text)


def _place_queue(reader: Reader, values: dict[str, Any]) -> None:
    """Find the queue and its exchange among the keys that old and new descriptors name them by."""
    place, queue = ("model", "queue"), values.get("queue")
    older: Any = reader.values.get(("messaging", "uuid"))
    if older is not None and queue is not None:
        reader.warn("messaging", "uuid", "is not used, because [model] queue is given")
    elif older is not None:
        place, queue = ("messaging", "uuid"), older
    if queue is not None and any(c.isspace() for c in f"{queue.exchange}{queue.key}"):
        text = f"{shown(str(queue))} has a space in it, which callers must write, too; remove it if that is not meant"
        reader.warn(*place, text)
    exchange: Any = "" if queue is None else queue.exchange
    for section in ("model", "messaging"):
        older = reader.values.get((section, "exchange"))
        if older is not None and exchange and older != exchange:
            reader.warn(section, "exchange", f"is not used, because the exchange is {shown(exchange)} already")
        exchange = exchange or older or ""
    values["exchange"], values["queue"] = exchange, queue and Address(exchange, queue.key)


def _check_tls(reader: Reader, values: dict[str, Any]) -> None:
    for key in ("cacert", "clientcert", "clientkey"):
        if key in values and not os.path.exists(values[key]):  # unlike Path.exists it never raises
            # Not an error: certificates may be put in place later, and are read at each connection.
            text = f"no file {shown(str(values[key]))} yet; connecting will fail until it is there"
            reader.warn("messaging", key, text)
    if "clientkey" in values and "clientcert" not in values:
        reader.error("messaging", "clientkey", "is given without clientcert; allowed: both, or clientcert alone")
    url = values.get("url")
    for key in ("cacert", "clientcert"):
        if key in values and url is not None and not url.tls:
            reader.warn("messaging", key, f"is not used: {url.protocol} has no TLS; allowed: with amqps or ssl")
