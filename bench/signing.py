"""Keys and certificates for the bench, and the descriptors and callers that sign with them."""

from __future__ import annotations

import os
import subprocess
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gofer.messaging.stamped import StampedAuthenticator
from gofer_authenticator_hmac import HmacAuthenticator
from gofer_authenticator_x509 import X509Authenticator

__all__ = ["Signing"]

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Signing:
    """What agent and caller sign with, by the authenticator's name; both have the same key, which costs as much."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        keys = folder / "keys"
        keys.touch(0o600)
        keys.write_text(f"bench {b64encode(os.urandom(32)).decode()}\n")
        authority, its_key = _issue(folder, "authority")
        own, key = _issue(folder, "bench", "-CA", authority, "-CAkey", its_key)
        files = {"certificate": own, "key": key, "ca": authority}
        self._settings: dict[str, dict[str, Any]] = {"hmac": {"keys": keys}, "x509": files}
        self.makers: dict[str, Callable[[], StampedAuthenticator]] = {
            "hmac": lambda: HmacAuthenticator(keys),
            "x509": lambda: X509Authenticator(**files),
        }

    def descriptor(self, name: str, url: str, queue: str) -> str:
        """Write the descriptor of the bench's plugin at another queue, with this authenticator."""
        settings = "\n".join(f"{key} = {value}" for key, value in self._settings[name].items())
        return (
            f"[main]\nenabled = 1\n[messaging]\nurl = {url}\nauthenticator = {name}\n"
            f"[model]\nqueue = {queue}\n[{name}]\n{settings}\n"
        )


def _issue(folder: Path, name: str, *by: str | Path) -> tuple[Path, Path]:
    """Make a certificate by openssl: an authority's, or one that an authority has issued."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    usage = "digitalSignature" if by else "keyCertSign"
    made = ("-out", certificate, "-keyout", key, "-days", "2", "-subj", f"/CN={name}", "-addext", f"keyUsage={usage}")
    end = ("-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=clientAuth") if by else ()
    command = ("openssl", "req", "-x509", *_CURVE, *made, *end, *by)
    subprocess.run([str(one) for one in command], check=True, capture_output=True, timeout=60)
    key.chmod(0o600)
    certificate.chmod(0o644)
    return certificate, key
