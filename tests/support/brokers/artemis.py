"""ActiveMQ Artemis: speaks AMQP 1.0."""

from __future__ import annotations

import os
from pathlib import Path

from support.brokers.brokerj import pkcs12_of
from support.brokers.server import Server, ServerTLS, java_tool, made_by

__all__ = ["Artemis"]

_SECRET = "changeit"
_RIGHTS = [
    *("createNonDurableQueue", "deleteNonDurableQueue", "createDurableQueue", "deleteDurableQueue"),
    *("createAddress", "deleteAddress", "consume", "browse", "send", "manage"),
]
_LOGIN = """
activemq {
   org.apache.activemq.artemis.spi.core.security.jaas.TextFileCertificateLoginModule sufficient
       org.apache.activemq.jaas.textfiledn.user="certificate-users.properties"
       org.apache.activemq.jaas.textfiledn.role="roles.properties";
   org.apache.activemq.artemis.spi.core.security.jaas.PropertiesLoginModule required
       org.apache.activemq.jaas.properties.user="users.properties"
       org.apache.activemq.jaas.properties.role="roles.properties";
};
"""
_BOOTSTRAP = """<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<broker xmlns="http://activemq.apache.org/schema">
   <jaas-security domain="activemq"/>
   <server configuration="{path}"/>
</broker>
"""
_BROKER = """<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<configuration xmlns="urn:activemq">
   <core xmlns="urn:activemq:core">
      <name>gofer-test</name>
      <persistence-enabled>true</persistence-enabled>
      <journal-type>NIO</journal-type>
      <journal-buffer-timeout>200000</journal-buffer-timeout>
      <journal-pool-files>2</journal-pool-files>
      <paging-directory>{data}/paging</paging-directory>
      <bindings-directory>{data}/bindings</bindings-directory>
      <journal-directory>{data}/journal</journal-directory>
      <large-messages-directory>{data}/large-messages</large-messages-directory>
      <max-disk-usage>100</max-disk-usage>
      <acceptors>
{acceptors}
      </acceptors>
      <security-settings>
         <security-setting match="#">
{rights}
         </security-setting>
      </security-settings>
      <address-settings>
         <address-setting match="#">
            <dead-letter-address>DLQ</dead-letter-address>
            <expiry-address>ExpiryQueue</expiry-address>
            <redelivery-delay>0</redelivery-delay>
            <auto-create-queues>true</auto-create-queues>
            <auto-create-addresses>true</auto-create-addresses>
            <auto-delete-queues>false</auto-delete-queues>
            <auto-delete-addresses>false</auto-delete-addresses>
         </address-setting>
      </address-settings>
   </core>
</configuration>
"""
_LOG = """
rootLogger = WARN, console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %-5level [%logger] %msg%n
"""


class Artemis(Server):
    """One Artemis as its makers configure it: queues are made when they are used, and stay. A journal on disk.

    Args:
        base_dir: a directory of its own, made if it is missing.
        tls: the files to listen for TLS with, on ``tls_port`` and ``external_port``.
        certificate_user: the subject of the client certificate that may log in on ``external_port``.
        home: the directory of its distribution. None: what the environment variable ``GOFER_ARTEMIS`` names.
    """

    name = "Artemis"

    def __init__(
        self,
        base_dir: str | os.PathLike[str],
        *,
        tls: ServerTLS | None = None,
        certificate_user: str = "CN=gofer-client",
        home: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(base_dir, tls=tls)
        self.certificate_user = certificate_user
        self._home = made_by("artemis", "GOFER_ARTEMIS", home)

    def command(self) -> list[str]:
        """Return the command that runs it."""
        etc = self.base_dir / "etc"
        properties = {
            "artemis.home": self._home,
            "artemis.instance": self.base_dir,
            "artemis.instance.etc": etc,
            "data.dir": self.base_dir / "data",
            "java.io.tmpdir": self.base_dir / "tmp",
            "java.security.auth.login.config": etc / "login.config",
            "log4j2.configurationFile": etc / "log4j2.properties",
            "log4j2.disableJmx": "true",
        }
        return [
            java_tool("java"),
            "-Xmx400m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "--add-opens=java.base/jdk.internal.misc=ALL-UNNAMED",
            *[f"-D{key}={value}" for key, value in properties.items()],
            *("-classpath", str(self._home / "lib" / "artemis-boot.jar")),
            *("org.apache.activemq.artemis.boot.Artemis", "run"),
        ]

    def write_files(self) -> None:
        """Write its configuration."""
        etc = self.base_dir / "etc"
        for name in ("etc", "data", "tmp", "lib", "log"):
            (self.base_dir / name).mkdir(exist_ok=True)
        texts = {
            "login.config": _LOGIN,
            "bootstrap.xml": _BOOTSTRAP.format(path=(etc / "broker.xml").as_uri()),
            "broker.xml": self._broker(),
            "users.properties": "guest = guest\n",
            "roles.properties": "amq = guest,certificate\n",
            "certificate-users.properties": f"certificate={self.certificate_user}\n",
            "management.xml": '<management-context xmlns="http://activemq.apache.org/schema"/>\n',
            "log4j2.properties": _LOG,
        }
        for name, text in texts.items():
            (etc / name).write_text(text)

    def _broker(self) -> str:
        acceptors = [self._acceptor("plain", self.port, protocols="CORE,AMQP")]
        if self.tls is not None:
            store = pkcs12_of(self.tls, self.base_dir / "server.p12", _SECRET)
            secure = {
                "protocols": "AMQP",
                "sslEnabled": "true",
                "keyStorePath": str(store),
                "keyStoreType": "PKCS12",
                "keyStorePassword": _SECRET,
                "trustStorePath": str(self._trusted(self.tls.authority)),
                "trustStoreType": "PEM",
            }
            acceptors += [
                self._acceptor("tls", self.tls_port, **secure, wantClientAuth="true", saslMechanisms="PLAIN"),
                self._acceptor(
                    "external", self.external_port, **secure, needClientAuth="true", saslMechanisms="EXTERNAL"
                ),
            ]
        rights = [f'            <permission type="{right}" roles="amq"/>' for right in _RIGHTS]
        return _BROKER.format(data=self.base_dir / "data", acceptors="\n".join(acceptors), rights="\n".join(rights))

    def _acceptor(self, name: str, port: int, **options: str) -> str:
        query = ";".join(f"{key}={value}" for key, value in options.items())
        return f'         <acceptor name="{name}">tcp://{self.host}:{port}?{query}</acceptor>'

    def _trusted(self, authority: Path) -> Path:
        copy = self.base_dir / "clients.pem"
        copy.write_bytes(authority.read_bytes())
        return copy
