"""What to put into the configuration of brokers, plugins and callers, so that they use certificates."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

__all__ = ["TARGETS", "Files"]


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


def _rabbitmq(files: Files) -> str:
    listener = f"listeners.ssl.default = {files.port}"
    if files.listen is not None:
        listener = f"listeners.ssl.1 = {files.listen}:{files.port}"
    users = "".join(
        f"rabbitmqctl add_user {shlex.quote(name)} {secrets.token_urlsafe(24).replace('-', 'x')}\n"
        f"rabbitmqctl clear_password {shlex.quote(name)}\n"
        f"rabbitmqctl set_permissions -p / {shlex.quote(name)} '.*' '.*' '.*'\n"
        for name in files.clients
    )
    return f"""\
# RabbitMQ: /etc/rabbitmq/rabbitmq.conf. The user rabbitmq must be able to read the key, and nobody else.
{listener}
ssl_options.cacertfile = {files.cacert}
ssl_options.certfile = {files.certificate}
ssl_options.keyfile = {files.key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = true
auth_mechanisms.1 = EXTERNAL
auth_mechanisms.2 = PLAIN
ssl_cert_login_from = common_name

# Then type, as root. A certificate's CN is a user, who needs no password.
rabbitmq-plugins enable rabbitmq_auth_mechanism_ssl
{users}"""


def _broker_j(files: Files) -> str:
    aliases = [{"name": name, "type": name} for name in ("defaultAlias", "hostnameAlias", "nameAlias")]
    key_store = {"privateKeyUrl": f"file:{files.key}", "certificateUrl": f"file:{files.certificate}"}
    port: dict[str, Any] = {"name": "AMQPS", "type": "AMQP", "port": str(files.port), "transports": ["SSL"]}
    port |= {"authenticationProvider": "certificates", "keyStore": "gofer", "trustStores": ["gofer-ca"]}
    port |= {"needClientAuth": True, "virtualhostaliases": aliases}
    if files.listen is not None:
        port["bindingAddress"] = files.listen
    added = {
        "keystores": [{"name": "gofer", "type": "NonJavaKeyStore", **key_store}],
        "truststores": [{"name": "gofer-ca", "type": "NonJavaTrustStore", "certificatesUrl": f"file:{files.cacert}"}],
        "authenticationproviders": [{"name": "certificates", "type": "External", "useFullDN": False}],
        "ports": [port],
    }
    return f"""\
# Qpid Broker-J: add these to the lists of its configuration: the file of -icp at the first start, or its management.
# The user of the broker must be able to read the files. A certificate's CN is a user.
{json.dumps(added, indent=2)}
"""


def _artemis(files: Files) -> str:
    listen = files.listen or "0.0.0.0"  # noqa: S104 - what the broker's own configuration has
    listen = f"[{listen}]" if ":" in listen else listen
    users = "\n".join(f"{name}=CN={name}" for name in files.clients) or "# NAME=CN=NAME"
    pair = files.key.with_suffix(".pemcfg")
    return f"""\
# ActiveMQ Artemis. The user of the broker must be able to read the files. A certificate's CN is a user.
# {pair}:
source.key={files.key}
source.cert={files.certificate}
# etc/broker.xml, in <acceptors>:
<acceptor name="amqps">tcp://{listen}:{files.port}?protocols=AMQP;sslEnabled=true;needClientAuth=true;\
keyStoreType=PEMCFG;keyStorePath={pair};trustStoreType=PEM;trustStorePath={files.cacert};\
saslMechanisms=EXTERNAL,PLAIN</acceptor>
# etc/login.config, the first in activemq {{ }}:
org.apache.activemq.artemis.spi.core.security.jaas.TextFileCertificateLoginModule sufficient
    org.apache.activemq.jaas.textfiledn.user="cert-users.properties"
    org.apache.activemq.jaas.textfiledn.role="cert-roles.properties";
# etc/cert-users.properties:
{users}
# etc/cert-roles.properties (amq: the role of <security-settings> in broker.xml):
amq={",".join(files.clients) or "NAME"}
"""


def _descriptor(files: Files) -> str:
    host = f"[{files.host}]" if ":" in files.host else files.host
    return f"""\
# A plugin's descriptor, /etc/gofer/plugins/*.conf, or a profile of a caller's caller.conf:
[messaging]
url = amqps://{host}:{files.port}
cacert = {files.cacert}
clientcert = {files.certificate}
clientkey = {files.key}
host_validation = 1
"""


def _x509(files: Files) -> str:
    return f"""\
# A plugin's descriptor; of a caller: the section [x509] of caller.conf alone.
[messaging]
authenticator = x509

[x509]
certificate = {files.certificate}
key = {files.key}
ca = {files.cacert}
"""


#: What lines can be printed for, and the functions that write them: text that can be pasted, comments included.
TARGETS: Mapping[str, Callable[[Files], str]] = MappingProxyType(
    {"rabbitmq": _rabbitmq, "broker-j": _broker_j, "artemis": _artemis, "descriptor": _descriptor, "x509": _x509}
)
