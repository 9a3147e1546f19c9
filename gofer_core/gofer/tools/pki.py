"""A directory with authorities and the certificates that they have issued, in PEM files. Needs ``cryptography``.

::

    DIR/ca.pem, ca.key                     the authority of brokers and clients (TLS), and its private key
    DIR/brokers/NAME.pem, NAME.key         for brokers: DNS names and IP addresses
    DIR/clients/NAME.pem, NAME.key         for agents and callers: the CN is the user at the broker
    DIR/clients/NAME.bundle                both in one file
    DIR/signing/ca/ca.pem, signing/ca.key  the authority of those who sign messages (gofer-authenticator-x509)
    DIR/signing/NAME.pem, NAME.key         for signing: the CN is the identity

The two authorities are apart, so that whoever may connect may not sign by that.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from gofer.errors import ConfigError
from gofer.suggest import did_you_mean

__all__ = ["BROKER", "CLIENT", "KEYS", "SIGNING", "Entry", "Exists", "Kind", "Store"]

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

#: The kinds of keys that can be made.
KEYS = ("ec", "rsa2048", "rsa3072", "rsa4096")

_CLOCKS = timedelta(minutes=10)  # that another machine's clock may be behind
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DNS = re.compile(r"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?")


class Exists(ConfigError):
    """A file is there, and nobody has asked to replace it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of certificate: where its files are, whose authority issues it, and what it is for."""

    folder: str
    authority: str
    purpose: ObjectIdentifier


BROKER = Kind("brokers", "ca", ExtendedKeyUsageOID.SERVER_AUTH)
CLIENT = Kind("clients", "ca", ExtendedKeyUsageOID.CLIENT_AUTH)
SIGNING = Kind("signing", "signing/ca", ExtendedKeyUsageOID.CLIENT_AUTH)
_KINDS = (BROKER, CLIENT, SIGNING)


@dataclass(frozen=True, slots=True)
class Entry:
    """A certificate of the directory. ``name``: ``ca``, ``signing/ca``, or ``brokers/NAME`` and the like."""

    name: str
    file: Path
    key: Path
    certificate: x509.Certificate

    @property
    def ends(self) -> datetime:
        """When it ends, in UTC."""
        return self.certificate.not_valid_after_utc

    @property
    def bundle(self) -> Path:
        """The file that holds both, if it was asked for."""
        return _bundle(self.file)

    @property
    def is_rsa(self) -> bool:
        """Whether its key is an RSA key."""
        return isinstance(self.certificate.public_key(), rsa.RSAPublicKey)

    @property
    def holders(self) -> list[str]:
        """The names that it is for: those of hosts, or else its CN."""
        try:
            found = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return [common_name(self.certificate)]
        return [str(one.value) for one in found]

    def days_left(self, now: datetime) -> int:
        """How many whole days are left; negative: it has ended."""
        return (self.ends - now) // timedelta(days=1)


class Store:
    """Makes, renews and lists the certificates of one directory. One process at a time.

    Args:
        folder: the directory; it is made when something is written.

    Raises:
        ConfigError: other users may write to it, or to a directory above it, or it belongs to somebody else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))
        _check_place(self.folder)

    # -- making -------------------------------------------------------------------------------------------------------

    def make_authority(self, name: str, title: str, *, days: int, key: str = "ec", replace: bool = False) -> Entry:
        """Make an authority: ``ca`` or ``signing/ca``.

        Raises:
            Exists: it is there.
            ConfigError: it cannot be made.
        """
        file, key_file = self._files(name)
        private = _new_key(key)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _text(title))])
        now = datetime.now(UTC)
        builder = _builder(subject, subject, private, now, timedelta(days=days))
        builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
        builder = builder.add_extension(_usage(authority=True), critical=True)
        certificate = _sign(builder, private, private)
        self._write_both(file, [certificate], key_file, private, replace=replace)
        return Entry(name, file, key_file, certificate)

    def issue(
        self,
        kind: Kind,
        name: str,
        names: Sequence[str] = (),
        *,
        days: int,
        key: str = "ec",
        bundle: bool = False,
        replace: bool = False,
        starts: datetime | None = None,
    ) -> Entry:
        """Issue a certificate.

        Args:
            name: of a broker: how its files are called; of others: the CN, too.
            names: the DNS names and IP addresses of a broker, the first one being its CN.
            starts: when it begins to be valid; None: now.

        Raises:
            Exists: it is there.
            ConfigError: a name is none, or there is no authority yet.
        """
        _check_name(name)
        if kind is SIGNING and name == "ca":
            raise ConfigError("a signer cannot be called 'ca': that is the authority's file")
        file, key_file = self._files(f"{kind.folder}/{name}")
        self._refuse(file, key_file, replace=replace)
        private = _new_key(key)
        alternatives = [_alternative(one) for one in dict.fromkeys(names)]
        title = str(alternatives[0].value) if alternatives else name
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title[:64])])
        issuer, issuer_key = self._authority(kind.authority)
        builder = _builder(subject, issuer.subject, private, starts or datetime.now(UTC), timedelta(days=days))
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        builder = builder.add_extension(_usage(rsa_server=kind is BROKER and key != "ec"), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([kind.purpose]), critical=False)
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate = _sign(builder, private, issuer_key, issuer)
        self._write_both(file, [certificate], key_file, private, replace=replace)
        if bundle or _bundle(file).exists():
            self._write_bundle(file, certificate, private)
        return Entry(f"{kind.folder}/{name}", file, key_file, certificate)

    def renew(self, entry: Entry, *, days: int | None = None, new_key: bool = False) -> Entry:
        """Issue a certificate again: the same names, with the same key or a new one of its kind, from now on.

        An authority with a new key keeps its old certificate beside the new one, so that what it has issued stays
        valid; it is left out at the next renewal after it has ended.

        Args:
            days: how long it is valid; None: as long as before.
        """
        old = entry.certificate
        old_key = _load_key(entry.key)
        private = _new_key(_kind_of(old_key)) if new_key else old_key
        duration = (
            old.not_valid_after_utc - old.not_valid_before_utc - _CLOCKS if days is None else timedelta(days=days)
        )
        now = datetime.now(UTC)
        authority = next((kind.authority for kind in _KINDS if entry.name.startswith(f"{kind.folder}/")), None)
        is_authority = entry.name in ("ca", "signing/ca")
        issuer, issuer_key = (old, private) if is_authority or authority is None else self._authority(authority)
        builder = _builder(old.subject, issuer.subject, private, now, duration)
        for extension in old.extensions:
            if not isinstance(extension.value, (x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier)):
                builder = builder.add_extension(extension.value, extension.critical)
        certificate = _sign(builder, private, issuer_key, None if is_authority else issuer)
        before = [old, *_certificates(entry.file)[1:]] if is_authority and new_key else []
        if is_authority and not new_key:
            before = _certificates(entry.file)[1:]
        kept = [one for one in before if one.not_valid_after_utc > now]
        self._write_both(entry.file, [certificate, *kept], entry.key, private if new_key else None, replace=True)
        if _bundle(entry.file).exists():
            self._write_bundle(entry.file, certificate, private)
        return Entry(entry.name, entry.file, entry.key, certificate)

    # -- looking ------------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Return all certificates, authorities first.

        Raises:
            ConfigError: one cannot be read.
        """
        return list(self._entries())

    def find(self, name: str) -> Entry:
        """Return a certificate by its name, or by its file.

        Raises:
            ConfigError: there is none.
        """
        known = {entry.name: entry for entry in self._entries()}
        path = Path(os.path.abspath(name))
        found = known.get(name) or next((entry for entry in known.values() if entry.file == path), None)
        if found is None:
            named = [entry for entry in known.values() if entry.name.rpartition("/")[2] == name]
            if len(named) == 1:
                return named[0]
            if named:
                raise ConfigError(f"{name!r} is more than one; write {' or '.join(entry.name for entry in named)}")
            there = ", ".join(known) or "none"
            raise ConfigError(
                f"no certificate {name!r} in {self.folder}{did_you_mean(name, known)}; there are: {there}"
            )
        return found

    def of(self, kind: Kind) -> list[Entry]:
        """Return the certificates of a kind."""
        return [
            entry
            for entry in self._entries()
            if entry.name.startswith(f"{kind.folder}/") and entry.name != "signing/ca"
        ]

    def _entries(self) -> Iterator[Entry]:
        for name in ("ca", "signing/ca"):
            file, key = self._files(name)
            if file.exists():
                yield Entry(name, file, key, _certificates(file)[0])
        for kind in _KINDS:
            for file in sorted((self.folder / kind.folder).glob("*.pem")):
                if not file.name.startswith("."):  # it is being written
                    yield Entry(f"{kind.folder}/{file.stem}", file, file.with_suffix(".key"), _certificates(file)[0])

    # -- files --------------------------------------------------------------------------------------------------------

    def _files(self, name: str) -> tuple[Path, Path]:
        if name == "signing/ca":  # what is in the directory is trusted
            return self.folder / "signing/ca/ca.pem", self.folder / "signing/ca.key"
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _authority(self, name: str) -> tuple[x509.Certificate, Key]:
        file, key = self._files(name)
        if not file.exists():
            raise ConfigError(
                f"there is no authority yet ({file}). Make one first: gofer certs init --dir {self.folder}"
            )
        if not key.exists():
            raise ConfigError(f"the authority's private key {key} is not here. Issue certificates where it is kept")
        return _certificates(file)[0], _load_key(key)

    def _refuse(self, *files: Path, replace: bool) -> None:
        there = next((file for file in files if os.path.lexists(file)), None)
        if there is not None and not replace:
            raise Exists(f"{there} exists and is not overwritten. Allowed: --replace, or gofer certs renew")

    def _write_both(
        self,
        file: Path,
        certificates: Iterable[x509.Certificate],
        key_file: Path,
        private: Key | None,
        *,
        replace: bool,
    ) -> None:
        self._refuse(file, *([] if private is None else [key_file]), replace=replace)
        _make_folder(file.parent)
        if private is not None:
            _write(key_file, _pem(private), 0o600, replace=replace)
        _write(file, b"".join(one.public_bytes(Encoding.PEM) for one in certificates), 0o644, replace=replace)

    def _write_bundle(self, file: Path, certificate: x509.Certificate, private: Key) -> None:
        _write(_bundle(file), certificate.public_bytes(Encoding.PEM) + _pem(private), 0o600, replace=True)


def common_name(certificate: x509.Certificate) -> str:
    """Return the CN of a certificate's subject, or all of the subject."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[-1].value) if names else certificate.subject.rfc4514_string()


def _bundle(file: Path) -> Path:
    return file.with_suffix(".bundle")


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, starts: datetime, duration: timedelta
) -> x509.CertificateBuilder:
    try:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(starts - _CLOCKS)
            .not_valid_after(starts + duration)
        )
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"a certificate cannot be valid for {duration.days} days: {error}") from None


def _sign(
    builder: x509.CertificateBuilder, own: Key, key: Key, issuer: x509.Certificate | None = None
) -> x509.Certificate:
    """Sign, and have it name its own key and the authority's: two authorities may have one name."""
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), critical=False)
    if issuer is not None:
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
        builder = builder.add_extension(identifier, critical=False)
    return builder.sign(key, hashes.SHA256())


def _usage(*, authority: bool = False, rsa_server: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(not authority, False, rsa_server, False, False, authority, authority, False, False)


def _new_key(kind: str) -> Key:
    return ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, int(kind[3:]))


def _kind_of(key: Key) -> str:
    return "ec" if isinstance(key, ec.EllipticCurvePrivateKey) else f"rsa{key.key_size}"


def _pem(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(file: Path) -> Key:
    try:
        found = load_pem_private_key(file.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        # From None: what was read must not be told by anybody's traceback.
        raise ConfigError(f"{file}: holds no private key (PEM) without a passphrase") from None
    if not isinstance(found, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise ConfigError(f"{file}: is neither an EC nor an RSA key")
    return found


def _certificates(file: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{file}: holds no certificate (PEM)") from None


# -- names ------------------------------------------------------------------------------------------------------------


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name) is None:
        allowed = "up to 64 letters, digits, and . _ @ -, the first a letter or a digit"
        raise ConfigError(f"{name!r} cannot be the name of a certificate; allowed: {allowed}")


def _text(title: str) -> str:
    if not title.isprintable() or not 0 < len(title.strip()) <= 64:
        raise ConfigError(
            f"{title[:100]!r} cannot be an authority's name; allowed: up to 64 characters that can be seen"
        )
    return title.strip()


def _alternative(name: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        pass  # a name
    try:
        dns = name.strip().removesuffix(".").encode("idna").decode("ascii").lower()
    except UnicodeError:
        dns = ""
    if _DNS.fullmatch(dns) is None or len(dns) > 253 or dns.replace(".", "").isdigit():
        raise ConfigError(
            f"{name!r} is neither a DNS name nor an IP address; allowed: like broker.example.com or 10.0.0.5"
        )
    return x509.DNSName(dns)


# -- the directory ----------------------------------------------------------------------------------------------------


def _check_place(folder: Path) -> None:
    """Refuse a directory in which others could put their own authority, or read what is written."""
    for place in (folder, *(folder / below for below in ("brokers", "clients", "signing", "signing/ca"))):
        if not os.path.lexists(place):
            continue
        status = os.stat(place)
        if not stat.S_ISDIR(status.st_mode):
            raise ConfigError(f"{place} is not a directory")
        if status.st_uid not in (0, os.geteuid()):
            raise ConfigError(f"{place} belongs to user {status.st_uid}; allowed: root or user {os.geteuid()}")
        if status.st_mode & 0o022:
            mode = f"mode {stat.S_IMODE(status.st_mode):04o}"
            raise ConfigError(f"{place}: {mode} lets other users write there. Fix: chmod go-w {place}")
    for place in folder.parents:
        try:
            status = os.stat(place)
        except OSError:
            continue  # not there yet
        if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
            raise ConfigError(f"{place} is above {folder}, and every user may write there. Fix: chmod o-w {place}")


def _make_folder(folder: Path) -> None:
    """Make a directory, and those above it, that others may not write to, whatever the umask."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        for place in reversed(missing):  # not parents=True, which makes those above with other rights
            place.mkdir(mode=0o755, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}") from None


def _write(file: Path, content: bytes, mode: int, *, replace: bool) -> None:
    """Write a file that is whole or not there, and never over another unless asked to."""
    new = file.with_name(f".{file.name}.{secrets.token_hex(4)}.new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            with open(descriptor, "wb") as out:
                os.fchmod(descriptor, mode)
                out.write(content)
                out.flush()
                os.fsync(descriptor)
            if replace:
                os.replace(new, file)
                return
            os.link(new, file)
        finally:
            new.unlink(missing_ok=True)
    except FileExistsError:
        raise Exists(f"{file} exists and is not overwritten. Allowed: --replace, or gofer certs renew") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}") from None
