"""Qpid Broker-J: speaks AMQP 0-8, 0-9, 0-9-1, 0-10 and 1.0 on one port."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key, pkcs12

from support.brokers.server import BrokerError, Server, ServerTLS, ask_management, java_tool, made_by
from support.ports import free_port

__all__ = ["BrokerJ"]

_SECRET = "changeit"
_ALIASES = [{"name": kind, "type": kind} for kind in ("nameAlias", "defaultAlias", "hostnameAlias")]


class BrokerJ(Server):
    """One Broker-J. Durable queues and persistent messages outlive a restart: a JSON store and Derby.

    ``anonymous_port`` asks for no login (SASL ANONYMOUS only).

    Args:
        base_dir: a directory of its own, made if it is missing.
        tls: the files to listen for TLS with, on ``tls_port`` and ``external_port``.
        management: serve the REST API that ``api`` asks, too; half a second slower to start.
        context: more of Broker-J's context variables, by their names (``qpid.…``).
        home: the directory with its Java archives. None: what the environment variable ``GOFER_BROKERJ`` names.
    """

    name = "Broker-J"

    def __init__(
        self,
        base_dir: str | os.PathLike[str],
        *,
        tls: ServerTLS | None = None,
        management: bool = False,
        context: dict[str, str] | None = None,
        home: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(base_dir, tls=tls)
        self.management = management
        self.anonymous_port, self.management_port = free_port(), free_port()
        self._context = context or {}
        self._home = made_by("brokerj", "GOFER_BROKERJ", home)

    def command(self) -> list[str]:
        """Return the command that runs it."""
        properties = {"qpid.work_dir": self.base_dir / "work", **self._context}
        return [
            java_tool("java"),
            "-Xmx400m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",  # it starts in half the time, and the processors stay free for the tests
            "-cp",
            f"{self._home}/*",
            "org.apache.qpid.server.Main",
            *("-st", "Memory"),  # ports and users come from the file at each start
            *("-icp", str(self.base_dir / "config.json")),
            *[word for key, value in properties.items() for word in ("-prop", f"{key}={value}")],
        ]

    def ports(self) -> tuple[int, ...]:
        """Return the ports that must be served."""
        more = (self.management_port,) if self.management else ()
        return (*super().ports(), self.anonymous_port, *more)

    def serving(self, log: str) -> bool:
        """Tell whether its virtual host is open: the ports answer, and refuse logins, before that."""
        return "VHT-1011" in log and "BRK-1004" in log

    def write_files(self) -> None:
        """Write its configuration."""
        (self.base_dir / "config.json").write_text(json.dumps(self._configuration(), indent=1))

    def api(self, method: str, path: str, body: object = None, timeout: float = 10.0) -> Any:
        """Ask the REST API, as ``ask_management`` does: ``api("GET", "/queue/default/default")``."""
        if not self.management:
            raise BrokerError("this Broker-J was made without management=True")
        return ask_management(f"http://{self.host}:{self.management_port}/api/latest", method, path, body, timeout)

    def queues(self) -> list[dict[str, Any]]:
        """Return the queues, as the REST API shows them. Needs ``management``."""
        return list(self.api("GET", "/queue/default/default"))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _configuration(self) -> dict[str, Any]:
        ports = [self._port("AMQP", self.port, "plain"), self._port("ANONYMOUS", self.anonymous_port, "anonymous")]
        providers: list[dict[str, Any]] = [
            {
                "name": "plain",
                "type": "Plain",
                "secureOnlyMechanisms": [],
                "users": [{"name": "guest", "type": "managed", "password": "guest"}],
            },
            {"name": "anonymous", "type": "Anonymous"},
        ]
        stores: dict[str, Any] = {}
        if self.tls is not None:
            secure = {"transports": ["SSL"], "keyStore": "server", "trustStores": ["clients"]}
            ports.append(self._port("TLS", self.tls_port, "plain") | secure | {"wantClientAuth": True})
            ports.append(self._port("EXTERNAL", self.external_port, "external") | secure | {"needClientAuth": True})
            providers.append({"name": "external", "type": "External"})
            stores["keystores"] = [
                {
                    "name": "server",
                    "type": "FileKeyStore",
                    "keyStoreType": "PKCS12",
                    "storeUrl": str(pkcs12_of(self.tls, self.base_dir / "server.p12", _SECRET)),
                    "password": _SECRET,
                }
            ]
            stores["truststores"] = [
                {"name": "clients", "type": "NonJavaTrustStore", "certificatesUrl": str(self.tls.authority)}
            ]
        if self.management:
            stores["plugins"] = [
                {"name": "rest", "type": "MANAGEMENT-HTTP", "httpBasicAuthenticationEnabled": True},
            ]
            ports.append(
                {
                    "name": "HTTP",
                    "type": "HTTP",
                    "port": str(self.management_port),
                    "bindingAddress": self.host,
                    "authenticationProvider": "plain",
                    "protocols": ["HTTP"],
                }
            )
        return {
            "name": "gofer-test",
            "modelVersion": "9.0",
            "authenticationproviders": providers,
            "brokerloggers": [
                {
                    "name": "console",
                    "type": "Console",
                    "brokerloginclusionrules": [
                        {"name": "Root", "type": "NameAndLevel", "level": "WARN", "loggerName": "ROOT"},
                        {"name": "Ops", "type": "NameAndLevel", "level": "INFO", "loggerName": "qpid.message.*"},
                    ],
                }
            ],
            "ports": ports,
            "virtualhostnodes": [
                {
                    "name": "default",
                    "type": "JSON",
                    "defaultVirtualHostNode": "true",
                    "virtualHostInitialConfiguration": json.dumps({"type": "DERBY"}),
                }
            ],
            **stores,
        }

    def _port(self, name: str, number: int, provider: str) -> dict[str, Any]:
        return {
            "name": name,
            "type": "AMQP",
            "port": str(number),
            "bindingAddress": self.host,
            "authenticationProvider": provider,
            "virtualhostaliases": _ALIASES,
        }


def pkcs12_of(tls: ServerTLS, path: Path, password: str) -> Path:
    """Write the certificate and its key as the PKCS #12 file that Java reads, and return its path."""
    first, *chain = x509.load_pem_x509_certificates(tls.certificate.read_bytes())
    key = load_pem_private_key(tls.key.read_bytes(), None)
    path.write_bytes(
        pkcs12.serialize_key_and_certificates(
            b"server",
            key,  # type: ignore[arg-type] # whatever kind a certificate can have
            first,
            chain,
            BestAvailableEncryption(password.encode()),
        )
    )
    return path
