"""Authorities and the certificates that they have issued, in one directory of PEM files. Needs ``cryptography``.

::

    DIR/ca.pem, ca.key                     the authority of brokers and clients (TLS), and its private key
    DIR/brokers/NAME.pem, NAME.key         for brokers: DNS names and IP addresses
    DIR/clients/NAME.pem, NAME.key         for agents and callers: the CN is the user at the broker
    DIR/clients/NAME.bundle                both in one file
    DIR/signing/ca/ca.pem, signing/ca.key  the authority of those who sign messages (gofer-authenticator-x509)
    DIR/signing/NAME.pem, NAME.key         for signing: the CN is the identity

There are two authorities, so that a client may not sign because it may connect.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gofer.errors import ConfigError
from gofer.messaging.certificates import read_file
from gofer.suggest import did_you_mean
from gofer.tools.certs_files import check_directories, write_files

__all__ = ["Entry", "Store"]

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

_AUTHORITIES = ("ca", "signing/ca")
_KINDS = ("brokers", "clients", "signing")
_CLOCK_SKEW = timedelta(minutes=10)  # that another machine's clock may be behind
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DNS = re.compile(r"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate of the directory. ``name``: ``ca``, ``signing/ca``, or ``brokers/NAME`` and the like.

    ``older``: other certificates in the file of an authority, made with its former keys.
    """

    name: str
    file: Path
    key: Path
    certificate: x509.Certificate
    older: tuple[x509.Certificate, ...] = ()

    @property
    def is_authority(self) -> bool:
        """Whether it issues others."""
        return self.name in _AUTHORITIES

    @property
    def authority(self) -> str:
        """The name of the authority that issues it; of an authority: its own."""
        return "signing/ca" if self.name.startswith("signing/") else "ca"

    @property
    def ends(self) -> datetime:
        """When it ends, in UTC."""
        return self.certificate.not_valid_after_utc

    @property
    def bundle(self) -> Path:
        """The file that holds certificate and key, if there is one."""
        return self.file.with_suffix(".bundle")

    @property
    def is_rsa(self) -> bool:
        """Whether its key is an RSA key."""
        return isinstance(self.certificate.public_key(), rsa.RSAPublicKey)

    @property
    def holders(self) -> list[str]:
        """The names that it is for: those of hosts, or else its CN, or else the whole subject."""
        try:
            found = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            return [str(one.value) for one in found]
        except x509.ExtensionNotFound:
            names = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            return [str(names[-1].value) if names else self.certificate.subject.rfc4514_string()]


class Store:
    """Makes, renews and lists the certificates of one directory. One process at a time; one thread.

    What is made or renewed exists in memory until ``save`` writes all of it.

    Args:
        folder: the directory. ``save`` makes it.

    Raises:
        ConfigError: other users may write to it, or to a directory above it, or it belongs to somebody else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))
        self._made: dict[str, tuple[Entry, Key]] = {}
        self._files: dict[Path, bytes] = {}
        check_directories(self.folder, (*_KINDS, "signing/ca"))

    def make_authority(self, name: str, title: str, *, days: int, key: str = "ec") -> Entry:
        """Make an authority: ``ca`` or ``signing/ca``. ``key``: ec, rsa2048, rsa3072 or rsa4096.

        Raises:
            ConfigError: the title cannot be used.
        """
        if not title.isprintable() or not 0 < len(title.strip()) <= 64:
            raise ConfigError(f"{title[:100]!r} cannot be an authority's name; allowed: up to 64 visible characters")
        extensions = [(x509.BasicConstraints(True, 0), True), (_key_usage(authority=True), True)]
        private, starts, duration = _make_key(key), datetime.now(UTC), timedelta(days=days)
        certificate = _sign(_name(title.strip()), private, None, extensions, starts=starts, duration=duration)
        return self._add(self._entry(name, [certificate]), private)

    def issue(
        self,
        kind: str,
        name: str | None = None,
        hosts: Iterable[str] = (),
        *,
        days: int,
        key: str = "ec",
        bundle: bool = False,
        starts: datetime | None = None,
    ) -> Entry:
        """Issue a certificate.

        Args:
            kind: brokers, clients or signing.
            name: of a broker: the name of its files, None: its first host; of others: the CN, too.
            hosts: the DNS names and IP addresses of a broker; the first one is its CN.
            starts: when it becomes valid; None: now.

        Raises:
            ConfigError: a name cannot be used, or there is no authority.
        """
        names = _host_names(hosts) if kind == "brokers" else []
        title = str(names[0].value) if names else name or ""
        if name is None:
            name = f"ip6-{title.replace(':', '-')}" if ":" in title else title.replace("*", "wildcard")
        if _NAME.fullmatch(name) is None:
            allowed = "up to 64 letters, digits, and . _ @ -, the first a letter or a digit"
            fix = ". Choose another name for its files: gofer certs broker --file TEXT" if names else ""
            raise ConfigError(f"{name!r} cannot be the name of a certificate; allowed: {allowed}{fix}")
        if kind == "signing" and name == "ca":
            raise ConfigError("a signer cannot be called 'ca': that is the authority's file")
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if names else ExtendedKeyUsageOID.CLIENT_AUTH
        extensions: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(False, None), True),
            (_key_usage(encipherment=bool(names) and key != "ec"), True),
            (x509.ExtendedKeyUsage([purpose]), False),
        ]
        if names:
            extensions.append((x509.SubjectAlternativeName(names), False))
        authority = self.authority("signing/ca" if kind == "signing" else "ca")
        private, starts, duration = _make_key(key), starts or datetime.now(UTC), timedelta(days=days)
        certificate = _sign(_name(title[:64]), private, authority, extensions, starts=starts, duration=duration)
        return self._add(self._entry(f"{kind}/{name}", [certificate]), private, bundle=bundle)

    def renew(self, entry: Entry, *, days: int | None = None, new_key: bool = False) -> Entry:
        """Issue a certificate again, from now on: the same names, with the same key or a new one of its kind.

        With a new key, an authority keeps its old certificate as an ``older`` one: what it has issued stays valid.

        Args:
            days: how long it is valid; None: as long as before.

        Raises:
            ConfigError: its key or its authority's cannot be read.
        """
        old, private, now = entry.certificate, _read_key(entry.key), datetime.now(UTC)
        if new_key:
            private = _make_key("ec" if isinstance(private, ec.EllipticCurvePrivateKey) else f"rsa{private.key_size}")
        duration = old.not_valid_after_utc - old.not_valid_before_utc - _CLOCK_SKEW
        if days is not None:
            duration = timedelta(days=days)
        identifiers = (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier)
        extensions = [(one.value, one.critical) for one in old.extensions if not isinstance(one.value, identifiers)]
        authority = None if entry.is_authority else self.authority(entry.authority)
        certificate = _sign(old.subject, private, authority, extensions, starts=now, duration=duration)
        older = [old, *entry.older] if new_key and entry.is_authority else entry.older
        kept = [one for one in older if one.not_valid_after_utc > now]
        return self._add(self._entry(entry.name, [certificate, *kept]), private, write_key=new_key)

    def save(self, *, replace: bool) -> list[Entry]:
        """Write all that was made or renewed since, or nothing, and return it.

        Raises:
            Exists: a file exists, and ``replace`` is false.
            ConfigError: a file cannot be written.
        """
        write_files(self.folder, self._files, replace=replace)
        made = [entry for entry, _ in self._made.values()]
        self._made, self._files = {}, {}
        return made

    def has(self, name: str) -> bool:
        """Return whether the directory holds an authority's certificate or key."""
        return any(os.path.lexists(file) for file in self._paths(name))

    def authority(self, name: str) -> tuple[Entry, Key]:
        """Return an authority and its private key: one that was just made, or the saved one.

        Raises:
            ConfigError: there is none, or its key is not here.
        """
        if name in self._made:
            return self._made[name]
        file, key = self._paths(name)
        if not file.exists():
            raise ConfigError(f"there is no authority yet ({file}). Make one: gofer certs init --dir {self.folder}")
        if not key.exists():
            raise ConfigError(f"the authority's private key {key} is not here. Issue certificates where it is kept")
        return self._entry(name, _read_certificates(file)), _read_key(key)

    def entries(self) -> list[Entry]:
        """Return all certificates that are saved, authorities first.

        Raises:
            ConfigError: there is no such directory, or a certificate cannot be read.
        """
        if not self.folder.exists():
            raise ConfigError(f"there is no directory {self.folder}. Make it: gofer certs init --dir {self.folder}")
        names = [name for name in _AUTHORITIES if self._paths(name)[0].exists()]
        for kind in _KINDS:
            files = sorted((self.folder / kind).glob("*.pem"))
            names += [f"{kind}/{file.stem}" for file in files if not file.name.startswith(".")]  # being written
        return [self._entry(name, _read_certificates(self._paths(name)[0])) for name in names]

    def of(self, kind: str) -> list[Entry]:
        """Return the saved certificates of a kind."""
        return [one for one in self.entries() if one.name.startswith(f"{kind}/") and not one.is_authority]

    def find(self, name: str) -> Entry:
        """Return a saved certificate by its name, its file, or the last part of its name.

        Raises:
            ConfigError: there is none.
        """
        known = {entry.name: entry for entry in self.entries()}
        path = Path(os.path.abspath(name))
        found = [entry for entry in known.values() if name == entry.name or path == entry.file]
        found = found or [entry for entry in known.values() if entry.name.rpartition("/")[2] == name]
        if not found:
            hint, there = did_you_mean(name, known), ", ".join(known) or "none"
            raise ConfigError(f"no certificate {name!r} in {self.folder}{hint}; there are: {there}")
        if len(found) > 1:
            raise ConfigError(f"{name!r} is more than one; write {' or '.join(entry.name for entry in found)}")
        return found[0]

    def _paths(self, name: str) -> tuple[Path, Path]:
        # The authority for signing is in a directory of its own: all certificates in there are trusted.
        file = "signing/ca/ca.pem" if name == "signing/ca" else f"{name}.pem"
        return self.folder / file, self.folder / f"{name}.key"

    def _entry(self, name: str, certificates: Sequence[x509.Certificate]) -> Entry:
        return Entry(name, *self._paths(name), certificates[0], tuple(certificates[1:]))

    def _add(self, entry: Entry, private: Key, *, bundle: bool = False, write_key: bool = True) -> Entry:
        pem = b"".join(one.public_bytes(Encoding.PEM) for one in (entry.certificate, *entry.older))
        key_pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        if write_key:
            self._files[entry.key] = key_pem
        self._files[entry.file] = pem
        if bundle or entry.bundle.exists():
            self._files[entry.bundle] = pem + key_pem
        self._made[entry.name] = entry, private
        return entry


def _sign(
    subject: x509.Name,
    private: Key,
    authority: tuple[Entry, Key] | None,
    extensions: Iterable[tuple[x509.ExtensionType, bool]],
    *,
    starts: datetime,
    duration: timedelta,
) -> x509.Certificate:
    """Sign a certificate that names its own key and its authority's: two authorities may have the same name."""
    issuer, signing_key = (subject, private) if authority is None else (authority[0].certificate.subject, authority[1])
    try:
        builder = x509.CertificateBuilder().not_valid_before(starts - _CLOCK_SKEW).not_valid_after(starts + duration)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"a certificate cannot be valid for {duration.days} days: {error}") from None
    builder = (
        builder.subject_name(subject)
        .issuer_name(issuer)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
    )
    if authority is not None:
        issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
        builder = builder.add_extension(issued_by, critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signing_key, hashes.SHA256())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _key_usage(*, authority: bool = False, encipherment: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(not authority, False, encipherment, False, False, authority, authority, False, False)


def _make_key(kind: str) -> Key:
    return ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, int(kind[3:]))


def _read(file: Path) -> bytes:
    try:
        return read_file(file)[0]
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None


def _read_certificates(file: Path) -> list[x509.Certificate]:
    pem = _read(file)
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"{file}: holds no certificate (PEM)") from None


def _read_key(file: Path) -> Key:
    pem = _read(file)
    try:
        found = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        # From None: what was read must not be told by anybody's traceback.
        raise ConfigError(f"{file}: holds no private key (PEM) without a passphrase") from None
    if not isinstance(found, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise ConfigError(f"{file}: is neither an EC nor an RSA key")
    return found


def _host_names(names: Iterable[str]) -> list[x509.DNSName | x509.IPAddress]:
    """Read DNS names and IP addresses, each once, in their order. A text may hold several, with commas between."""
    found = list(dict.fromkeys(_host_name(one.strip()) for text in names for one in text.split(",") if one.strip()))
    if not found:
        raise ConfigError("a broker needs a name: a DNS name or an IP address, as URLs have it")
    return found


def _host_name(name: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        pass  # a DNS name, then
    try:
        dns = name.removesuffix(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        dns = ""
    if _DNS.fullmatch(dns) is None or len(dns) > 253 or dns.replace(".", "").isdigit():
        allowed = "allowed: like broker.example.com or 10.0.0.5, without scheme or port"
        raise ConfigError(f"{name!r} is neither a DNS name nor an IP address; {allowed}")
    return x509.DNSName(dns)
