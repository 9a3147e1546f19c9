"""``gofer certs``: authorities and certificates for TLS and for signing, and what to put into configurations."""

from __future__ import annotations

import functools
import ipaddress
import os
import shlex
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gofer.errors import ConfigError
from gofer.root import Root
from gofer.tools.arguments import duration, option_group
from gofer.tools.certs_files import Exists
from gofer.tools.certs_lines import TARGETS, Files, lines_for
from gofer.tools.output import complain, print_json, print_table

if TYPE_CHECKING:
    from gofer.tools.pki import Entry, Store

__all__ = ["certs"]

_FAILED, _ENDING, _EXISTS = 1, 3, 4
_AUTHORITY_DAYS, _DAYS = 3650, 365
_VALID = click.IntRange(1, 36500)
_KEYS = click.Choice(["ec", "rsa2048", "rsa3072", "rsa4096"])
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_Names = Sequence[str]


@click.group(no_args_is_help=True)
def certs() -> None:
    """Make, renew and list certificates: for TLS between agents, callers and brokers, and for signed messages.

    Everything is in one directory: --dir, else /etc/gofer/pki below GOFER_ROOT. Keep it where you issue certificates.
    Copy to each machine only what it needs: ca.pem and its own certificate and key.

    \b
      ca.pem, ca.key                   the authority for TLS; its key stays here
      brokers/NAME.pem, .key           for brokers
      clients/NAME.pem, .key           for agents and callers
      clients/NAME.bundle              certificate and key in one file (--bundle)
      signing/ca/ca.pem, signing/ca.key, signing/NAME.pem, .key
                                       for the authenticator x509

    Keys are readable by their owner alone. No file is overwritten without --replace. A command that fails has written
    nothing. Nothing is asked.

    \b
    Example:
      gofer certs init --broker broker.example.com,10.0.0.5 --client web-42
      gofer certs lines rabbitmq
      gofer certs lines descriptor --client web-42
      gofer certs list
      gofer certs renew --within 30d

    \b
    Exit status:
      0    done
      1    not done; the message says why
      2    wrong arguments
      3    list --within: a certificate ends within that time
      4    a file exists, and --replace was not given
    """


def _command(function: Callable[..., int | None]) -> click.Command:
    """Make a subcommand of a function, which is given the directory of ``--dir``, and returns the exit status."""

    @functools.wraps(function)
    def run(*, folder: str | None, **given: Any) -> int:
        if folder == "":
            raise click.UsageError("--dir is empty; allowed: the path of a directory")
        try:
            from gofer.tools.pki import Store
        except ModuleNotFoundError as missing:
            if (missing.name or "").partition(".")[0] != "cryptography":
                raise
            complain("gofer certs", "the cryptography library is not installed. Type: pip install 'gofer-core[certs]'")
            return _FAILED
        try:
            place = Root.from_environ(os.environ).etc / "pki" if folder is None else Path(folder)
            return function(Store(place), **given) or 0
        except Exists as error:
            complain("gofer certs", error)
            return _EXISTS

    where = "Use this directory (default: /etc/gofer/pki below GOFER_ROOT)."
    name = function.__name__.rstrip("_")
    return certs.command(name)(click.option("--dir", "folder", metavar="DIR", help=where)(run))


#: Adds the options of commands that issue certificates: ``replace``, and ``days`` and ``key`` for the store.
_issuing = option_group(
    click.option("--key", type=_KEYS, default="ec", help="Make a key of this kind (default: ec, which is P-256)."),
    click.option("--days", type=_VALID, default=_DAYS, metavar="N", help=f"Valid for N days (default: {_DAYS})."),
    click.option("--replace", is_flag=True, help="Overwrite files that exist."),
)


_names = click.argument("names", nargs=-1, required=True, metavar="NAME...")


@_command
@_issuing
@click.option("--name", default="gofer CA", metavar="TEXT", help="The authority's name (default: gofer CA).")
@click.option("--broker", "brokers", multiple=True, metavar="NAMES", help="Also issue a broker's certificate.")
@click.option("--client", "clients", multiple=True, metavar="NAME", help="Also issue a client's certificate.")
@click.option(
    "--signing", "signers", multiple=True, metavar="NAME", help="Also make the authority for signing, and issue."
)
def init(
    store: Store, *, name: str, brokers: _Names, clients: _Names, signers: _Names, replace: bool, **how: Any
) -> None:
    """Make the authority, and at once certificates if you name some. The authority is valid for ten years.

    NAMES are DNS names and IP addresses with commas between, as URLs name the broker. The first one names the files.
    """
    if store.has("ca") and not replace:
        wanted = [f"broker {shlex.quote(names)}" for names in brokers]
        wanted += [f"{kind} {shlex.join(some)}" for kind, some in (("client", clients), ("signing", signers)) if some]
        where = f"{store.folder} has an authority already, and it is not overwritten"
        fix = " && ".join(f"gofer certs {one} --dir {store.folder}" for one in wanted or ["renew ca"])
        raise Exists(f"{where}. Type: {fix}. With --replace, what the old authority has issued is not valid any more")
    store.make_authority("ca", name, days=max(how["days"], _AUTHORITY_DAYS), key=how["key"])
    for names in brokers:
        store.issue("brokers", None, [names], **how)
    for client_name in clients:
        store.issue("clients", client_name, **how)
    if signers:
        _issue_signing(store, f"{name} (signing)", signers, **how)
    _save(store, replace)
    click.echo("Next: gofer certs lines rabbitmq (or broker-j, artemis), and: gofer certs lines descriptor", err=True)


@_command
@_names
@_issuing
@click.option("--file", metavar="TEXT", help="The base name of the files (default: the first NAME).")
def broker(store: Store, *, names: _Names, file: str | None, replace: bool, **how: Any) -> None:
    """Issue a certificate to a broker, for each NAME that URLs call it by: DNS names and IP addresses."""
    store.issue("brokers", file, names, **how)
    _save(store, replace)


@_command
@_names
@_issuing
@click.option("--bundle", is_flag=True, help="Also write certificate and key into one file, NAME.bundle.")
def client(store: Store, *, names: _Names, replace: bool, **how: Any) -> None:
    """Issue certificates to agents and callers, one for each NAME. The name is the user at the broker."""
    for name in names:
        store.issue("clients", name, **how)
    _save(store, replace)


@_command
@_names
@_issuing
def signing(store: Store, *, names: _Names, replace: bool, **how: Any) -> None:
    """Issue certificates for signing messages, one for each NAME, which is the identity that others see.

    The authenticator x509 (gofer-authenticator-x509) uses them. Their authority is made if there is none: it is another
    one than that for TLS, so that not everybody who may connect may sign.
    """
    _issue_signing(store, "gofer CA (signing)", names, **how)
    _save(store, replace)


@_command
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--within", type=duration, metavar="TIME", help="Renew all that end within TIME, like 30d.")
@click.option("--days", type=_VALID, metavar="N", help="Valid for N days (default: as long as before).")
@click.option("--new-key", is_flag=True, help="Make new keys, too (default: keep them).")
def renew(store: Store, *, names: _Names, within: float | None, **how: Any) -> None:
    """Renew certificates: issue them again, for the same names, valid from now on. The files are replaced.

    NAME is what `gofer certs list` prints, like clients/web-42, or a file. Agents and callers use renewed files at
    their next connection, without a restart. Most brokers need a reload.

    With --new-key, the ca.pem of an authority holds the new and the old certificate. Copy it to all machines before you
    use certificates that the authority issues from then on.
    """
    if bool(names) == (within is not None):
        raise click.UsageError("name certificates, or choose them with --within TIME")
    chosen = [store.find(name) for name in names] if within is None else _ending(store, within)
    for entry in sorted(chosen, key=lambda entry: not entry.is_authority):  # which then issue the others
        store.renew(entry, **how)
    _save(store, replace=True)
    if not chosen:
        click.echo("nothing ends within that time", err=True)


@_command
@click.option(
    "--within", type=duration, metavar="TIME", help="Only those that end within TIME; status 3 if there are any."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(store: Store, *, within: float | None, as_json: bool) -> int:
    """List all certificates, with the days that are left."""
    now = datetime.now(UTC)
    entries = store.entries() if within is None else _ending(store, within)
    found: list[dict[str, Any]] = [
        {
            "name": one.name,
            "for": one.holders,
            "starts": f"{one.certificate.not_valid_before_utc:{_TIME}}",
            "ends": f"{one.ends:{_TIME}}",
            "days_left": (one.ends - now) // timedelta(days=1),
            "file": str(one.file),
            "key": str(one.key),
        }
        for one in entries
    ]
    if as_json:
        print_json(found)
    elif found:
        cells = [(one["name"], ", ".join(one["for"]), one["ends"][:10], one["days_left"], one["file"]) for one in found]
        rows = [(*begin, "ended" if days < 0 else str(days), file) for *begin, days, file in cells]
        print_table(["NAME", "FOR", "ENDS", "DAYS LEFT", "FILE"], rows)
    elif within is None:
        what_next = f"gofer certs init --dir {store.folder}"
        click.echo(f"there are no certificates in {store.folder}. Make some: {what_next}", err=True)
    return _ENDING if entries and within is not None else 0


def _listen(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    try:
        return None if text is None else str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not an IP address; allowed: like 10.0.0.5 or ::1") from None


@_command
@click.argument("target", type=click.Choice(TARGETS), metavar="|".join(TARGETS))
@click.option("--broker", "broker_name", metavar="NAME", help="Of this broker (default: the only one).")
@click.option(
    "--client", "clients", multiple=True, metavar="NAME", help="For this client (default: the only one, or all)."
)
@click.option("--signing", "signer", metavar="NAME", help="For this signer (default: the only one).")
@click.option("--at", metavar="DIR", help="The files will be in DIR on the machine that the lines are for.")
@click.option(
    "--listen", callback=_listen, metavar="ADDRESS", help="The broker listens on this IP address alone (default: all)."
)
@click.option("--port", type=click.IntRange(1, 65535), default=5671, help="The broker's port for TLS (default: 5671).")
def lines(
    store: Store,
    *,
    target: str,
    broker_name: str | None,
    clients: _Names,
    signer: str | None,
    at: str | None,
    **how: Any,
) -> None:
    """Print what to paste into the configuration of a broker, or of a plugin (descriptor, x509).

    \b
    rabbitmq     rabbitmq.conf, and the commands for its plugin and users
    broker-j     the initial configuration of Qpid Broker-J
    artemis      the files in etc/ of ActiveMQ Artemis
    descriptor   [messaging] of a plugin's descriptor
    x509         [messaging] and [x509] for signed messages
    """
    host, users = "", list[str]()
    if target == "x509":
        own = _one(store, "signing", signer, "--signing")
    elif target == "descriptor":
        own = _one(store, "clients", next(iter(clients), None), "--client")
        host = _one(store, "brokers", broker_name, "--broker").holders[0]
    else:
        own = _one(store, "brokers", broker_name, "--broker")
        if target != "rabbitmq" and not own.is_rsa:
            fix = f"gofer certs broker {' '.join(own.holders)} --key rsa3072 --replace --dir {store.folder}"
            raise ConfigError(f"{target} reads only RSA keys from PEM files, and {own.key} is none. Type: {fix}")
        chosen = [_one(store, "clients", name, "--client") for name in clients] or store.of("clients")
        users = [entry.holders[0] for entry in chosen]
    authority = store.find(own.authority).file
    cacert, certificate, key = authority, own.file, own.key
    if at is not None:
        cacert = Path(at, "signing-ca.pem" if target == "x509" else authority.name)
        certificate, key = Path(at, own.file.name), Path(at, own.key.name)
    click.echo(lines_for(target, Files(cacert, certificate, key, host, users, **how)), nl=False)


def _issue_signing(store: Store, title: str, names: _Names, *, days: int, key: str) -> None:
    """Issue certificates for signing, from an authority that is made if there is none."""
    if not store.has("signing/ca"):
        store.make_authority("signing/ca", title, days=_AUTHORITY_DAYS, key=key)
    for name in names:
        store.issue("signing", name, days=days, key=key)


def _save(store: Store, replace: bool) -> None:
    for entry in store.save(replace=replace):
        ends = store.authority(entry.authority)[0].ends
        if ends < entry.ends:
            late = f"{entry.name} is valid for longer than its authority, which ends on {ends:%Y-%m-%d}"
            complain("gofer certs", late)
        names = ", ".join(entry.holders)
        click.echo(f"{entry.name}: for {names}, until {entry.ends:%Y-%m-%d}: {entry.file} and {entry.key}")


def _ending(store: Store, within: float) -> list[Entry]:
    return [entry for entry in store.entries() if entry.ends.timestamp() <= time.time() + within]


def _one(store: Store, kind: str, name: str | None, option: str) -> Entry:
    """Choose a certificate of a kind: the one that was named, or the only one."""
    if name is not None:
        return store.find(f"{kind}/{name}")
    known = store.of(kind)
    if len(known) == 1:
        return known[0]
    where = store.folder / kind
    if not known:
        raise ConfigError(f"there is no certificate in {where}; name one with {option}, after you have issued it")
    names = ", ".join(entry.name.partition("/")[2] for entry in known)
    raise ConfigError(f"there is more than one certificate in {where}; name one with {option}: {names}")
