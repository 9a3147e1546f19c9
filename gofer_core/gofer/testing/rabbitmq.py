"""A private RabbitMQ server for tests: its own ports, files, cookie and epmd, and nothing left behind.

It needs the package ``rabbitmq-server`` installed, never its system-wide service, and runs as any user. Everything
listens on 127.0.0.1 only.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from gofer.testing.rabbitmq_management import BrokerError, Management

__all__ = ["BrokerError", "RabbitMQ"]

_PLACES = ("/usr/lib/rabbitmq/bin", "/usr/lib/rabbitmq/lib/*/sbin", "/usr/lib/erlang/erts-*/bin")
_BOOT_TIMEOUT = 60.0
_STOP_TIMEOUT = 30.0
# What the management API shows is a second old at most, instead of five.
_FRESH_STATISTICS = """
collect_statistics_interval = 1000
management.sample_retention_policies.global.minute = 1
management.sample_retention_policies.basic.minute = 1
management.sample_retention_policies.detailed.10 = 1
"""
_INSTALL = "install it: apt-get install -y rabbitmq-server (and: systemctl disable --now rabbitmq-server)"


class RabbitMQ(Management):
    """One RabbitMQ node under a directory, started and stopped as often as a test likes on the same ports.

    Not thread-safe. A context manager: it starts on entry; on exit it is killed and its directory deleted.

    Args:
        base_dir: a directory of its own, made if it is missing.
        management: start the management plugin too (needed by ``connections`` and the like; a second slower).
        plugins: more plugins to enable.
        config: more lines for ``rabbitmq.conf``.
        tls_config: lines for ``rabbitmq.conf`` that name the server's certificate (``ssl_options.*``); with them the
            broker listens for TLS on ``tls_port`` too.
    """

    def __init__(
        self,
        base_dir: str | os.PathLike[str],
        *,
        management: bool = False,
        plugins: Sequence[str] = (),
        config: str = "",
        tls_config: str = "",
    ) -> None:
        self.base_dir = Path(base_dir).absolute()
        self.management = management
        self.host = "127.0.0.1"
        ports = _free_ports()
        self.port, self.tls_port, self.management_port = next(ports), next(ports), next(ports)
        self._dist_port, self._ctl_port, self._epmd_port = next(ports), next(ports), next(ports)
        self._tls = bool(tls_config)
        self._plugins = ["rabbitmq_management"] * management + list(plugins)
        self._extra = f"{config}\n{tls_config}\n"
        self._node = f"gofer-{secrets.token_hex(4)}@localhost"
        self._server: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._bin = _find("rabbitmq-server").parent

    def __enter__(self) -> RabbitMQ:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not in order: what it would still write is deleted, and with the management plugin that takes six seconds.
        self.kill()
        self._stop_epmd()
        self.remove()

    # -- life ------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the server's process lives (it may be frozen)."""
        return self._server is not None and self._server.poll() is None

    def start(self) -> None:
        """Start the server and wait until it serves. Queues and messages of an earlier start are still there.

        Raises:
            BrokerError: not installed, or not ready in 60 s.
        """
        if self.running:
            return
        self._write_files()
        try:
            if self._epmd is None or self._epmd.poll() is not None:
                self._start_epmd()
            with (self.base_dir / "stdout.log").open("ab") as log:
                # With RABBITMQ_ALLOW_INPUT the script execs the Erlang VM itself: the child is the server, with no
                # shell in between that would have to pass signals on.
                self._server = subprocess.Popen(  # noqa: S603 - found by _find, arguments are written here
                    [str(self._bin / "rabbitmq-server"), "-noinput"],
                    env=self._environment() | {"RABBITMQ_ALLOW_INPUT": "1"},
                    cwd=self.base_dir,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._wait_ready(time.monotonic() + _BOOT_TIMEOUT)
        except BaseException:
            self.kill()
            self._stop_epmd()
            raise

    def stop(self) -> None:
        """Stop the server in order, and its epmd. Idempotent. Durable queues and persistent messages stay on disk."""
        try:
            self._end(signal.SIGTERM)
        finally:
            self._stop_epmd()

    def kill(self) -> None:
        """End the server at once (SIGKILL), as a power cut would. ``start`` brings it back. Idempotent."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the server in order and start it again on the same ports."""
        self._end(signal.SIGTERM)
        self.start()

    def freeze(self) -> None:
        """Stop the server's process where it stands (SIGSTOP): its sockets stay open and say nothing."""
        self._alive().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._alive().send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """Delete the directory of a server that is stopped."""
        if self.running:
            raise BrokerError("the server still runs; stop it first")
        shutil.rmtree(self.base_dir, ignore_errors=False)

    # -- use -------------------------------------------------------------------------------------------------------

    def url(
        self, user: str | None = None, password: str | None = None, vhost: str | None = None, *, tls: bool = False
    ) -> str:
        """The URL to connect to; without a user, that of the built-in guest."""
        login = (
            "" if user is None else quote(user, safe="") + ("" if password is None else f":{quote(password, safe='')}")
        )
        at = "@" if login else ""
        path = "" if vhost is None else "/" + quote(vhost, safe="")
        host = "localhost" if tls else self.host
        return f"{'amqps' if tls else 'amqp'}://{login}{at}{host}:{self.tls_port if tls else self.port}{path}"

    def ctl(self, *arguments: str, timeout: float = 30.0) -> str:
        """Run ``rabbitmqctl`` against this server and return what it prints. Takes a second or two.

        Raises:
            BrokerError: it failed; the text is its output.
        """
        done = subprocess.run(  # noqa: S603 - the caller is a test; no shell is involved
            [str(self._bin / "rabbitmqctl"), "-q", "-n", self._node, *arguments],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise BrokerError(f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    # -- inside ----------------------------------------------------------------------------------------------------

    def _write_files(self) -> None:
        self.base_dir.mkdir(parents=True, exist_ok=True)
        lines = [
            f"listeners.tcp.1 = {self.host}:{self.port}",
            f"management.tcp.ip = {self.host}" if self.management else "",
            f"management.tcp.port = {self.management_port}" if self.management else "",
            _FRESH_STATISTICS if self.management else "",
            f"listeners.ssl.1 = {self.host}:{self.tls_port}" if self._tls else "",
            "log.file.level = warning",
            "log.console = false",
            self._extra,
        ]
        (self.base_dir / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (self.base_dir / "enabled_plugins").write_text(f"[{','.join(self._plugins)}].\n")
        # Instead of the machine's own settings for its system-wide server.
        (self.base_dir / "rabbitmq-env.conf").write_text("")
        cookie = self.base_dir / ".erlang.cookie"
        if not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(secrets.token_hex(20))
            cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        base, local = str(self.base_dir), "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "LANG": "C.UTF-8",
            "HOME": base,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": self.host,
            "ERL_CRASH_DUMP_SECONDS": "0",
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

    def _start_epmd(self) -> None:
        # Erlang would start a daemon that outlives it; a child of our own is ended by its process id.
        self._epmd = subprocess.Popen(  # noqa: S603 - found by _find, arguments are written here
            [str(_find("epmd")), "-port", str(self._epmd_port), "-address", self.host],
            env=self._environment(),
            cwd=self.base_dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 10
        while not _answers(self.host, self._epmd_port, b""):
            if self._epmd.poll() is not None or time.monotonic() > deadline:
                raise BrokerError(f"epmd does not serve port {self._epmd_port} (exit status {self._epmd.poll()})")
            time.sleep(0.02)

    def _stop_epmd(self) -> None:
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None

    def _wait_ready(self, deadline: float) -> None:
        ports = [(self.port, b"AMQP\x00\x00\x09\x01")]
        if self.management:
            ports.append((self.management_port, b"GET /api/overview HTTP/1.0\r\n\r\n"))
        if self._tls:
            ports.append((self.tls_port, b""))
        for port, greeting in ports:
            while not _answers(self.host, port, greeting):
                if not self.running:
                    raise BrokerError(f"RabbitMQ ended while starting\n{self._log_end()}")
                if time.monotonic() > deadline:
                    raise BrokerError(
                        f"RabbitMQ does not serve port {port} after {_BOOT_TIMEOUT:g} s\n{self._log_end()}"
                    )
                time.sleep(0.05)

    def _log_end(self) -> str:
        files = [self.base_dir / "stdout.log", *sorted((self.base_dir / "log").glob("*.log"))]
        lines = [line for f in files if f.exists() for line in f.read_text(errors="replace").splitlines()]
        # Erlang tells the cause first, and then at length what fell over with it.
        causes = [line for line in lines if "[error]" in line or "[critical]" in line]
        return "\n".join([*causes[:15], "...", *lines[-10:]])

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._server is None or self._server.poll() is not None:
            raise BrokerError("RabbitMQ is not running")
        return self._server

    def _end(self, how: signal.Signals) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        try:
            if server.poll() is None:
                server.send_signal(how)
                server.send_signal(signal.SIGCONT)  # a frozen one takes SIGTERM only when it goes on
            server.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise BrokerError(
                f"RabbitMQ did not stop in {_STOP_TIMEOUT:g} s and was killed\n{self._log_end()}"
            ) from None
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()
            self._end_group(server.pid)

    @staticmethod
    def _end_group(leader: int) -> None:
        """Wait until the Erlang VM's own helpers, which notice its end by themselves, are gone too."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                os.killpg(leader, 0)
            except ProcessLookupError:
                return
            time.sleep(0.01)
        try:
            os.killpg(leader, signal.SIGKILL)
        except ProcessLookupError:
            return


def _find(program: str) -> Path:
    """Find a program where packages put it, before PATH: there RabbitMQ has wrappers that want to be root."""
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


def _answers(host: str, port: int, greeting: bytes) -> bool:
    """Whether the port accepts, and answers the greeting if there is one."""
    try:
        with socket.create_connection((host, port), timeout=2) as probe:
            if not greeting:
                return True
            probe.sendall(greeting)
            return bool(probe.recv(8))
    except OSError:
        return False
