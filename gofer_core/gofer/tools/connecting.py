"""How commands connect to a broker: the options for TLS, and what they and a profile of ``caller.conf`` come to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gofer.errors import ConfigError
from gofer.tools.arguments import option_group

if TYPE_CHECKING:
    from gofer.messaging.connector import Connector

__all__ = ["connector_of", "tls_options"]

_FILE = click.Path(exists=True, dir_okay=False, readable=True)
_SWITCHES = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "off": False}


#: Gives a command the options ``--cacert``, ``--clientcert``, ``--clientkey`` and ``--no-host-validation``.
tls_options = option_group(
    click.option("--no-host-validation", is_flag=True, help="Accept a broker's certificate for any host."),
    click.option("--clientkey", type=_FILE, metavar="FILE", help="The key of the client certificate (PEM)."),
    click.option("--clientcert", type=_FILE, metavar="FILE", help="Show the broker this certificate (PEM)."),
    click.option("--cacert", type=_FILE, metavar="FILE", help="Check the broker's certificate by these (PEM)."),
)


def connector_of(how: dict[str, Any], settings: dict[str, str]) -> Connector:
    """Return how to connect, by a command's options and, where they say nothing, by a profile.

    Raises:
        ConfigError: the URL, or the profile's ``host_validation``, cannot be read.
    """
    from gofer.messaging.connector import Connector
    from gofer.messaging.url import URL

    validation = settings.get("host_validation", "1").lower()
    if validation not in _SWITCHES:
        raise ConfigError(f"host_validation of the profile is {validation[:100]!r}; allowed: {', '.join(_SWITCHES)}")
    return Connector(
        URL.parse(how.get("url") or settings.get("url") or "local://"),
        how.get("cacert") or settings.get("cacert"),
        how.get("clientcert") or settings.get("clientcert"),
        how.get("clientkey") or settings.get("clientkey"),
        _SWITCHES[validation] and not how.get("no_host_validation"),
    )
