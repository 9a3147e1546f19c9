"""How commands connect to a broker and an agent, and prove who calls: their options, and what these come to.

A profile of ``caller.conf`` counts where the options say nothing. Secrets and passwords are asked for at the terminal,
or read from a file; they are never on the command line.
"""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gofer.errors import ConfigError, GoferError
from gofer.messaging.keyfiles import read_secret
from gofer.tools.arguments import address, option_group

if TYPE_CHECKING:
    from gofer.messaging.connector import Connector
    from gofer.rmi.client.options import CallOptions

__all__ = [
    "agent_options",
    "broker_options",
    "connector_of",
    "proof_options",
    "proofs",
    "signing_option",
    "tls_options",
]

_FILE = click.Path(exists=True, dir_okay=False, readable=True)
_SWITCHES = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "off": False}


#: Gives a command the options ``--cacert``, ``--clientcert``, ``--clientkey`` and ``--no-host-validation``.
tls_options = option_group(
    click.option("--no-host-validation", is_flag=True, help="Accept a broker's certificate for any host."),
    click.option("--clientkey", type=_FILE, metavar="FILE", help="The key of the client certificate (PEM)."),
    click.option("--clientcert", type=_FILE, metavar="FILE", help="Show the broker this certificate (PEM)."),
    click.option("--cacert", type=_FILE, metavar="FILE", help="Check the broker's certificate by these (PEM)."),
)


def _profile_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the profiles of callers."""
    from gofer.messaging.caller_conf import profiles

    try:
        return [name for name in profiles() if name.startswith(incomplete)]
    except GoferError:
        return []


def _authenticator_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the authenticators that are installed."""
    from gofer.entry_points import listed

    return [one.name for one in listed("gofer.authenticators") if one.name.startswith(incomplete)]


#: Gives a command ``--url``, ``--profile``, and the options for TLS.
broker_options = option_group(
    tls_options,
    click.option(
        "--profile",
        "profile_name",
        envvar="GOFER_PROFILE",
        metavar="NAME",
        shell_complete=_profile_names,
        help="Take URL, address and more from [profile NAME] of caller.conf (default: GOFER_PROFILE, or default).",
    ),
    click.option(
        "-u", "--url", envvar="GOFER_URL", help="The broker's URL (default: GOFER_URL, the profile's, or local://)."
    ),
)


#: Gives a command ``--authenticator``.
signing_option = click.option(
    "-A",
    "--authenticator",
    metavar="NAME",
    shell_complete=_authenticator_names,
    help="Signs and verifies: an installed one, or a class's dotted path.",
)


#: Gives a command ``--url``, ``--address``, ``--profile``, ``--authenticator``, and the options for TLS.
agent_options = option_group(
    signing_option,
    click.option(
        "-a",
        "--address",
        type=address,
        help="The agent's address: queue or exchange/queue (default: the profile's).",
    ),
    broker_options,
)


#: Gives a command ``--secret-file``, ``--user`` and ``--password-file``.
proof_options = option_group(
    click.option("--password-file", metavar="FILE", help="Read the password from the first line of FILE, not asking."),
    click.option("--user", metavar="NAME", help="The user to call as; the password is asked for."),
    click.option(
        "--secret-file", metavar="FILE", help="Read the secret from the first line of FILE; -: standard input."
    ),
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


def proofs(how: dict[str, Any], settings: dict[str, str]) -> CallOptions:
    """Return what shows that this caller may call: the authenticator, the secret, user and password.

    Raises:
        UsageError: one of them cannot be read, or there is a password without a user.
    """
    found: CallOptions = {}
    authenticator = how.get("authenticator") or settings.get("authenticator")
    if authenticator is not None:
        found["authenticator"] = authenticator
    if how.get("secret_file") is not None:
        found["secret"] = _from_file(how["secret_file"], "--secret-file")
    elif how.get("ask_secret"):
        found["secret"] = _ask("secret", "--secret-file")
    user = how.get("user") or settings.get("user")
    if user is None:
        if how.get("ask_password") or how.get("password_file") is not None:
            raise click.UsageError("a password needs a user: --user NAME")
        return found
    found["user"], found["password"] = user, _password_of(user, how.get("password_file"))
    return found


def _ask(what: str, option: str) -> str:
    """Ask for something at the terminal, without showing it.

    Raises:
        UsageError: there is no terminal; the text names ``option``, which reads a file.
    """
    try:
        with open("/dev/tty", "rb"):
            pass
    except OSError:
        raise click.UsageError(f"no terminal to ask for the {what} at; use {option} FILE") from None
    return getpass.getpass(f"{what.capitalize()}: ")


def _from_file(path: str, option: str) -> str:
    """Return the first line of a file that only its owner may read, or of standard input for ``-``.

    Raises:
        UsageError: it cannot be read, or others may read it.
    """
    try:
        text = sys.stdin.read() if path == "-" else read_secret(Path(path)).decode()
    except (ConfigError, UnicodeDecodeError) as wrong:
        raise click.UsageError(f"{option}: {wrong}") from None
    line = text.partition("\n")[0].rstrip("\r")
    if not line:
        raise click.UsageError(f"{option}: the first line of {path} is empty")
    return line


def _password_of(user: str, file: str | None) -> str:
    """Return a user's password: the first line of a file, or what is typed at the terminal."""
    if file is not None:
        return _from_file(file, "--password-file")
    return _ask(f"password of {user}", "--password-file")
