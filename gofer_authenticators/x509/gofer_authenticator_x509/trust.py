"""Who is believed: the authorities of a directory, and the lists of what they have revoked."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from gofer.errors import ConfigError
from gofer.messaging.auth import ValidationFailed
from gofer.messaging.keyfiles import files_in, read_public

__all__ = [
    "ANY_PURPOSE", "CLIENT_AUTH", "Key", "Trust", "check_key", "common_name", "load_certificate", "read_purpose",
]  # fmt: skip

Key = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

#: What a certificate must be for, unless another purpose is asked: else every certificate of a web server would sign,
#: where an authority issues these, too.
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
#: No purpose is asked: for authorities that issue to nobody else.
ANY_PURPOSE = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE

#: The extensions that this understands, or that decide nothing here. A critical one of another kind forbids the use.
_UNDERSTOOD = frozenset(
    {
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
        x509.ExtendedKeyUsage.oid,
        x509.SubjectAlternativeName.oid,  # the name that counts is the CN
        x509.SubjectKeyIdentifier.oid,
        x509.AuthorityKeyIdentifier.oid,
    }
)
_MOST_REMEMBERED = 1000


class _Issued(NamedTuple):
    """A certificate that an authority has issued, and what is wanted of it for each signature."""

    certificate: x509.Certificate
    authority: x509.Certificate
    name: str
    key: Key
    valid: tuple[tuple[datetime, datetime, str], ...]  # from when to when, and whose that is


class Trust:
    """Authorities and revocation lists, as they stood in files when this was made. Any thread.

    Every certificate in the directory is trusted to issue others: one that issues for an authority is listed beside it.

    Args:
        ca: a directory with PEM files (``.pem``, ``.crt``), or one such file.
        crl: the same for revocation lists (``.pem``, ``.crl``); None: nothing is revoked.
        purpose: what a certificate must be for (its extendedKeyUsage).

    Raises:
        ConfigError: one cannot be read, others may write to it, or it holds something else.
    """

    def __init__(self, ca: Path, crl: Path | None, purpose: ObjectIdentifier = CLIENT_AUTH) -> None:
        self._purpose = purpose
        self._authorities: dict[bytes, list[x509.Certificate]] = {}
        for path in files_in(ca, (".pem", ".crt")):
            for certificate in _certificates(path):
                self._authorities.setdefault(certificate.subject.public_bytes(), []).append(certificate)
        self._revocations = None if crl is None else list(self._lists(files_in(crl, (".pem", ".crl"))))
        self._issued: dict[bytes, _Issued] = {}

    def holder(self, der: bytes) -> tuple[str, Key]:
        """Return the name and the key of who holds a certificate, if it is to be believed now.

        Raises:
            ValidationFailed: it is none, no authority of ours has issued it, it or that one is not valid at this time,
                it is revoked, or that cannot be told.
        """
        known = self._issued.get(der) or self._remember(der)
        now = datetime.now(UTC)
        for begin, end, what in known.valid:
            if not begin <= now <= end:
                raise ValidationFailed(f"{what} is not valid now")
        if self._revocations is not None:
            self._check_revoked(known.certificate, known.authority, now)
        return known.name, known.key

    def _remember(self, der: bytes) -> _Issued:
        """Check what does not change with time, once for each certificate."""
        try:
            certificate = x509.load_der_x509_certificate(der)
            issuer = certificate.issuer.public_bytes()
            _check_use(certificate, self._purpose)
        except ValidationFailed:
            raise
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
            raise ValidationFailed("it is signed with no certificate that can be read") from None
        for authority in self._authorities.get(issuer, ()):
            if not _is_for(authority, self._purpose, unless_said=True):
                continue
            try:
                certificate.verify_directly_issued_by(authority)
            except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
                continue
            if len(self._issued) >= _MOST_REMEMBERED:
                self._issued.clear()
            valid = tuple(
                (one.not_valid_before_utc, one.not_valid_after_utc, what)
                for one, what in ((certificate, "the certificate"), (authority, "its authority's certificate"))
            )
            name, key = common_name(certificate), check_key(certificate.public_key())
            self._issued[der] = issued = _Issued(certificate, authority, name, key, valid)
            return issued
        raise ValidationFailed("no authority that is trusted, for this purpose, has issued the certificate")

    def _check_revoked(self, certificate: x509.Certificate, authority: x509.Certificate, now: datetime) -> None:
        current = False
        for revocations in self._revocations or ():
            if revocations.issuer != authority.subject:
                continue
            if revocations.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
                raise ValidationFailed("the certificate is revoked")
            ends = revocations.next_update_utc
            current |= revocations.last_update_utc <= now and (ends is None or now <= ends)
        if not current:
            raise ValidationFailed("its authority has no revocation list that is valid now")

    def _lists(self, paths: Iterable[Path]) -> Iterable[x509.CertificateRevocationList]:
        for path in paths:
            pem = read_public(path)
            try:
                found = x509.load_pem_x509_crl(pem)
            except ValueError:
                raise ConfigError(f"{path}: holds no revocation list (PEM)") from None
            unknown = _not_understood(found.extensions)
            if unknown is not None:
                raise ConfigError(f"{path}: the list has a critical extension that is not understood here: {unknown}")
            authorities = self._authorities.get(found.issuer.public_bytes(), ())
            if not any(_signed(found, authority) for authority in authorities):
                raise ConfigError(f"{path}: the list is not signed by an authority that is trusted")
            yield found


def load_certificate(path: Path) -> x509.Certificate:
    """Read the first certificate of a PEM file.

    Raises:
        ConfigError: there is none.
    """
    pem = read_public(path)
    try:
        return x509.load_pem_x509_certificates(pem)[0]
    except ValueError:
        raise ConfigError(f"{path}: holds no certificate (PEM)") from None


def common_name(certificate: x509.Certificate) -> str:
    """Return the one CN of a certificate's subject.

    Raises:
        ValidationFailed: it has none, several, or an empty one, or one that cannot be shown as it is.
    """
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1 or not isinstance(names[0].value, str) or not names[0].value.strip():
        raise ValidationFailed("the certificate's subject has not one CN")
    name = names[0].value
    if not name.isprintable() or name != name.strip():
        # A name stands in logs and is compared: a line break, or what cannot be seen, makes it look like another.
        raise ValidationFailed("the CN of the certificate's subject has control characters, or blanks around it")
    return name


def read_purpose(text: str) -> ObjectIdentifier:
    """Read what certificates must be for: ``clientAuth``, ``any``, or an object identifier.

    Raises:
        ConfigError: it is none of these.
    """
    known = {"clientauth": CLIENT_AUTH, "any": ANY_PURPOSE}
    name = text.strip()
    if name.lower() in known:
        return known[name.lower()]
    try:
        return ObjectIdentifier(name)
    except ValueError:
        allowed = "clientAuth, any, or an object identifier like 1.3.6.1.4.1.99999.1"
        raise ConfigError(f"purpose {name[:100]!r} is none; allowed: {allowed}") from None


def check_key(key: object) -> Key:
    """Return a public key if it is one that signatures are made with: EC, or RSA of 2048 bits or more.

    Raises:
        ValidationFailed: it is another.
    """
    if isinstance(key, ec.EllipticCurvePublicKey) or (isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048):
        return key
    raise ValidationFailed("the certificate's key is neither EC nor RSA of 2048 bits or more")


def _certificates(path: Path) -> list[x509.Certificate]:
    pem = read_public(path)
    try:
        found = x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"{path}: holds no certificate (PEM)") from None
    for certificate in found:
        name = certificate.subject.rfc4514_string()
        try:
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        except (x509.ExtensionNotFound, ValueError):
            raise ConfigError(f"{path}: {name} is no authority's certificate (basicConstraints)") from None
        unknown = _not_understood(certificate.extensions)
        if unknown is not None:
            raise ConfigError(f"{path}: {name} has a critical extension that is not understood here: {unknown}")
        usage = _usage(certificate)
        if not constraints.ca or (usage is not None and not usage.key_cert_sign):
            raise ConfigError(f"{path}: {name} may issue no certificates")
    return found


def _check_use(certificate: x509.Certificate, purpose: ObjectIdentifier) -> None:
    unknown = _not_understood(certificate.extensions)
    if unknown is not None:
        raise ValidationFailed(f"the certificate has a critical extension that is not understood here: {unknown}")
    if not _is_for(certificate, purpose):
        found = ", ".join(one.dotted_string for one in _purposes(certificate)) or "says nothing"
        wanted = "clientAuth" if purpose == CLIENT_AUTH else purpose.dotted_string
        raise ValidationFailed(f"the certificate is not for {wanted} (its extendedKeyUsage: {found})")
    usage = _usage(certificate)
    if usage is not None and not usage.digital_signature:
        raise ValidationFailed("the certificate's key is not for signatures (keyUsage)")
    check_key(certificate.public_key())
    common_name(certificate)


def _is_for(certificate: x509.Certificate, purpose: ObjectIdentifier, *, unless_said: bool = False) -> bool:
    """Tell whether a certificate is for a purpose. ``unless_said``: one that names no purposes is for all."""
    purposes = _purposes(certificate)
    if purpose == ANY_PURPOSE or purpose in purposes:
        return True
    return unless_said and (not purposes or ANY_PURPOSE in purposes)


def _purposes(certificate: x509.Certificate) -> list[ObjectIdentifier]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return []


def _not_understood(extensions: x509.Extensions) -> str | None:
    """Name a critical extension that forbids the use, as it is not understood here; None: there is none."""
    return next((one.oid.dotted_string for one in extensions if one.critical and one.oid not in _UNDERSTOOD), None)


def _usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _signed(revocations: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    key = authority.public_key()
    try:
        return isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey)) and revocations.is_signature_valid(key)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False
