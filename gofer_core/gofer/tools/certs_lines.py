"""What to put into the configuration of brokers, plugins and callers, so that they use certificates."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gofer.tools.output import filled

__all__ = ["TARGETS", "Files", "lines_for"]

#: What lines can be printed for; each has a template.
TARGETS = ("rabbitmq", "broker-j", "artemis", "descriptor", "x509")


@dataclass(frozen=True, slots=True)
class Files:
    """What the lines name. Paths as they are on the machine that the lines are for.

    ``clients``: the users that the certificates stand for. ``listen``: the broker's only IP address; None: all.
    """

    cacert: Path
    certificate: Path
    key: Path
    host: str
    clients: Sequence[str]
    port: int
    listen: str | None


def lines_for(target: str, files: Files) -> str:
    """Write the lines for one of the targets: text that can be pasted, comments included."""
    values = {"cacert": files.cacert, "certificate": files.certificate, "key": files.key, "port": files.port}
    more = ""
    if target == "rabbitmq":
        at = "ssl.default = " if files.listen is None else f"ssl.1 = {files.listen}:"
        values["listener"] = f"listeners.{at}{files.port}"
        for name in map(shlex.quote, files.clients):
            more += filled("certs/rabbitmq-user", name=name, password=secrets.token_urlsafe(24).replace("-", "x"))
    elif target == "broker-j":
        values["lists"] = json.dumps(_broker_j(files), indent=2)
    elif target == "artemis":
        values["pair"] = files.key.with_suffix(".pemcfg")
        values["listen"] = _bracketed(files.listen or "0.0.0.0")  # noqa: S104 - what the broker's own configuration has
        values["users"] = "\n".join(f"{name}=CN={name}" for name in files.clients) or "# NAME=CN=NAME"
        values["roles"] = ",".join(files.clients) or "NAME"
    elif target == "descriptor":
        values["host"] = _bracketed(files.host)
    return filled(f"certs/{target}", **values) + more


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _broker_j(files: Files) -> dict[str, Any]:
    aliases = [{"name": name, "type": name} for name in ("defaultAlias", "hostnameAlias", "nameAlias")]
    key_store = {"privateKeyUrl": f"file:{files.key}", "certificateUrl": f"file:{files.certificate}"}
    port: dict[str, Any] = {"name": "AMQPS", "type": "AMQP", "port": str(files.port), "transports": ["SSL"]}
    port |= {"authenticationProvider": "certificates", "keyStore": "gofer", "trustStores": ["gofer-ca"]}
    port |= {"needClientAuth": True, "virtualhostaliases": aliases}
    if files.listen is not None:
        port["bindingAddress"] = files.listen
    return {
        "keystores": [{"name": "gofer", "type": "NonJavaKeyStore", **key_store}],
        "truststores": [{"name": "gofer-ca", "type": "NonJavaTrustStore", "certificatesUrl": f"file:{files.cacert}"}],
        "authenticationproviders": [{"name": "certificates", "type": "External", "useFullDN": False}],
        "ports": [port],
    }
