"""``gofer certs``: authorities and certificates for TLS and for signing, and what to put into configurations."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gofer.errors import ConfigError
from gofer.tools.arguments import duration
from gofer.tools.output import complain, print_json, print_table

if TYPE_CHECKING:
    from gofer.tools.pki import Entry, Kind, Store

__all__ = ["certs"]

_FAILED, _ENDING, _EXISTS = 1, 3, 4
_TARGETS = ("rabbitmq", "broker-j", "artemis", "descriptor", "x509")
_AUTHORITY_DAYS, _DAYS = 3650, 365
_F = TypeVar("_F", bound=Callable[..., Any])


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

    Keys are readable by their owner alone. No file is overwritten without --replace. Nothing is asked.

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


def _options(*, days: int | None = None) -> Callable[[_F], _F]:
    def add(function: _F) -> _F:
        if days is not None:
            function = click.option(
                "--key",
                type=click.Choice(["ec", "rsa2048", "rsa3072", "rsa4096"]),
                default="ec",
                help="Make a key of this kind (default: ec, which is P-256).",
            )(function)
            function = click.option(
                "--days",
                type=click.IntRange(1, 36500),
                default=days,
                metavar="N",
                help=f"Valid for N days (default: {days}).",
            )(function)
            function = click.option("--replace", is_flag=True, help="Overwrite files that exist.")(function)
        where = "Use this directory (default: /etc/gofer/pki below GOFER_ROOT)."
        return click.option("--dir", "folder", metavar="DIR", help=where)(function)

    return add


@certs.command()
@_options(days=_DAYS)
@click.option("--name", default="gofer CA", metavar="TEXT", help="Name the authority so (default: gofer CA).")
@click.option("--broker", "brokers", multiple=True, metavar="NAMES", help="Also issue a broker's certificate.")
@click.option("--client", "clients", multiple=True, metavar="NAME", help="Also issue a client's certificate.")
@click.option(
    "--signing", "signers", multiple=True, metavar="NAME", help="Also make the authority for signing, and issue."
)
def init(
    *,
    folder: str | None,
    days: int,
    key: str,
    replace: bool,
    name: str,
    brokers: Sequence[str],
    clients: Sequence[str],
    signers: Sequence[str],
) -> int:
    """Make the authority, and at once certificates if you name some. The authority is valid for ten years.

    NAMES are DNS names and IP addresses with commas between, as URLs name the broker. The first one names the files.
    """

    def work(store: Store) -> None:
        from gofer.tools import pki

        age = max(days, _AUTHORITY_DAYS)
        _tell(store.make_authority("ca", name, days=age, key=key, replace=replace))
        for names in brokers:
            every = [one.strip() for one in names.split(",") if one.strip()]
            _issue(store, pki.BROKER, _file_name(every), every, days=days, key=key, replace=replace)
        for client in clients:
            _issue(store, pki.CLIENT, client, days=days, key=key, replace=replace)
        if signers:
            _signing_authority(store, f"{name} (signing)", key)
        for signer in signers:
            _issue(store, pki.SIGNING, signer, days=days, key=key, replace=replace)
        click.echo(
            "Next: gofer certs lines rabbitmq (or broker-j, artemis), and: gofer certs lines descriptor", err=True
        )

    return _with_store(folder, work)


@certs.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_options(days=_DAYS)
@click.option("--file", "file", metavar="TEXT", help="Name the files so (default: the first NAME).")
def broker(*, names: Sequence[str], folder: str | None, days: int, key: str, replace: bool, file: str | None) -> int:
    """Issue a certificate to a broker, for each NAME that URLs call it by: DNS names and IP addresses."""

    def work(store: Store) -> None:
        from gofer.tools import pki

        _issue(store, pki.BROKER, file or _file_name(names), names, days=days, key=key, replace=replace)

    return _with_store(folder, work)


@certs.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_options(days=_DAYS)
@click.option("--bundle", is_flag=True, help="Also write certificate and key into one file, NAME.bundle.")
def client(*, names: Sequence[str], folder: str | None, days: int, key: str, replace: bool, bundle: bool) -> int:
    """Issue certificates to agents and callers, one for each NAME. The name is the user at the broker."""

    def work(store: Store) -> None:
        from gofer.tools import pki

        for name in names:
            _issue(store, pki.CLIENT, name, days=days, key=key, replace=replace, bundle=bundle)

    return _with_store(folder, work)


@certs.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@_options(days=_DAYS)
def signing(*, names: Sequence[str], folder: str | None, days: int, key: str, replace: bool) -> int:
    """Issue certificates for signing messages, one for each NAME, which is the identity that others see.

    The authenticator x509 (gofer-authenticator-x509) uses them. Their authority is made if there is none: it is another
    one than that for TLS, so that not everybody who may connect may sign.
    """

    def work(store: Store) -> None:
        from gofer.tools import pki

        _signing_authority(store, "gofer CA (signing)", key)
        for name in names:
            _issue(store, pki.SIGNING, name, days=days, key=key, replace=replace)

    return _with_store(folder, work)


@certs.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@_options()
@click.option("--within", type=duration, metavar="TIME", help="Renew all that end within TIME, like 30d.")
@click.option(
    "--days", type=click.IntRange(1, 36500), metavar="N", help="Valid for N days (default: as long as before)."
)
@click.option("--new-key", is_flag=True, help="Make new keys, too (default: keep them).")
def renew(*, names: Sequence[str], folder: str | None, within: float | None, days: int | None, new_key: bool) -> int:
    """Renew certificates: issue them again, for the same names, valid from now on. The files are replaced.

    NAME is what `gofer certs list` prints, like clients/web-42, or a file. Agents and callers use renewed files at
    their next connection, without a restart. Most brokers need a reload.

    With --new-key, the ca.pem of an authority holds the new and the old certificate. Copy it to all machines before you
    use certificates that the authority issues from then on.
    """
    if bool(names) == (within is not None):
        raise click.UsageError("name certificates, or choose them with --within TIME")

    def work(store: Store) -> None:
        chosen = [store.find(name) for name in names] if within is None else _ending(store.entries(), within)
        for entry in chosen:
            _tell(store.renew(entry, days=days, new_key=new_key))
        if not chosen:
            click.echo("nothing ends within that time", err=True)

    return _with_store(folder, work)


@certs.command("list")
@_options()
@click.option(
    "--within", type=duration, metavar="TIME", help="Only those that end within TIME; status 3 if there are any."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(*, folder: str | None, within: float | None, as_json: bool) -> int:
    """List all certificates, with the days that are left."""

    def work(store: Store) -> int:
        now = datetime.now(UTC)
        entries = store.entries() if within is None else _ending(store.entries(), within)
        if as_json:
            print_json([_json(entry, now) for entry in entries])
        elif entries:
            rows = [
                [
                    entry.name,
                    ", ".join(entry.holders),
                    entry.ends.strftime("%Y-%m-%d"),
                    str(entry.days_left(now)) if entry.ends > now else "ended",
                    str(entry.file),
                ]
                for entry in entries
            ]
            print_table(["NAME", "FOR", "ENDS", "DAYS LEFT", "FILE"], rows)
        return _ENDING if entries and within is not None else 0

    return _with_store(folder, work)


@certs.command()
@click.argument("target", type=click.Choice(_TARGETS), metavar="|".join(_TARGETS))
@_options()
@click.option("--broker", "broker_name", metavar="NAME", help="Of this broker (default: the only one).")
@click.option(
    "--client", "clients", multiple=True, metavar="NAME", help="For this client (default: the only one, or all)."
)
@click.option("--signing", "signer", metavar="NAME", help="For this signer (default: the only one).")
@click.option("--at", metavar="DIR", help="The files will be in DIR on the machine that the lines are for.")
@click.option("--listen", metavar="ADDRESS", help="The broker listens on this address alone (default: all).")
@click.option("--port", type=click.IntRange(1, 65535), default=5671, help="The broker's port for TLS (default: 5671).")
def lines(
    *,
    target: str,
    folder: str | None,
    broker_name: str | None,
    clients: Sequence[str],
    signer: str | None,
    at: str | None,
    listen: str | None,
    port: int,
) -> int:
    """Print what to paste into the configuration of a broker, or of a plugin (descriptor, x509).

    \b
    rabbitmq     rabbitmq.conf, and the commands for its plugin and users
    broker-j     the initial configuration of Qpid Broker-J
    artemis      the files in etc/ of ActiveMQ Artemis
    descriptor   [messaging] of a plugin's descriptor
    x509         [messaging] and [x509] for signed messages
    """

    def work(store: Store) -> None:
        from gofer.tools import certs_lines, pki

        place = None if at is None else Path(at)
        users: list[str] = []
        if target == "x509":
            own = _one(store, pki.SIGNING, signer, "--signing")
            authority, host = store.find("signing/ca"), ""
        elif target == "descriptor":
            own = _one(store, pki.CLIENT, next(iter(clients), None), "--client")
            host = _one(store, pki.BROKER, broker_name, "--broker").holders[0]
            authority = store.find("ca")
        else:
            own = _one(store, pki.BROKER, broker_name, "--broker")
            if target != "rabbitmq" and not own.is_rsa:
                fix = f"gofer certs broker {' '.join(own.holders)} --key rsa3072 --replace --dir {store.folder}"
                raise ConfigError(f"{target} reads only RSA keys from PEM files, and {own.key} is none. Type: {fix}")
            authority, host = store.find("ca"), ""
            users = [entry.holders[0] for entry in store.of(pki.CLIENT)]
            if clients:
                users = [_one(store, pki.CLIENT, name, "--client").holders[0] for name in clients]
        files = certs_lines.Files(
            _at(place, authority.file, "signing-ca.pem" if target == "x509" else "ca.pem"),
            _at(place, own.file),
            _at(place, own.key),
            f"[{host}]" if ":" in host else host,
            port,
            users,
            listen,
        )
        click.echo(certs_lines.lines(target, files), nl=False)

    return _with_store(folder, work)


def _with_store(folder: str | None, work: Callable[[Store], int | None]) -> int:
    try:
        from gofer.tools import pki
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "cryptography":
            raise
        complain("gofer certs", "the cryptography library is not installed. Type: pip install 'gofer-core[certs]'")
        return _FAILED
    from gofer.root import Root

    if folder == "":
        raise click.UsageError("--dir is empty; allowed: the path of a directory")
    try:
        place = Path(folder) if folder is not None else Root.from_environ(os.environ).etc / "pki"
        return work(pki.Store(place)) or 0
    except pki.Exists as there:
        complain("gofer certs", there)
        return _EXISTS
    except ConfigError as wrong:
        complain("gofer certs", wrong)
        return _FAILED


def _issue(store: Store, kind: Kind, name: str, names: Sequence[str] = (), **how: Any) -> None:
    entry = store.issue(kind, name, names, **how)
    authority = store.find(kind.authority)
    if authority.ends < entry.ends:
        end = authority.ends.strftime("%Y-%m-%d")
        complain("gofer certs", f"{entry.name} is valid for longer than its authority, which ends on {end}")
    _tell(entry)


def _signing_authority(store: Store, title: str, key: str) -> None:
    if not any(entry.name == "signing/ca" for entry in store.entries()):
        _tell(store.make_authority("signing/ca", title, days=_AUTHORITY_DAYS, key=key))


def _tell(entry: Entry) -> None:
    names = ", ".join(entry.holders)
    click.echo(f"{entry.name}: for {names}, until {entry.ends:%Y-%m-%d}: {entry.file} and {entry.key}")


def _ending(entries: Sequence[Entry], within: float) -> list[Entry]:
    limit = time.time() + within
    return [entry for entry in entries if entry.ends.timestamp() <= limit]


def _file_name(names: Sequence[str]) -> str:
    """Name the files of a broker like its first name: without what a file's name should not have."""
    if not names:
        raise ConfigError("a broker needs a name: a DNS name or an IP address, as URLs have it")
    name = names[0].strip("[].").replace("*", "wildcard").lower()
    return f"ip6-{name.replace(':', '-')}" if ":" in name else name


def _one(store: Store, kind: Kind, name: str | None, option: str) -> Entry:
    """Choose a certificate of a kind: the one that was named, or the only one."""
    known = store.of(kind)
    if name is not None:
        return store.find(f"{kind.folder}/{name}")
    if len(known) == 1:
        return known[0]
    what = f"there is no certificate in {store.folder / kind.folder}"
    if known:
        what = f"there is more than one in {store.folder / kind.folder}"
    names = ", ".join(entry.name.partition("/")[2] for entry in known)
    raise ConfigError(f"{what}; name one with {option}" + (f": {names}" if known else ", after you have issued it"))


def _at(place: Path | None, file: Path, name: str | None = None) -> Path:
    return file if place is None else place / (name or file.name)


def _json(entry: Entry, now: datetime) -> dict[str, Any]:
    return {
        "name": entry.name,
        "for": entry.holders,
        "starts": entry.certificate.not_valid_before_utc.isoformat().replace("+00:00", "Z"),
        "ends": entry.ends.isoformat().replace("+00:00", "Z"),
        "days_left": (entry.ends - now) // timedelta(days=1),
        "file": str(entry.file),
        "key": str(entry.key),
    }
