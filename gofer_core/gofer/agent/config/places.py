"""The types of configured places: a broker's URL, a queue's address, an exchange, where management listens."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gofer.agent.config.problem import kind, shown
from gofer.agent.config.values import Line, Wrong
from gofer.errors import ConfigError
from gofer.messaging.address import Address
from gofer.messaging.url import URL

__all__ = ["AddressText", "BrokerURL", "ExchangeName", "OwnHost"]


@dataclass(frozen=True, slots=True)
class BrokerURL:
    """The URL of a broker."""

    allowed: str = (
        "[adapter+]protocol://[user[:password]@]host[:port][/virtual-host], "
        "protocols amqp, amqps, ssl, tcp; or local:// or local:///path/to.sock"
    )

    def read(self, raw: object) -> URL:
        """Read a URL. No message shows a password, wherever in the text it stands."""
        if not isinstance(raw, str):
            raise Wrong(f"{kind(raw)} is not a URL")
        try:
            url = _parse_url(raw)
        except (ConfigError, ValueError):
            raise Wrong(_why_no_url(raw)) from None
        if any(c.isspace() or not c.isprintable() for c in url.host):
            raise Wrong(f"the host {shown(url.host)} has spaces or control characters in it")
        return url


@dataclass(frozen=True, slots=True)
class AddressText:
    """A queue, perhaps with its exchange."""

    allowed: str = "<queue> or <exchange>/<queue>, each at most 255 bytes"

    def read(self, raw: object) -> Address:
        """Read an address."""
        if not isinstance(raw, str):
            raise Wrong(f"{kind(raw)} is not an address")
        try:
            return Address.parse(raw.strip())
        except ConfigError as error:
            raise Wrong(re.split("; (?:allowed|expected)", str(error))[0]) from None


@dataclass(frozen=True, slots=True)
class ExchangeName:
    """An exchange, by its name alone."""

    allowed: str = "an exchange's name: no '/', at most 255 bytes"

    def read(self, raw: object) -> str:
        """Read a name that can stand before the '/' of an address."""
        if not isinstance(raw, str):
            raise Wrong(f"{kind(raw)} is not an exchange's name")
        try:
            exchange, _ = Address.parse(f"{raw.strip()}/key")
        except ConfigError as error:
            raise Wrong(str(error)) from None
        if exchange != raw.strip():
            raise Wrong(f"{shown(raw)} is not an exchange's name")
        return exchange


@dataclass(frozen=True, slots=True)
class OwnHost:
    """A host name or address that only this machine itself can reach. What a name means is not looked up here."""

    allowed: str = "localhost, 127.0.0.1, ::1, or a name for one of these"

    def read(self, raw: object) -> str:
        """Read a name or an address."""
        host = Line("a host name or address").read(raw)
        if re.fullmatch(r"[0-9.]+", host) is None and ":" not in host:
            return host
        if not host.startswith("127.") and host != "::1":
            raise Wrong(f"{shown(host)} can be reached by other machines")
        return host


def _parse_url(text: str) -> URL:
    """Read a URL, and refuse one that is only read because its protocol passes for a host's name."""
    url = URL.parse(text)
    _, mark, rest = text.partition("://")
    if mark and url.protocol != "local":
        try:
            URL.parse(rest)
        except ConfigError:
            raise ConfigError(f"not a URL: {shown(text)}") from None
    return url


def _why_no_url(text: str) -> str:
    """Say what is wrong with a URL that does not parse, by parsing it again with everything secret masked."""
    found = re.fullmatch(r"(?P<scheme>\s*[^:/@]*://)?(?:(?P<login>.*)@)?(?P<rest>.*)", text, re.DOTALL)
    assert found is not None, "every part is optional"  # noqa: S101  # for the type checker
    rest = found["rest"]
    if found["login"] is None:  # what stands where a port should may be a password whose '@host' was forgotten
        head, colon, tail = rest.partition("]:" if rest.startswith("[") else ":")
        if colon and not re.fullmatch(r"[0-9]*(/.*)?", tail, re.DOTALL):
            rest = f"{head}{colon}***"
    masked = f"{found['scheme'] or ''}{'' if found['login'] is None else '***@'}{rest}"
    try:
        _parse_url(masked)
    except (ConfigError, ValueError) as error:
        return re.split("; (?:allowed|expected)", str(error))[0]
    return f"{shown(masked)} has a user or a password in which ':', '/' or '@' must be written as %3A, %2F or %40"
