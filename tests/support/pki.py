"""Certificates for the x509 authenticator, and all that can be wrong with them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

__all__ = ["CLIENT", "CODE", "OWN", "SERVER", "Authority", "Holder", "Key", "new_key"]

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
CODE, OWN = ExtendedKeyUsageOID.CODE_SIGNING, ObjectIdentifier("1.3.6.1.4.1.99999.7")

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_DAY = timedelta(days=1)


def new_key(kind: str = "ec") -> Key:
    if kind == "ec":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))


class Holder:
    """A certificate and its key, in files."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.certificate = certificate
        self.key = key


class Authority:
    """An authority: its own certificate is in ``folder/ca``, what it issues beside that, its list in ``crl``."""

    def __init__(
        self,
        folder: Path,
        name: str = "gofer CA",
        *,
        ca: bool = True,
        purposes: tuple[ObjectIdentifier, ...] = (),
        more: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    ) -> None:
        self.folder = folder
        self.ca = folder / "ca"
        self.crl = folder / "crl.pem"
        self.ca.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._key = new_key()
        self._name = _subject(name)
        self._revoked: list[int] = []
        self.certificate = self._sign(self._name, self._key, ca=ca, purposes=purposes, more=more)
        _write(self.ca / f"{name.replace(' ', '-')}.pem", self.certificate.public_bytes(Encoding.PEM))

    def issue(
        self,
        name: str,
        *,
        kind: str = "ec",
        days: tuple[int, int] = (-1, 2),
        sign: bool = True,
        names: int = 1,
        file: str | None = None,
        purposes: tuple[ObjectIdentifier, ...] = (CLIENT,),
        more: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    ) -> Holder:
        """Issue a certificate to somebody, valid from and to so many days from now."""
        key = new_key(kind)
        certificate = self._sign(_subject(name, names), key, days=days, sign=sign, purposes=purposes, more=more)
        file = file or name
        holder = Holder(self.folder / f"{file}.pem", self.folder / f"{file}.key")
        _write(holder.certificate, certificate.public_bytes(Encoding.PEM))
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        _write(holder.key, pem, 0o600)
        return holder

    def revoke(self, *holders: Holder, days: tuple[int, int] = (-1, 2)) -> Path:
        """Write the list of what is revoked by now."""
        for holder in holders:
            self._revoked.append(x509.load_pem_x509_certificate(holder.certificate.read_bytes()).serial_number)
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(now + days[0] * _DAY)
            .next_update(now + days[1] * _DAY)
        )
        for serial in self._revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            )
        _write(self.crl, builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return self.crl

    def _sign(
        self,
        subject: x509.Name,
        key: Key,
        *,
        ca: bool = False,
        days: tuple[int, int] = (-1, 2),
        sign: bool = True,
        purposes: tuple[ObjectIdentifier, ...] = (),
        more: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * _DAY)
            .not_valid_after(now + days[1] * _DAY)
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(
                x509.KeyUsage(sign, False, not sign, False, False, ca, ca, False, False),
                critical=True,
            )
        )
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        for extension, critical in more:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())


def _subject(name: str, times: int = 1) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "gofer"),
            *[x509.NameAttribute(NameOID.COMMON_NAME, name)] * times,
        ]
        if times < 2
        else [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{name}-too"),
        ]
    )


def _write(path: Path, data: bytes, mode: int = 0o644) -> None:
    new = path.with_name(f".{path.name}.new")  # whole, or not there: it may be read at this moment
    new.touch(mode)
    new.chmod(mode)
    new.write_bytes(data)
    new.replace(path)
