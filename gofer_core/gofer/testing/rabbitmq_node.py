"""What one RabbitMQ node for tests consists of: its ports, its files, and the environment its programs are run in."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gofer.testing.rabbitmq_management import BrokerError

__all__ = ["Node", "Ports", "find_program"]

_PLACES = ("/usr/lib/rabbitmq/bin", "/usr/lib/rabbitmq/lib/*/sbin", "/usr/lib/erlang/erts-*/bin")
_INSTALL = "install it: apt-get install -y rabbitmq-server (and: systemctl disable --now rabbitmq-server)"
# What the management API shows is a second old at most, instead of five.
_FRESH_STATISTICS = """
collect_statistics_interval = 1000
management.sample_retention_policies.global.minute = 1
management.sample_retention_policies.basic.minute = 1
management.sample_retention_policies.detailed.10 = 1
"""


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of a node: for AMQP, AMQP with TLS, and management; between nodes, of rabbitmqctl, and of epmd."""

    amqp: int
    tls: int
    management: int
    dist: int
    ctl: int
    epmd: int

    @classmethod
    def free(cls) -> Ports:
        """Choose ports that nobody listens on."""
        ports = _free_ports()
        return cls(*(next(ports) for _ in range(6)))


@dataclass(frozen=True, slots=True)
class Node:
    """A node under a directory. ``config``: lines for ``rabbitmq.conf``, beside those that are written here."""

    folder: Path
    host: str
    ports: Ports
    name: str
    plugins: tuple[str, ...]
    config: str
    management: bool
    tls: bool

    def write_files(self) -> None:
        """Write its configuration, into the directory, which is made if it is missing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lines = [
            f"listeners.tcp.1 = {self.host}:{self.ports.amqp}",
            f"management.tcp.ip = {self.host}" if self.management else "",
            f"management.tcp.port = {self.ports.management}" if self.management else "",
            _FRESH_STATISTICS if self.management else "",
            f"listeners.ssl.1 = {self.host}:{self.ports.tls}" if self.tls else "",
            "log.file.level = warning",
            "log.console = false",
            self.config,
        ]
        (self.folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.folder / "enabled_plugins").write_text(f"[{','.join(self.plugins)}].\n")
        # Instead of the machine's own settings for its system-wide server.
        (self.folder / "rabbitmq-env.conf").write_text("")
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(20))
            cookie.chmod(0o400)

    def environment(self) -> dict[str, str]:
        """Return the environment for all programs of RabbitMQ: nothing of this process's but the search path."""
        base, local = str(self.folder), "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": base,
            "ERL_EPMD_PORT": str(self.ports.epmd),
            "ERL_EPMD_ADDRESS": self.host,
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_CONF_ENV_FILE": f"{base}/rabbitmq-env.conf",
            "RABBITMQ_CONFIG_FILE": f"{base}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{base}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{base}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{base}/mnesia",
            "RABBITMQ_LOG_BASE": f"{base}/log",
            "RABBITMQ_PID_FILE": f"{base}/pid",
            "RABBITMQ_DIST_PORT": str(self.ports.dist),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(self.ports.ctl),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(self.ports.ctl),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": local,
            "RABBITMQ_CTL_ERL_ARGS": local,
        }

    def log_end(self) -> str:
        """Return the end of its logs, causes first."""
        files = [self.folder / "stdout.log", *sorted((self.folder / "log").glob("*.log"))]
        lines = [line for f in files if f.exists() for line in f.read_text(errors="replace").splitlines()]
        # Erlang tells the cause first, and then at length what fell over with it.
        causes = [line for line in lines if "[error]" in line or "[critical]" in line]
        return "\n".join([*causes[:15], "...", *lines[-10:]])


def find_program(program: str, programs: str | os.PathLike[str] | None = None) -> Path:
    """Find a program where packages put it, before PATH: there RabbitMQ has wrappers that want to be root.

    Args:
        programs: the directory to look in instead. None: the one that the environment variable ``GOFER_RABBITMQ``
            names, if it is set.

    Raises:
        BrokerError: it is not installed; the text says what to type.
    """
    chosen = programs or os.environ.get("GOFER_RABBITMQ")
    if chosen:
        path = Path(chosen).absolute() / program
        if not os.access(path, os.X_OK):
            raise BrokerError(f"{path} is missing or not executable; GOFER_RABBITMQ names the directory that holds it")
        return path
    for folder in _PLACES:
        for path in sorted(Path("/").glob(f"{folder.lstrip('/')}/{program}"), reverse=True):
            if os.access(path, os.X_OK):
                return path
    found = shutil.which(program)
    if found is None:
        raise BrokerError(f"{program} is not installed; {_INSTALL}")
    return Path(found)


def _free_ports() -> Iterator[int]:
    """Yield free ports below the range that outgoing connections take, so that none is lost during a restart."""
    yielded = set()
    while True:
        port = random.randint(15_000, 31_999)  # noqa: S311 - not a secret
        if port in yielded:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yielded.add(port)
        yield port
