"""The options by which commands find an agent, and sign: as an agent at an address, of a broker."""

from __future__ import annotations

import click

from gofer.tools.arguments import address, option_group
from gofer.tools.completion import authenticator_names, profile_names
from gofer.tools.connecting import tls_options

__all__ = ["agent_options", "broker_options", "signing_option"]


#: Gives a command ``--url``, ``--profile``, and the options for TLS.
broker_options = option_group(
    tls_options,
    click.option(
        "--profile",
        "profile_name",
        envvar="GOFER_PROFILE",
        metavar="NAME",
        shell_complete=profile_names,
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
    shell_complete=authenticator_names,
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
