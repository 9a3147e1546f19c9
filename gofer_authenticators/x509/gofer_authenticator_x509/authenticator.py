"""A private key signs, and its certificate travels in the signature; authorities say which ones are believed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from gofer.errors import ConfigError
from gofer.messaging.auth import ValidationFailed
from gofer.messaging.keyfiles import Watched, files_in, read_secret
from gofer.messaging.stamped import MAX_AGE, StampedAuthenticator, read_limits

from gofer_authenticator_x509.trust import Trust, check_key, common_name, load_certificate, read_purpose

__all__ = ["X509Authenticator"]

_HASH = hashes.SHA256()
_PADDING = padding.PSS(padding.MGF1(_HASH), padding.PSS.DIGEST_LENGTH)
_PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class X509Authenticator(StampedAuthenticator):
    """Signs with a private key, and takes what holders of certificates have signed that the authorities issued.

    The subject's CN of a certificate is who has signed. All files are PEM, and read again when they change. Any thread.

    Args:
        certificate: the file of the own certificate.
        key: the file of its private key, EC or RSA, without a password; readable by nobody but its owner (and group).
        ca: the directory, or file, of the authorities that are trusted.
        crl: the directory, or file, of their revocation lists; given, each authority that is used must have one that is
            valid now.
        purpose: what certificates must be for: ``clientAuth``, an object identifier, or ``any``: all certificates of
            the authorities are believed, also those of web servers.
        max_age, peers: see :class:`gofer.messaging.stamped.StampedAuthenticator`.

    Raises:
        ConfigError: a file cannot be used; the text tells nothing of a key.
    """

    scheme = "x509-1"

    def __init__(
        self,
        *,
        certificate: str | Path,
        key: str | Path,
        ca: str | Path,
        crl: str | Path | None = None,
        purpose: str = "clientAuth",
        max_age: float = MAX_AGE,
        peers: Iterable[str] | None = None,
    ) -> None:
        super().__init__(max_age=max_age, peers=peers)
        own, private, authorities = Path(certificate), Path(key), Path(ca)
        revocations = None if crl is None else Path(crl)
        self._own_path, self._authorities = own, authorities
        wanted = read_purpose(purpose)
        self._own = Watched(lambda: _load(own, private), own, private)
        self._trust = Watched(
            lambda: Trust(authorities, revocations, wanted),
            authorities,
            *([] if revocations is None else [revocations]),
        )

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], folder: Path) -> X509Authenticator:
        """Make one of the settings ``certificate``, ``key``, ``ca``, ``crl``, ``purpose``, ``max_age`` and ``peers``.

        Raises:
            ConfigError: one is unknown, missing or wrong.
        """
        limits = read_limits(settings, ["certificate", "key", "ca", "crl", "purpose"], ["certificate", "key", "ca"])
        if settings.get("purpose"):
            limits["purpose"] = str(settings["purpose"])
        certificate, key, ca = (folder / str(settings[name]) for name in ("certificate", "key", "ca"))
        crl = settings.get("crl")
        return cls(certificate=certificate, key=key, ca=ca, crl=folder / str(crl) if crl else None, **limits)

    def certificate_files(self) -> list[Path]:
        """Return the files of its certificate and its authorities': the agent warns before one of them ends.

        Raises:
            ConfigError: the directory of the authorities cannot be used.
        """
        return [self._own_path, *files_in(self._authorities, (".pem", ".crt"))]

    def signer(self) -> bytes:
        """Do as StampedAuthenticator says."""
        return self._own.get()[0]

    def seal(self, data: bytes, key: bytes) -> bytes:
        """Do as StampedAuthenticator says."""
        certificate, private = self._own.get()
        if certificate != key:
            raise ConfigError(f"{self._own_path} was changed at this moment; try again")
        if isinstance(private, rsa.RSAPrivateKey):
            return private.sign(data, _PADDING, _HASH)
        return private.sign(data, ec.ECDSA(_HASH))

    def check(self, key: bytes, data: bytes, seal: bytes) -> str:
        """Do as StampedAuthenticator says."""
        name, public = self._trust.get().holder(key)
        try:
            if isinstance(public, rsa.RSAPublicKey):
                public.verify(seal, data, _PADDING, _HASH)
            else:
                public.verify(seal, data, ec.ECDSA(_HASH))
        except (InvalidSignature, UnsupportedAlgorithm):
            raise ValidationFailed("the signature does not match") from None
        return name

    def __repr__(self) -> str:
        return f"<X509Authenticator of {self._own_path}>"


def _load(certificate: Path, key: Path) -> tuple[bytes, _PrivateKey]:
    """Return the certificate in DER, and its private key.

    Raises:
        ConfigError: one is none, or they do not belong together.
    """
    pem = read_secret(key)
    try:
        private = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # From None: what was read must not be told by anybody's traceback.
        raise ConfigError(f"{key}: holds no private key (PEM) without a password") from None
    found = load_certificate(certificate)
    try:
        public = check_key(found.public_key())
        common_name(found)
    except ValidationFailed as wrong:
        raise ConfigError(f"{certificate}: {wrong}") from None
    if not isinstance(private, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)) or private.public_key() != public:
        raise ConfigError(f"{key}: is not the key of {certificate}")
    return found.public_bytes(Encoding.DER), private
