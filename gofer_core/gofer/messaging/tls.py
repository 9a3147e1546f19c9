"""TLS: the files of a connector, the handshake, and in plain words why it failed and what to do."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from gofer.errors import AdapterError
from gofer.messaging.certificates import day, read_certificates, read_file
from gofer.messaging.connector import Connector
from gofer.messaging.endings import words
from gofer.messaging.url import place
from gofer.ownership import OTHERS_WRITE, SECRET, refusal

__all__ = ["Session", "explain", "make_context", "shake_hands"]

#: Bytes to read at a time, and of the largest record.
_CHUNK = 256 * 1024
_RECORD = 16 * 1024
#: How TLS records begin, and other protocols' answers.
_TLS = re.compile(rb"[\x14-\x17](\x03|$)")
_FOREIGN = {b"AMQP": "with plain AMQP", b"HTTP": "with HTTP"}

_UNUSED = "no TLS version or cipher is common to both. gofer speaks TLS 1.2 and 1.3: allow one of them at the broker"
#: What OpenSSL's reasons mean, by parts of their names; the first that fits. Alerts are what the peer has sent.
_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "ALERT_PROTOCOL_VERSION": _UNUSED,
        "UNSUPPORTED_PROTOCOL": _UNUSED,
        "VERSION_TOO_LOW": _UNUSED,
        "INSUFFICIENT_SECURITY": _UNUSED,
        "UNRECOGNIZED_NAME": "the broker serves no host of this name. Use a name that it has a certificate for",
        "ALERT_INTERNAL_ERROR": "the broker failed in the handshake. Its log says why",
    }
)
#: Alerts about the certificate that the client has shown, or has not.
_REFUSALS: Mapping[str, str] = MappingProxyType(
    {
        "UNKNOWN_CA": "it does not know the authority that issued it. Give the broker that authority's certificate",
        "CERTIFICATE_EXPIRED": "it is not valid at the time of the broker. Renew it, or correct the broker's clock",
        "CERTIFICATE_REVOKED": "it is revoked. Use another one",
        "UNSUPPORTED_CERTIFICATE": "it is not for clients (extendedKeyUsage clientAuth), or of a kind it does not know",
        "BAD_CERTIFICATE": "it does not verify there. The broker's log says why",
        "CERTIFICATE_UNKNOWN": "it does not verify there. The broker's log says why",
        "ACCESS_DENIED": "it may not connect. The broker's log says why",
        "DECRYPT_ERROR": "its signature does not verify there. The broker's log says why",
        "HANDSHAKE_FAILURE": "the broker's log says why; or no TLS version or cipher is common to both",
    }
)


def make_context(connector: Connector) -> ssl.SSLContext:
    """Read the TLS files of a connector, as they are now.

    Raises:
        AdapterError: a file is missing, unreadable, not PEM, or open to other users; or two do not belong together. The
            text names the option and the file, and says what to do.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = connector.host_validation
    if connector.cacert is None:
        context.load_default_certs()
    else:
        _read("cacert", connector.cacert)
        try:
            context.load_verify_locations(connector.cacert)
        except (ssl.SSLError, OSError) as error:
            raise AdapterError(
                f"cacert {connector.cacert} has no PEM certificate ({words(error)}). Allowed: a file with the"
                " certificates of the authorities that are trusted, each from BEGIN CERTIFICATE to END CERTIFICATE"
            ) from error
    if connector.clientcert is not None:
        _load_own(context, connector.clientcert, connector.clientkey)
    elif connector.clientkey is not None:
        raise AdapterError(
            f"clientkey {connector.clientkey} is given without a clientcert. Allowed: both, or a clientcert alone that"
            " holds the key"
        )
    return context


def _load_own(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    """Load the certificate that the broker is shown, and its private key."""
    pem = _read("clientcert", cert)
    option, file, content = "clientcert", cert, pem
    if key is not None:
        option, file, content = "clientkey", key, _read("clientkey", key)
    if b"-BEGIN CERTIFICATE-" not in pem and b"-BEGIN TRUSTED CERTIFICATE-" not in pem:
        raise AdapterError(f"clientcert {cert} has no PEM certificate (BEGIN CERTIFICATE)")
    if b"PRIVATE KEY-" not in content:
        fix = "Set clientkey, or append the key to the file" if key is None else "Allowed: a PEM file with the key"
        raise AdapterError(f"{option} {file} has no private key (BEGIN PRIVATE KEY). {fix}")
    if b"ENCRYPTED" in content:
        raise AdapterError(
            f"the key in {option} {file} is encrypted, and gofer has no passphrase for it. Store it without one, for"
            f" its owner alone: (umask 077; openssl pkey -in {file} -out NEW)"
        )
    try:
        # Without a password at hand OpenSSL would ask for one on the terminal.
        context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, OSError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            text = f"the key in {option} {file} is not that of the certificate in clientcert {cert}"
            raise AdapterError(f"{text}. Allowed: the two that were made together") from error
        beside = "" if key is None else f" with clientkey {key}"
        text = f"clientcert {cert}{beside} is not a PEM certificate and its unencrypted key"
        raise AdapterError(f"{text}: {words(error)}") from error


def _read(option: str, path: str) -> bytes:
    """Read a file that decides who is believed, or that proves who we are."""
    try:
        content, status = read_file(path)
    except ValueError as error:
        raise AdapterError(f"{option} {path} {error}. Allowed: one PEM file".replace("\0", "\\0")) from error
    except OSError as error:
        fix = f". User {os.geteuid()}, who runs this process, must be allowed to" if error.errno == errno.EACCES else ""
        raise AdapterError(f"{option} {path} cannot be read: {words(error)}{fix}") from error
    secret = b"PRIVATE KEY-" in content
    if reason := refusal(Path(path), status, SECRET if secret else OTHERS_WRITE, owned=secret):
        raise AdapterError(f"{option} {path}{' has a private key' if secret else ''}: {reason}")
    return content


class Session:
    """TLS on one connection: bytes in, bytes out. The socket is somebody else's.

    Not ``ssl.SSLSocket``: that reads by itself, and once for each record, so it could not show what a peer has answered
    that speaks no TLS.
    """

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        """``name``: of the host, as its certificate should have it."""
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        #: The first bytes of the peer's answer.
        self.answer = b""
        #: Why the peer's side has ended, after all that came before was decrypted.
        self.ended: OSError | None = None

    def shake_hands(self, sock: socket.socket, deadline: float) -> None:
        """Do the handshake on a blocking socket."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                sock.settimeout(max(deadline - time.monotonic(), 0.001))
                sock.sendall(self._outgoing.read())
                data = sock.recv(_CHUNK)
                if not data:
                    raise ConnectionResetError(errno.ECONNRESET, "closed by the peer") from None
                self.answer = self.answer or data[:8]
                self._incoming.write(data)
            except OSError:
                with suppress(OSError):  # the alert that says why we refuse: the peer can log it
                    sock.sendall(self._outgoing.read())
                raise
            else:
                sock.sendall(self._outgoing.read())
                return

    def decrypt(self, data: bytes) -> bytes:
        """Return what comes with these bytes from the socket.

        Raises:
            OSError: the connection has ended. After bytes that are whole it is noted as ``ended`` instead.
        """
        self._incoming.write(data)
        records: list[bytes] = []
        try:
            while record := self._tls.read(_RECORD):
                records.append(record)
            self.ended = ConnectionResetError("closed by the peer")
        except ssl.SSLWantReadError:
            pass
        except OSError as error:
            if not records:
                raise
            self.ended = error
        return b"".join(records)

    def encrypt(self, data: bytes) -> bytes:
        """Return what to write to the socket for these bytes."""
        if data:
            self._tls.write(data)
        return self._outgoing.read()


def shake_hands(
    sock: socket.socket, context: ssl.SSLContext, connector: Connector, at: tuple[str, int], deadline: float
) -> Session:
    """Shake hands with a peer on a connected socket that blocks.

    Args:
        at: the host that was meant, and its port: a proxy may stand between.
        deadline: the ``time.monotonic()`` by which all of it has to be done.

    Raises:
        AdapterError: it cannot be: the text says why and what to do.
        OSError: the peer hung up or fell silent; the text says whether it had answered.
    """
    host, port = at
    where = place(host, port)

    def step() -> str:
        if session.answer:
            return "in the middle of its answer"
        hint = f"Does port {port} speak TLS? Brokers have usually 5671 for TLS, and 5672 without"
        return f"before it answered the greeting (ClientHello). {hint}"

    try:
        session = Session(context, _name(host))
    except UnicodeError as error:
        raise AdapterError(f"{where}: not a host's name: {error}") from error
    try:
        session.shake_hands(sock, deadline)
    except TimeoutError:
        raise TimeoutError(f"the TLS handshake stopped {step()}") from None
    except ssl.SSLCertVerificationError as error:
        raise AdapterError(f"{where}: {_distrust(error, connector, host)}") from error
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError) as error:
        text = f"the peer closed the connection in the TLS handshake, {step()}"
        raise ConnectionResetError(errno.ECONNRESET, text) from error
    except ssl.SSLError as error:
        answer = session.answer
        if _TLS.match(answer):
            raise AdapterError(f"{where}: the TLS handshake failed: {explain(error, connector)}") from error
        known = (text for start, text in _FOREIGN.items() if answer.startswith(start))
        text = f"the peer speaks no TLS on port {port}: it answers {next(known, repr(answer))}"
        fix = "Use the broker's port for TLS (usually 5671), or a URL without TLS (amqp://)"
        raise AdapterError(f"{where}: {text}. {fix}") from error
    return session


def explain(error: OSError, connector: Connector) -> str:
    """Say why a connection failed or ended: what the peer's alert means, which file it is about, and what to do.

    With TLS 1.3 a peer refuses a client certificate only after the handshake: the first read fails.
    """
    reason = getattr(error, "reason", None)
    if not isinstance(reason, str):
        return words(error)
    told = reason.lower().replace("_", " ")
    if "CERTIFICATE_REQUIRED" in reason:
        given = "" if connector.clientcert is None else f", and took none of {connector.clientcert}"
        return f"the broker asks for a client certificate{given}. Set clientcert and clientkey ({told})"
    for part, meaning in _REASONS.items():
        if part in reason:
            return f"{meaning} ({told})"
    for part, meaning in _REFUSALS.items():
        if "ALERT" in reason and part in reason:
            if connector.clientcert is None:
                other = f", or {_UNUSED}" if part == "HANDSHAKE_FAILURE" else ""
                return f"perhaps the broker asks for a client certificate: set clientcert and clientkey{other} ({told})"
            refused = f"{connector.clientcert}{_dates(connector.clientcert)}"
            return f"the broker refuses clientcert {refused}: {meaning} ({told})"
    return told


def _dates(path: str) -> str:
    """Say when a certificate is valid, if it is not now."""
    try:
        first = next(iter(read_certificates(read_file(path)[0])), None)
    except (OSError, ValueError):
        return ""
    now = time.time()
    if first is None or first.starts <= now <= first.ends:
        return ""
    return f" (valid from {day(first.starts)} to {day(first.ends)})"


def _distrust(error: ssl.SSLCertVerificationError, connector: Connector, host: str) -> str:
    """Say why the broker's certificate is not believed."""
    code, fix = error.verify_code, ""
    clock = f"This machine's clock says {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if code == 10:  # X509_V_ERR_CERT_HAS_EXPIRED
        fix = f". Renew it at the broker. {clock}"
    elif code == 9:  # X509_V_ERR_CERT_NOT_YET_VALID
        fix = f". {clock}: correct the clock that is wrong, here or where it was issued"
    elif code in (62, 64):  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
        name = f"{'IP' if code == 64 else 'DNS'}:{_name(host)} (subjectAltName)"
        fix = (
            f". Connect by a name that the certificate has, or have it issued for {name}."
            " With host_validation = 0 every certificate of the authority counts"
        )
    elif code in (2, 18, 19, 20, 21) and connector.cacert is None:  # the chain does not end at a trusted authority
        fix = ". No authority of this system has issued it: set cacert to the file of the one that has"
    elif code in (2, 18, 19, 20, 21):
        fix = (
            f". No authority in cacert {connector.cacert} has issued it: add the one that has"
            " (and have the broker send what lies between)"
        )
    return f"the broker's certificate does not verify: {error.verify_message}{fix}"


def _name(host: str) -> str:
    """Return a host's name as certificates have it: without the final dot, or the scope of an address."""
    return host.partition("%")[0] if ":" in host else host.removesuffix(".")
