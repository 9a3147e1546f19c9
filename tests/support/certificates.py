"""Certificates for tests, made by the openssl command."""

from __future__ import annotations

import subprocess
from pathlib import Path


class Certificates:
    """An authority with a server's (localhost, 127.0.0.1) and a client's certificate, and another authority.

    All are PEM files under ``folder``; ``client_both`` holds the client's certificate and its key in one file.
    """

    def __init__(self, folder: Path, client: str = "gofer-client") -> None:
        self._folder = folder
        self.client_name = client
        self.authority, authority_key = self._authority("authority")
        self.other_authority, _ = self._authority("other")
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
        self.server, self.server_key = self._signed("server", "localhost", names, authority_key)
        self.elsewhere, self.elsewhere_key = self._signed(
            "elsewhere", "elsewhere.example", "subjectAltName=DNS:elsewhere.example", authority_key
        )
        self.client, self.client_key = self._signed("client", client, "extendedKeyUsage=clientAuth", authority_key)
        self.client_both = folder / "client-both.pem"
        self.client_both.write_bytes(self.client.read_bytes() + self.client_key.read_bytes())

    def _authority(self, name: str) -> tuple[Path, Path]:
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        self._openssl("req", "-x509", *_new_key(key), "-out", certificate, "-days", "2", "-subj", f"/CN=test {name}")
        return certificate, key

    def _signed(self, name: str, subject: str, extension: str, authority_key: Path) -> tuple[Path, Path]:
        certificate, key, request = (self._folder / f"{name}.{end}" for end in ("pem", "key", "csr"))
        extensions = self._folder / f"{name}.ext"
        extensions.write_text(f"basicConstraints=CA:FALSE\n{extension}\n")
        self._openssl("req", *_new_key(key), "-out", request, "-subj", f"/CN={subject}")
        authority = ("-CA", self.authority, "-CAkey", authority_key, "-CAcreateserial")
        self._openssl(
            "x509", "-req", "-in", request, *authority, "-out", certificate, "-days", "2", "-extfile", extensions
        )
        key.chmod(0o644)  # the broker may run as somebody else
        return certificate, key

    @staticmethod
    def _openssl(*arguments: object) -> None:
        done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def _new_key(path: Path) -> tuple[object, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path)
