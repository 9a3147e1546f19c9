"""TLS: the files of a connector, the handshake, and in plain words why it failed and what to do."""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from gofer.errors import AdapterError
from gofer.messaging.certificates import day, read_certificates, read_file
from gofer.messaging.connector import Connector
from gofer.messaging.handshake import Progress, Stalled
from gofer.messaging.url import place

if TYPE_CHECKING:
    import ssl

__all__ = ["SecureSocket", "explain", "make_context", "shake_hands"]

#: Bytes to read at a time.
_CHUNK = 256 * 1024
#: Bytes of the largest record.
_RECORD = 16 * 1024
#: Bytes to encrypt at a time: what is encrypted is soon sent, and its memory used again.
_PIECE = 64 * 1024

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
    import ssl

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
                f"cacert {connector.cacert} has no PEM certificate ({_system(error)}). Allowed: a file with the"
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
    import ssl

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
        raise AdapterError(f"{text}: {_system(error)}") from error


def _read(option: str, path: str) -> bytes:
    """Read a file that decides who is believed, or that proves who we are."""
    try:
        content, status = read_file(path)
    except ValueError as error:
        if "\0" in path:
            raise AdapterError(f"{option} {path!r} has a NUL character in it. Allowed: the path of a file") from error
        raise AdapterError(f"{option} {path} {error}. Allowed: one PEM file") from error
    except OSError as error:
        fix = f". User {os.geteuid()}, who runs this process, must be allowed to" if error.errno == errno.EACCES else ""
        raise AdapterError(f"{option} {path} cannot be read: {_system(error)}{fix}") from error
    secret = b"PRIVATE KEY-" in content
    mode = stat.S_IMODE(status.st_mode)
    if secret and mode & 0o037:
        text = f"{option} {path} holds a private key, and its mode {mode:04o} lets other users read or change it"
        raise AdapterError(f"{text}. Fix: chmod 600 {path}")
    if mode & 0o022:
        text = f"{option} {path}: its mode {mode:04o} lets other users change it"
        raise AdapterError(f"{text}. Fix: chmod go-w {path}")
    if secret and status.st_uid not in (0, os.geteuid()):
        text = f"{option} {path} holds a private key and belongs to user {status.st_uid}"
        raise AdapterError(f"{text}. Allowed: root or user {os.geteuid()}, who runs this process")
    return content


class SecureSocket:
    """A connected socket that speaks TLS, and blocks only where its socket does. One thread at a time.

    Not ``ssl.SSLSocket``: that reads by itself, so it could not say how far a peer came in the handshake; and it reads
    the socket once for each record, of 16 KiB at most.
    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        """Own a socket. ``name``: of the host, as its certificate should have it."""
        import ssl

        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._want_read = ssl.SSLWantReadError
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._left = bytearray()  # encrypted, and not yet taken by the socket

    def shake_hands(self, deadline: float, progress: Progress) -> None:
        """Do the handshake, on a socket that does not block; ``progress`` hears all that the peer sends.

        Raises:
            Stalled: it was not done by the deadline; the text is empty.
            OSError: the peer has hung up, or refuses, or cannot be believed.
        """
        done = False
        while not done:
            try:
                self._tls.do_handshake()
                done = True
            except self._want_read:
                pass
            except OSError:
                self._give_reason()
                raise
            while not self.flush():
                _wait(self._sock, select.POLLOUT, deadline)
            if not done:
                _wait(self._sock, select.POLLIN, deadline)
                data = self._sock.recv(_CHUNK)
                if not data:
                    raise ConnectionResetError(errno.ECONNRESET, "closed by the peer")
                progress.feed(data)
                self._incoming.write(data)

    def _give_reason(self) -> None:
        """Send the alert that says why we refuse: the peer can log it."""
        try:
            self.flush()
        except OSError:
            pass  # it has gone; what is wrong is raised

    @property
    def pending(self) -> bool:
        """Whether there may be something to read that the descriptor does not show."""
        return self._incoming.pending > 0 or self._tls.pending() > 0

    def recv(self, size: int) -> bytes:
        """Read at most so many bytes, and at most one record; b"": the peer has closed the connection.

        Raises:
            BlockingIOError: there is nothing for now.
            OSError: the connection has ended.
        """
        while True:
            if self.pending:
                try:
                    return self._tls.read(min(size, _RECORD))
                except self._want_read:
                    self._answer()
            data = self._sock.recv(_CHUNK)
            if not data:
                return b""
            self._incoming.write(data)

    def _answer(self) -> None:
        """Write what TLS itself answers to what it has read."""
        if self._outgoing.pending:
            try:
                self.flush()
            except OSError:
                pass  # what the peer has sent before it went may say why

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Take some of the data; return how many bytes. What the socket does not take is ``unsent``.

        Raises:
            BlockingIOError: it takes no more for now.
            OSError: the connection has ended.
        """
        if self._left and not self.flush():
            raise BlockingIOError(errno.EAGAIN, "the socket takes no more")
        sent = self._tls.write(data if len(data) <= _PIECE else memoryview(data)[:_PIECE])
        self.flush()
        return sent

    @property
    def unsent(self) -> int:
        """How many encrypted bytes the socket has not taken."""
        return len(self._left)

    def flush(self) -> bool:
        """Write what is encrypted; return whether the socket has taken all of it."""
        left = self._left
        if self._outgoing.pending:
            data = self._outgoing.read()
            if not left:
                try:
                    sent = self._sock.send(data)
                except BlockingIOError:
                    sent = 0
                if sent == len(data):
                    return True
                data = data[sent:]
            left += data
        while left:
            try:
                sent = self._sock.send(left)
            except BlockingIOError:
                return False
            del left[:sent]
        return True

    def fileno(self) -> int:
        """Return what to wait on; -1 when closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Give back the descriptor, without a word to the peer. Idempotent."""
        self._sock.close()

    def settimeout(self, seconds: float | None) -> None:
        """Let ``recv`` wait so long; 0: it never does."""
        self._sock.settimeout(seconds)

    def getblocking(self) -> bool:
        """Whether ``recv`` waits."""
        return self._sock.getblocking()

    def getpeername(self) -> tuple[str, int]:
        """Return the address and the port of the peer."""
        address: tuple[str, int] = self._sock.getpeername()
        return address

    def __enter__(self) -> SecureSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def shake_hands(
    sock: socket.socket, context: ssl.SSLContext, connector: Connector, at: tuple[str, int], deadline: float
) -> SecureSocket:
    """Shake hands with a peer on a connected socket.

    Args:
        at: the host that was meant, and its port.
        deadline: the ``time.monotonic()`` by which all of it has to be done.

    Returns:
        The socket that speaks TLS, non-blocking; it owns the other one.

    Raises:
        AdapterError: it cannot be: the text says why and what to do.
        OSError: the peer hung up or fell silent; the text says at which step.
    """
    import ssl

    host, port = at
    where = place(host, port)
    progress = Progress()
    sock.setblocking(False)
    try:
        secure = SecureSocket(sock, context, _name(host))
        secure.shake_hands(deadline, progress)
    except UnicodeError as error:
        raise AdapterError(f"{where}: not a host's name: {error}") from error
    except Stalled:
        raise Stalled(f"the TLS handshake stopped {progress.step(port)}") from None
    except ssl.SSLCertVerificationError as error:
        raise AdapterError(f"{where}: {_distrust(error, connector, host)}") from error
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError) as error:
        text = f"the peer closed the connection in the TLS handshake, {progress.step(port)}"
        raise ConnectionResetError(errno.ECONNRESET, text) from error
    except ssl.SSLError as error:
        foreign = progress.foreign
        if foreign is not None:
            text = f"the peer speaks no TLS on port {port}: {foreign}"
            fix = "Use the broker's port for TLS (usually 5671), or a URL without TLS (amqp://)"
            raise AdapterError(f"{where}: {text}. {fix}") from error
        raise AdapterError(f"{where}: the TLS handshake failed: {explain(error, connector)}") from error
    return secure


def explain(error: OSError, connector: Connector) -> str:
    """Say why a connection failed or ended: what the peer's alert means, which file it is about, and what to do.

    With TLS 1.3 a peer refuses a client certificate only after the handshake: the first read fails.
    """
    reason = getattr(error, "reason", None)
    if not isinstance(reason, str):
        return _system(error)
    told = f" ({reason.lower().replace('_', ' ')})"
    if "CERTIFICATE_REQUIRED" in reason:
        given = "" if connector.clientcert is None else f", and took none of {connector.clientcert}"
        return f"the broker asks for a client certificate{given}. Set clientcert and clientkey{told}"
    for part, meaning in _REASONS.items():
        if part in reason:
            return f"{meaning}{told}"
    for part, meaning in _REFUSALS.items():
        if "ALERT" in reason and part in reason:
            if connector.clientcert is None:
                other = f", or {_UNUSED}" if part == "HANDSHAKE_FAILURE" else ""
                return f"perhaps the broker asks for a client certificate: set clientcert and clientkey{other}{told}"
            return (
                f"the broker refuses clientcert {connector.clientcert}{_dates(connector.clientcert)}: {meaning}{told}"
            )
    return f"{reason.lower().replace('_', ' ')}"


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
    said = error.verify_message
    text = f"the broker's certificate does not verify: {said}"
    code = error.verify_code
    clock = f"This machine's clock says {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if code == 10:  # X509_V_ERR_CERT_HAS_EXPIRED
        return f"{text}. Renew it at the broker. {clock}"
    if code == 9:  # X509_V_ERR_CERT_NOT_YET_VALID
        return f"{text}. {clock}: correct the clock that is wrong, here or where it was issued"
    if code in (62, 64):  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
        kind = "IP" if code == 64 else "DNS"
        return (
            f"{text}. Connect by a name that the certificate has, or have it issued for {kind}:{_name(host)}"
            f" (subjectAltName). With host_validation = 0 every certificate of the authority counts"
        )
    if code in (2, 18, 19, 20, 21):  # the chain does not end at an authority that is trusted
        if connector.cacert is None:
            return f"{text}. No authority of this system has issued it: set cacert to the file of the one that has"
        return (
            f"{text}. No authority in cacert {connector.cacert} has issued it: add the one that has"
            " (and have the broker send what lies between)"
        )
    return text


def _name(host: str) -> str:
    """Return a host's name as certificates have it: without the final dot, or the scope of an address."""
    return host.partition("%")[0] if ":" in host else host.removesuffix(".")


def _wait(sock: socket.socket, event: int, deadline: float) -> None:
    """Wait until a socket is ready, at most to the deadline."""
    poll = select.poll()
    poll.register(sock, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise Stalled


def _system(error: Exception) -> str:
    """The system's words for an error, without the number."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
