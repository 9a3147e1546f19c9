"""RabbitMQ as the tests of all brokers use it: AMQP 0-9-1 and 1.0, TLS, and client certificates as logins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self
from urllib.parse import quote

from gofer.testing.rabbitmq import BrokerError, RabbitMQ

from support.brokers.server import ServerTLS, made_by

__all__ = ["RabbitMQ3", "RabbitMQ4"]

_TLS = """
ssl_options.cacertfile = {authority}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
"""


class _Both(RabbitMQ):
    """A RabbitMQ with AMQP 1.0.

    Args:
        base_dir: a directory of its own, made if it is missing.
        tls: the files to listen for TLS with, on ``tls_port``; a client certificate is asked for, but not needed.
        certificate_user: the subject of the client certificate that may log in (SASL EXTERNAL).
        management: start the management plugin, too: a second slower.
        config: more lines for ``rabbitmq.conf``.
        programs: the directory of its programs.
    """

    name = "RabbitMQ"
    plugins: tuple[str, ...] = ()

    def __init__(
        self,
        base_dir: str | os.PathLike[str],
        *,
        tls: ServerTLS | None = None,
        certificate_user: str = "CN=gofer-client",
        management: bool = False,
        config: str = "",
        programs: Path | None = None,
    ) -> None:
        self.tls = tls
        self.certificate_user = certificate_user
        mechanisms = ["PLAIN", "AMQPLAIN", *["EXTERNAL"] * (tls is not None)]  # no ANONYMOUS: proton prefers that
        super().__init__(
            base_dir,
            management=management,
            plugins=[*self.plugins, *["rabbitmq_auth_mechanism_ssl"] * (tls is not None)],
            config="\n".join(
                [config, *[f"auth_mechanisms.{number} = {name}" for number, name in enumerate(mechanisms, 1)]]
            ),
            tls_config=""
            if tls is None
            else _TLS.format(authority=tls.authority, certificate=tls.certificate, key=tls.key),
            programs=programs,
        )

    def __enter__(self) -> Self:
        super().__enter__()
        if self.tls is not None:
            try:
                self.ctl("add_user", self.certificate_user, "unused", timeout=120)
                self.ctl("set_permissions", self.certificate_user, ".*", ".*", ".*", timeout=120)
            except BaseException:
                self.__exit__()
                raise
        return self

    def url(  # type: ignore[override] # as the other brokers' for tests
        self,
        user: str | None = "guest",
        password: str | None = "guest",
        vhost: str | None = None,
        *,
        adapter: str | None = None,
        tls: bool = False,
        external: bool = False,
    ) -> str:
        """Return the URL to connect to, as guest.

        Args:
            user: another user; None: no user in the URL.
            password: the user's; None: no password in the URL.
            vhost: another virtual host than ``/``.
            adapter: what stands before the ``+``.
            tls: over TLS, with name and password.
            external: over TLS, and a client certificate is the login; the URL has no user.
        """
        login = ""
        if user is not None and not external:
            login = quote(user, safe="") + ("" if password is None else f":{quote(password, safe='')}") + "@"
        secure = tls or external
        if secure and self.tls is None:
            raise BrokerError(f"this {self.name} was made without tls=")
        return (
            f"{'' if adapter is None else adapter + '+'}{'amqps' if secure else 'amqp'}://{login}"
            f"{'localhost' if secure else self.host}:{self.tls_port if secure else self.port}"
            f"{'' if vhost is None else '/' + quote(vhost, safe='')}"
        )


class RabbitMQ3(_Both):
    """The system's RabbitMQ (3.10 in Debian 12), with its plugin for AMQP 1.0."""

    name = "RabbitMQ 3"
    plugins = ("rabbitmq_amqp1_0",)


class RabbitMQ4(_Both):
    """RabbitMQ 4, which speaks AMQP 1.0 natively.

    Its programs are those that the environment variable ``GOFER_RABBITMQ4`` names, if not given.
    """

    name = "RabbitMQ 4"

    def __init__(
        self,
        base_dir: str | os.PathLike[str],
        *,
        tls: ServerTLS | None = None,
        certificate_user: str = "CN=gofer-client",
        management: bool = False,
        config: str = "",
        programs: Path | None = None,
    ) -> None:
        super().__init__(
            base_dir,
            tls=tls,
            certificate_user=certificate_user,
            management=management,
            config=config,
            programs=made_by("rabbitmq4", "GOFER_RABBITMQ4", programs),
        )
