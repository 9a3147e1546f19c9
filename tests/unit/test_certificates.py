"""Reading certificates without the cryptography library: what it says is what that library says."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from gofer.messaging.certificates import Certificate, day, read_certificates, read_file
from hypothesis import given
from hypothesis import strategies as st

_EC = ec.generate_private_key(ec.SECP256R1())
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Seconds since 1970, of the years from 1950 to 9999.
_TIMES = st.integers(
    (datetime(1950, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(seconds=1),
    (datetime(9999, 12, 31, tzinfo=UTC) - _EPOCH) // timedelta(seconds=1),
)
_NAMES = st.text(st.characters(min_codepoint=32, codec="utf-8"), min_size=1, max_size=20)


def certificate(
    subject: list[tuple[x509.ObjectIdentifier, str]],
    starts: datetime,
    ends: datetime,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey = _EC,
    serial: int = 1,
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(oid, value) for oid, value in subject])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an issuer")]))
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(starts)
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("x" * 60 + ".example")]), critical=False)
        .sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    )


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


@given(_TIMES, _TIMES, st.lists(_NAMES, max_size=3), st.integers(1, 2**159 - 1))
def test_times_and_names_are_those_of_the_library(one: int, other: int, names: list[str], serial: int) -> None:
    starts, ends = (_EPOCH + timedelta(seconds=seconds) for seconds in sorted((one, other)))
    subject = [(NameOID.ORGANIZATION_NAME, "gofer"), *[(NameOID.COMMON_NAME, name) for name in names]]
    made = certificate(subject, starts, ends, serial=serial)
    (read,) = read_certificates(pem(made))
    assert read.name == (names[-1] if names else "")
    assert _EPOCH + timedelta(seconds=read.starts) == made.not_valid_before_utc
    assert _EPOCH + timedelta(seconds=read.ends) == made.not_valid_after_utc


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP521R1()),
    ],
)
def test_the_kind_of_key_does_not_matter(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey,
) -> None:
    made = certificate(
        [(NameOID.COMMON_NAME, "web-42")], datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC), key
    )
    assert [(one.name, day(one.ends)) for one in read_certificates(pem(made))] == [("web-42", "2027-01-01")]


def test_all_of_a_file_are_read_and_what_is_between_is_not() -> None:
    starts = datetime(2026, 1, 1, tzinfo=UTC)
    several = [certificate([(NameOID.COMMON_NAME, f"n{n}")], starts, starts + timedelta(days=n)) for n in range(1, 4)]
    text = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    text += b"subject: somebody\n" + pem(several[0]) + b"# between\n" + pem(*several[1:]).replace(b"\n", b"\r\n")
    assert [one.name for one in read_certificates(text)] == ["n1", "n2", "n3"]
    assert read_certificates(b"nothing of the kind") == []


def test_every_damage_is_a_value_error() -> None:
    der = certificate(
        [(NameOID.COMMON_NAME, "x")], datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    ).public_bytes(Encoding.DER)
    good = read_certificates(as_pem(der))
    damaged = [der[:size] for size in range(0, len(der), 3)]
    damaged += [der[:place] + bytes([der[place] ^ 0xFF]) + der[place + 1 :] for place in range(len(der))]
    other = 0
    for one in damaged:
        try:
            read = read_certificates(as_pem(one))
        except ValueError:
            other += 1
        else:
            assert all(isinstance(found, Certificate) for found in read)
            other += read != good
    assert other > 50


def as_pem(der: bytes) -> bytes:
    import base64

    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def test_text_that_is_not_base64_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="certificate 1 is damaged"):
        read_certificates(b"-----BEGIN CERTIFICATE-----\n%%%%\n-----END CERTIFICATE-----\n")


class TestFiles:
    def test_what_is_no_file_is_not_read(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(ValueError, match="no regular file"):
            read_file(tmp_path / "fifo")
        with pytest.raises(ValueError, match="a directory"):
            read_file(tmp_path)
        with pytest.raises(FileNotFoundError):
            read_file(tmp_path / "none")

    def test_a_file_of_a_gigabyte_is_not_read(self, tmp_path: Path) -> None:
        large = tmp_path / "large"
        large.touch()
        os.truncate(large, 1 << 30)
        with pytest.raises(ValueError, match="larger than"):
            read_file(large)
