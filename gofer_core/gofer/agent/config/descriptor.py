"""Plugins' descriptors: ``/etc/gofer/plugins/*.conf`` and ``*.json``, one for each plugin."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from gofer.agent.config.agent import MessagingConfig
from gofer.agent.config.descriptor_keys import DESCRIPTOR, Main, Messaging, Model
from gofer.agent.config.files import distrust, list_files, list_unread, read_sections, read_text
from gofer.agent.config.ini import Sections, Unreadable
from gofer.agent.config.places import AddressText, BrokerURL
from gofer.agent.config.problem import Problem, shown
from gofer.agent.config.reading import Reader, Values
from gofer.agent.config.schema import Key
from gofer.agent.config.settings import Settings
from gofer.agent.config.values import Name, Wrong
from gofer.errors import ConfigError
from gofer.messaging.address import Address
from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.root import Root

__all__ = ["Descriptor", "find_plugin_dirs", "read_descriptor", "read_descriptors", "read_url_file", "redescribe"]

_DEFAULTS = MessagingConfig()


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What a plugin's descriptor says. Frozen; equal when all it says is equal, so a reload knows what has changed.

    Durations are seconds, files absolute paths; None: not given (and no limit). ``entry``: what to load when
    ``plugin`` is None, the file's base name. ``queue``: its ``key`` is the queue's name, its ``exchange`` (``""``: the
    default one) what it is bound to; None: not given, and then ``exchange`` says what a queue named later is bound to.
    ``admin``: None: anyone. ``sections``: all sections as written, the user's own and the standard ones.
    """

    file: Path
    name: str
    entry: str
    plugin: str | None
    enabled: bool
    threads: int
    latency: float
    timeout: float | None
    max_age: float | None
    accept: tuple[str, ...]
    forward: tuple[str, ...]
    extends: str | None
    admin: tuple[str, ...] | None
    trust: tuple[str, ...]
    required: bool
    url: URL | None
    url_file: Path | None
    authenticator: str | None
    cacert: Path | None
    clientcert: Path | None
    clientkey: Path | None
    host_validation: bool
    heartbeat: float
    audience: tuple[str, ...]
    managed: int
    queue: Address | None
    exchange: str
    expiration: float | None
    exclusive: bool
    prefetch: int
    kind: str
    sections: Settings = field(repr=False, hash=False)

    def forwards_to(self, other: Descriptor) -> bool:
        """Tell whether requests for this plugin may be forwarded to another one, as both must say."""
        wanted = other.name in self.forward or "*" in self.forward
        return wanted and (self.name in other.accept or "*" in other.accept)

    def same_authenticator(self, other: Descriptor) -> bool:
        """Tell whether both descriptors name the same authenticator, with the same settings."""
        name = self.authenticator
        if name is None or name != other.authenticator:
            return False
        if (name in self.sections) != (name in other.sections):
            return False
        # Relative paths in the settings are relative to the descriptor.
        alike = name not in self.sections or self.sections[name] == other.sections[name]
        return alike and self.file.absolute().parent == other.file.absolute().parent

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
            self.host_validation,
            self.heartbeat,
            messaging.adapter,
            messaging.reconnect_max,
            messaging.max_message,
            messaging.proxy or "",  # an agent's own environment does not count
            # Another password, say, is taken up when the connection is made again; what a plugin has set stays.
            partial(read_url_file, self.url_file) if self.url_file is not None and url == self.url else None,
        )


def read_descriptors(root: Root) -> tuple[list[Descriptor], list[Problem]]:
    """Read all descriptors, in the order of their files' names, and tell all that is wrong.

    Never raises for what is there. One with an error is left out and does not touch the others. Of two with one
    plugin's name the second is left out.
    """
    if not os.path.lexists(root.descriptors):
        text = "directory does not exist, so no plugin is described"
        return [], [Problem("warning", str(root.descriptors), None, None, text)]
    problem = _distrusted(root.descriptors)
    if problem is not None:
        return [], [problem]
    paths, problem = list_files(root.descriptors)
    problems = [] if problem is None else [problem]
    found: dict[str, Descriptor] = {}
    named: list[Path] = []
    for path in paths:
        descriptor, wrong = _read(path, named)
        problems += wrong
        if descriptor is None:
            continue
        first = found.setdefault(descriptor.name, descriptor)
        if first is not descriptor:
            text = f"plugin {descriptor.name!r} is described by {first.file}, which is used; this one is not"
            problems.append(Problem("error", str(path), "main", "name", f"{text}; allowed: each name once"))
    return list(found.values()), problems + list_unread(root.descriptors, named)


def _named_files(path: Path, sections: Sections) -> Iterator[Path]:
    """Iterate over what may be files that a descriptor names: keys and certificates may lie beside it."""
    for keys in sections.values():
        for value in keys.values():
            if isinstance(value, str) and 0 < len(value) < 4096 and "\0" not in value:
                yield path.absolute().parent / value


def read_descriptor(root: Root, path: Path) -> tuple[Descriptor | None, list[Problem]]:
    """Read one descriptor, wherever it is. None when there is an error among the problems.

    Its directory must be as safe as the root's own one. A relative path is taken from the root's descriptors.
    """
    path = root.descriptors / path
    problem = _distrusted(path.parent)
    if problem is not None:
        return None, [problem]
    if path.suffix not in (".conf", ".json"):
        text = "is not named as a descriptor; allowed: a name that ends in .conf or .json"
        return None, [Problem("error", str(path), None, None, text)]
    return _read(path)


def read_url_file(path: Path) -> URL:
    """Read the URL that a ``url_file`` holds: one line. Read it again before each connection: it may have changed.

    Raises:
        ConfigError: it cannot be read, others may write to it, or it holds no URL. The text names the file and shows no
            password.
    """
    try:
        return BrokerURL().read(read_text(path, trusted=True))
    except Unreadable as error:
        raise ConfigError(f"{path}: {error}") from None
    except Wrong as error:
        raise ConfigError(f"{path}: {error}; allowed: {BrokerURL().allowed}") from None


def find_plugin_dirs(root: Root) -> tuple[list[Path], list[Problem]]:
    """Return those of the root's plugin directories that exist and are safe to load code from, in search order."""
    found = []
    problems = []
    for directory in root.plugin_dirs:
        if os.path.lexists(directory):
            problem = _distrusted(directory)
            if problem is None:
                found.append(directory)
            else:
                problems.append(problem)
    return found, problems


def _distrusted(directory: Path) -> Problem | None:
    """Say why nothing in a directory may be used, or None. The directory is there, if only as a dangling link."""
    reason: str | None
    try:
        reason = distrust(directory)
        if reason is None and not os.path.isdir(directory):
            reason = "is not a directory"
    except OSError as error:
        reason = f"directory cannot be read: {error.strerror}"
    return None if reason is None else Problem("error", str(directory), None, None, reason)


def redescribe(path: Path, sections: Sections) -> tuple[Descriptor, list[Problem]]:
    """Read sections as if they stood in the descriptor's file: a plugin's code has changed them.

    Raises:
        ConfigError: they cannot be used; one line for each reason.
    """
    if sections.get("messaging", {}).get("url") and "url_file" in sections["messaging"]:
        sections["messaging"].pop("url_file")  # what the code says stands over what is in a file
    reader = Reader(DESCRIPTOR, str(path))
    reader.read(sections)
    descriptor = _make(path, reader, sections)
    if descriptor is None:
        raise ConfigError("\n".join(str(one) for one in reader.problems if one.severity == "error"))
    return descriptor, reader.problems


def _read(path: Path, named: list[Path] | None = None) -> tuple[Descriptor | None, list[Problem]]:
    """Read a descriptor, and add what files it may name to ``named``."""
    content, found = read_sections(path, DESCRIPTOR, trusted=True)
    if content is None:
        return None, found
    if named is not None:
        named += _named_files(path, content.sections)
    reader = Reader(DESCRIPTOR, str(path))
    reader.problems += found
    reader.read(content.sections)
    authenticator = reader.values[Messaging.AUTHENTICATOR]
    if authenticator in content.incomplete:  # its settings say who is believed
        text = "some of it is not used, and these are the settings of the authenticator; correct that first"
        reader.problems.append(Problem("error", str(path), authenticator, None, text))
    return _make(path, reader, content.sections), reader.problems


def _make(path: Path, reader: Reader, sections: Sections) -> Descriptor | None:
    """Make the descriptor of what was read; None: there is an error."""
    name = _name(reader, path)
    url, url_file = _broker(reader, path)
    queue, exchange = _queue(reader)
    cacert, clientcert, clientkey = (
        _file(reader, key, path) for key in (Messaging.CACERT, Messaging.CLIENTCERT, Messaging.CLIENTKEY)
    )
    _check_tls(reader, url)
    if reader.failed:
        return None
    values = reader.values
    return Descriptor(
        file=path,
        name=name,
        entry=path.stem,
        plugin=values[Main.PLUGIN],
        enabled=values[Main.ENABLED],
        threads=values[Main.THREADS],
        latency=values[Main.LATENCY],
        timeout=values[Main.TIMEOUT],
        max_age=values[Main.MAX_AGE],
        accept=values[Main.ACCEPT],
        forward=values[Main.FORWARD],
        extends=values[Main.EXTENDS],
        admin=values[Main.ADMIN],
        trust=values[Main.TRUST],
        required=values[Main.REQUIRED],
        url=url,
        url_file=url_file,
        authenticator=values[Messaging.AUTHENTICATOR],
        cacert=cacert,
        clientcert=clientcert,
        clientkey=clientkey,
        host_validation=values[Messaging.HOST_VALIDATION],
        heartbeat=values[Messaging.HEARTBEAT],
        audience=values[Messaging.AUDIENCE],
        managed=values[Model.MANAGED],
        queue=queue,
        exchange=exchange,
        expiration=values[Model.EXPIRATION],
        exclusive=values[Model.EXCLUSIVE],
        prefetch=values[Model.PREFETCH],
        kind=values[Model.TYPE],
        sections=Settings.of_file(str(path), sections),
    )


def _name(reader: Reader, path: Path) -> str:
    name = reader.values[Main.NAME]
    if name is not None:
        return name
    try:
        return Name().read(path.stem)
    except Wrong as wrong:
        reader.error(
            Main.NAME, f"is not given, and the file's base name will not do: {wrong}; allowed: {Name().allowed}"
        )
        return ""


def _broker(reader: Reader, path: Path) -> tuple[URL | None, Path | None]:
    values = reader.values
    file = _file(reader, Messaging.URL_FILE, path, check=False)
    if file is None:
        return values[Messaging.URL], None
    if Messaging.URL in values:
        reader.error(Messaging.URL_FILE, "is given beside url; allowed: one of them")
        return None, file
    try:
        return read_url_file(file), file
    except ConfigError as error:
        reader.error(Messaging.URL_FILE, str(error))
        return None, file


def _queue(reader: Reader) -> tuple[Address | None, str]:
    """Find the queue and its exchange among the keys that old and new descriptors name them by."""
    values = reader.values
    queue = values[Model.QUEUE]
    odd = Model.QUEUE if queue is not None else Messaging.UUID
    if queue is None and Messaging.UUID in values:
        queue = _address(reader, Messaging.UUID)
    elif Messaging.UUID in values:
        reader.warn("messaging", "uuid", "is not used, because [model] queue is given")
    if queue is not None and any(c.isspace() for c in f"{queue.exchange}{queue.key}"):
        text = f"{shown(str(queue))} has a space in it, which callers must write, too; remove it if that is not meant"
        reader.warn(odd.section, odd.name, text)
    exchange = queue.exchange if queue is not None else ""
    for key in (Model.EXCHANGE, Messaging.EXCHANGE):
        older = values[key]
        if older is None:
            continue
        if exchange and older != exchange:
            reader.warn(key.section, key.name, f"is not used, because the exchange is {shown(exchange)} already")
        else:
            exchange = older
    return (None if queue is None else Address(exchange, queue.key)), exchange


def _address(reader: Reader, key: Key[str | None]) -> Address | None:
    try:
        return AddressText().read(reader.values[key])
    except Wrong as wrong:
        reader.error(key, f"{wrong}; allowed: {AddressText().allowed}")
        return None


def _file(reader: Reader, key: Key[str | None], path: Path, *, check: bool = True) -> Path | None:
    text = reader.values[key]
    if text is None:
        return None
    file = path.absolute().parent / text
    if check and not os.path.exists(file):  # unlike Path.exists it never raises
        # Not an error: certificates may be put in place later, and are read at each connection.
        reader.warn(key.section, key.name, f"no file {shown(str(file))} yet; connecting will fail until it is there")
    return file


def _check_tls(reader: Reader, url: URL | None) -> None:
    values: Values = reader.values
    if Messaging.CLIENTKEY in values and Messaging.CLIENTCERT not in values:
        reader.error(Messaging.CLIENTKEY, "is given without clientcert; allowed: both, or clientcert alone")
    if url is None or url.tls:
        return
    for key in (Messaging.CACERT, Messaging.CLIENTCERT):
        if key in values:
            reader.warn("messaging", key.name, f"is not used: {url.protocol} has no TLS; allowed: with amqps or ssl")
