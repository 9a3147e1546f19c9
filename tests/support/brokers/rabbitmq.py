"""RabbitMQ for tests: its own ports, files, cookie and epmd, and nothing left behind.

It needs the package ``rabbitmq-server`` installed, never its system-wide service, and runs as any user. Everything
listens on 127.0.0.1 only.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gofer.testing.agents import Guard

from support.brokers.server import BrokerError, Server, ServerTLS, answers, ask_management, made_by
from support.ports import free_port

__all__ = ["RabbitMQ", "RabbitMQ3", "RabbitMQ4"]

_PLACES = ("/usr/lib/rabbitmq/bin", "/usr/lib/rabbitmq/lib/*/sbin", "/usr/lib/erlang/erts-*/bin")
_INSTALL = "install it: apt-get install -y rabbitmq-server (and: systemctl disable --now rabbitmq-server)"
# What the management API shows is a second old at most, instead of five.
_MANAGEMENT = """
management.tcp.ip = {host}
management.tcp.port = {port}
collect_statistics_interval = 1000
management.sample_retention_policies.global.minute = 1
management.sample_retention_policies.basic.minute = 1
management.sample_retention_policies.detailed.10 = 1
"""
_TLS = """
listeners.ssl.1 = {host}:{port}
ssl_options.cacertfile = {tls.authority}
ssl_options.certfile = {tls.certificate}
ssl_options.keyfile = {tls.key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
"""


class RabbitMQ(Server):
    """One RabbitMQ node. Durable queues and persistent messages outlive a restart.

    Args:
        base_dir: a directory of its own, made if it is missing.
        tls: the files to listen for TLS with, on ``tls_port``; a client certificate is asked for, but not needed. In a
            URL for EXTERNAL it is the login.
        certificate_user: the subject of the client certificate that may log in.
        management: start the management plugin too (needed by ``api`` and the like; a second slower).
        plugins: more plugins to enable.
        config: more lines for ``rabbitmq.conf``.
        programs: the directory of ``rabbitmq-server``, ``rabbitmqctl`` and ``epmd``. None: the one that the environment
            variable ``GOFER_RABBITMQ`` names; without that, where packages of the system put them.
    """

    name = "RabbitMQ"

    def __init__(
        self,
        base_dir: str | os.PathLike[str],
        *,
        tls: ServerTLS | None = None,
        certificate_user: str = "CN=gofer-client",
        management: bool = False,
        plugins: Sequence[str] = (),
        config: str = "",
        programs: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(base_dir, tls=tls)
        self.external_port = self.tls_port
        self.management = management
        self.management_port, self._epmd_port = free_port(), free_port()
        self._certificate_user = certificate_user
        self._node = f"gofer-{secrets.token_hex(4)}@localhost"
        self._dist_port, self._ctl_port = free_port(), free_port()
        self._plugins = [*["rabbitmq_management"] * management, *plugins]
        if tls is not None:
            self._plugins.append("rabbitmq_auth_mechanism_ssl")
        mechanisms = ["PLAIN", "AMQPLAIN", *["EXTERNAL"] * (tls is not None)]  # no ANONYMOUS: proton prefers that
        self._config = [
            f"listeners.tcp.1 = {self.host}:{self.port}",
            "log.file.level = warning",
            "log.console = false",
            _MANAGEMENT.format(host=self.host, port=self.management_port) if management else "",
            "" if tls is None else _TLS.format(host=self.host, port=self.tls_port, tls=tls),
            config,
        ]
        if "auth_mechanisms" not in config:
            self._config += [f"auth_mechanisms.{number} = {one}" for number, one in enumerate(mechanisms, 1)]
        self._has_user = False
        self._epmd: tuple[Guard, subprocess.Popen[bytes]] | None = None
        self._server_program, self._ctl_program, self._epmd_program = (
            str(find_program(name, programs)) for name in ("rabbitmq-server", "rabbitmqctl", "epmd")
        )

    # -- its process -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server and wait until it serves. Queues and messages of an earlier start are still there."""
        try:
            super().start()
            if self.tls is not None and not self._has_user:
                self._has_user = True
                if self.management:
                    self.add_user(self._certificate_user, "unused")
                else:
                    self.ctl("add_user", self._certificate_user, "unused")
                    self.ctl("set_permissions", self._certificate_user, ".*", ".*", ".*")
        except BaseException:
            self._stop_epmd()
            raise

    def stop(self) -> None:
        """Stop the server in order, and its epmd. Idempotent. Durable queues and persistent messages stay on disk."""
        try:
            super().stop()
        finally:
            self._stop_epmd()

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._stop_epmd()
        shutil.rmtree(self.base_dir)

    def write_files(self) -> None:
        """Write its configuration, and start its epmd."""
        (self.base_dir / "rabbitmq.conf").write_text("\n".join(self._config) + "\n")
        (self.base_dir / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")
        # Instead of the machine's own settings for its system-wide server.
        (self.base_dir / "rabbitmq-env.conf").write_text("")
        cookie = self.base_dir / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(20))
            cookie.chmod(0o400)
        if self._epmd is None or self._epmd[1].poll() is not None:
            self._start_epmd()

    def command(self) -> list[str]:
        """Return the command that runs it."""
        return [self._server_program, "-noinput"]

    def environment(self) -> Mapping[str, str]:
        """Return the environment for all programs of RabbitMQ: nothing of this process's but the search path."""
        base, local = str(self.base_dir), "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": base,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": self.host,
            "ERL_CRASH_DUMP_SECONDS": "0",
            # With it the script execs the Erlang VM itself: the child is the server, with no shell in between that
            # would have to pass signals on.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_CONF_ENV_FILE": f"{base}/rabbitmq-env.conf",
            "RABBITMQ_CONFIG_FILE": f"{base}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{base}/advanced.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{base}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{base}/mnesia",
            "RABBITMQ_LOG_BASE": f"{base}/log",
            "RABBITMQ_PID_FILE": f"{base}/pid",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(self._ctl_port),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(self._ctl_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": local,
            "RABBITMQ_CTL_ERL_ARGS": local,
        }

    def ports(self) -> tuple[int, ...]:
        """Return the ports that must be served."""
        return (self.port, *[self.management_port] * self.management, *[self.tls_port] * (self.tls is not None))

    def serving(self, log: str) -> bool:
        """Tell whether the management API answers, if there is one: its port is open before that."""
        greeting = b"GET /api/overview HTTP/1.0\r\n\r\n"
        return not self.management or answers(self.host, self.management_port, greeting)

    def log_end(self) -> str:
        """Return the end of its logs, causes first."""
        files = [self.base_dir / "stdout.log", *sorted((self.base_dir / "log").glob("*.log"))]
        lines = [line for f in files if f.exists() for line in f.read_text(errors="replace").splitlines()]
        # Erlang tells the cause first, and then at length what fell over with it.
        causes = [line for line in lines if "[error]" in line or "[critical]" in line]
        return "\n".join([*causes[:15], "...", *lines[-10:]])

    def _start_epmd(self) -> None:
        # Erlang would start a daemon that outlives it; a child of our own is ended by its process id.
        guard = Guard()
        epmd = subprocess.Popen(
            [self._epmd_program, "-port", str(self._epmd_port), "-address", self.host],
            env=dict(self.environment()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        guard.watch(epmd.pid, group=True)
        self._epmd = guard, epmd
        deadline = time.monotonic() + 60
        while not answers(self.host, self._epmd_port, b""):
            status = epmd.poll()
            if status is not None or time.monotonic() > deadline:
                raise BrokerError(f"epmd does not serve port {self._epmd_port} (exit status {status})")
            time.sleep(0.02)

    def _stop_epmd(self) -> None:
        if self._epmd is not None:
            (guard, epmd), self._epmd = self._epmd, None
            guard.release()
            epmd.kill()
            epmd.wait()

    # -- asking it ---------------------------------------------------------------------------------------------------

    def ctl(self, *arguments: str, timeout: float = 120.0) -> str:
        """Run ``rabbitmqctl`` against this server and return what it prints.

        It takes a second or two of a processor, on a busy machine much longer: ``api``, ``evaluate`` and ``count`` can
        do most of it in no time.

        Raises:
            BrokerError: it failed; the text is its output.
        """
        for _ in range(5):
            done = subprocess.run(
                [self._ctl_program, "-q", "-n", self._node, *arguments],
                env=dict(self.environment()),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
            if "nodistribution" not in done.stderr:
                break
            self._ctl_port = free_port()  # somebody else has taken that one meanwhile; nothing was done yet
        if done.returncode != 0:
            raise BrokerError(f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def evaluate(self, expression: str, timeout: float = 120.0) -> str:
        """Have the server evaluate an Erlang expression, and return its value as Erlang writes it.

        It takes a hundredth of the time that ``ctl`` takes, which starts a whole Erlang for each command. The
        program is the system's, for a RabbitMQ of another place, too.

        Raises:
            BrokerError: it failed; the text is what was said.
        """
        cookie = (self.base_dir / ".erlang.cookie").read_text()
        done = subprocess.run(
            [installed("erl_call"), "-r", "-c", cookie, "-address", f"{self.host}:{self._dist_port}", "-e"],
            env=dict(self.environment()),
            input=f"{expression}.\n",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        value = re.fullmatch(r"\{ok, (.*)\}", done.stdout.strip(), re.DOTALL)
        if done.returncode != 0 or value is None:
            raise BrokerError(f"{expression}: {done.stdout}{done.stderr}")
        return value[1]

    @contextmanager
    def taking_no_messages(self) -> Iterator[None]:
        """Have its alarm of memory raised: it blocks all connections that publish."""
        # Its connections have been told when the process that tells them answers: what they publish then is blocked.
        raised = self.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.00001), rabbit_alarm:get_alarms()")
        try:
            if "memory" not in raised:
                raise BrokerError(f"no alarm of memory was raised: {raised}")
            yield
        finally:
            self.evaluate("vm_memory_monitor:set_vm_memory_high_watermark(0.4)")

    def count(self, queue: str, what: str = "messages", vhost: str = "/") -> int:
        """Return how many ``messages`` or ``consumers`` a queue has at this moment; without such a queue, 0."""
        name = f'rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)'
        found = self.evaluate(
            f"case rabbit_amqqueue:lookup({name}) of {{ok, Q}} -> rabbit_amqqueue:info(Q, [{what}]); _ -> [] end"
        )
        number = re.fullmatch(r"\[(?:\{\w+, ?(\d+)\})?\]", found)
        if number is None:
            raise BrokerError(f"{queue} has {found} {what}")
        return int(number[1] or 0)

    def api(self, method: str, path: str, body: object = None, timeout: float = 60.0) -> Any:
        """Ask the management API, as ``ask_management`` does; the path's names are already quoted."""
        if not self.management:
            raise BrokerError("this RabbitMQ was made without management=True")
        return ask_management(f"http://{self.host}:{self.management_port}/api", method, path, body, timeout)

    def connections(self) -> list[dict[str, Any]]:
        """Return the connections that the server knows, as the management API shows them."""
        return list(self.api("GET", "/connections"))

    def queues(self, vhost: str = "/") -> list[dict[str, Any]]:
        """Return the queues of a virtual host, as the management API shows them."""
        return list(self.api("GET", f"/queues/{quote(vhost, safe='')}"))

    def delete_queue(self, name: str, vhost: str = "/") -> None:
        """Delete a queue."""
        self.api("DELETE", f"/queues/{quote(vhost, safe='')}/{quote(name, safe='')}")

    def add_vhost(self, name: str) -> None:
        """Make a virtual host that ``guest`` may use."""
        self.api("PUT", f"/vhosts/{quote(name, safe='')}")
        rights = {"configure": ".*", "write": ".*", "read": ".*"}
        self.api("PUT", f"/permissions/{quote(name, safe='')}/guest", rights)

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host, with all that is in it."""
        self.api("DELETE", f"/vhosts/{quote(name, safe='')}")

    def delete_user(self, name: str) -> None:
        """Delete a user; its connections end."""
        self.api("DELETE", f"/users/{quote(name, safe='')}")

    def add_user(self, name: str, password: str, *, vhost: str = "/", permissions: str = ".*") -> None:
        """Make a user that may configure, write and read what the regular expression matches."""
        self.api("PUT", f"/users/{quote(name, safe='')}", {"password": password, "tags": ""})
        rights = {"configure": permissions, "write": permissions, "read": permissions}
        self.api("PUT", f"/permissions/{quote(vhost, safe='')}/{quote(name, safe='')}", rights)


class RabbitMQ3(RabbitMQ):
    """The system's RabbitMQ (3.10 in Debian 12), with its plugin for AMQP 1.0. Arguments are those of ``RabbitMQ``."""

    name = "RabbitMQ 3"

    def __init__(self, base_dir: str | os.PathLike[str], **how: Any) -> None:
        super().__init__(base_dir, plugins=["rabbitmq_amqp1_0"], **how)


class RabbitMQ4(RabbitMQ):
    """RabbitMQ 4, which speaks AMQP 1.0 natively. Arguments are those of ``RabbitMQ``.

    Its programs are those that the environment variable ``GOFER_RABBITMQ4`` names, if not given.
    """

    name = "RabbitMQ 4"

    def __init__(self, base_dir: str | os.PathLike[str], *, programs: Path | None = None, **how: Any) -> None:
        super().__init__(base_dir, programs=made_by("rabbitmq4", "GOFER_RABBITMQ4", programs), **how)


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
    return installed(program)


def installed(program: str) -> Path:
    """Find a program of the system, one of Erlang's or RabbitMQ's.

    Raises:
        BrokerError: it is not installed; the text says what to type.
    """
    for folder in _PLACES:
        for path in sorted(Path("/").glob(f"{folder.lstrip('/')}/{program}"), reverse=True):
            if os.access(path, os.X_OK):
                return path
    found = shutil.which(program)
    if found is None:
        raise BrokerError(f"{program} is not installed; {_INSTALL}")
    return Path(found)
