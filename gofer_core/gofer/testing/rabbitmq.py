"""A private RabbitMQ server for tests: its own ports, files, cookie and epmd, and nothing left behind.

It needs the package ``rabbitmq-server`` installed, never its system-wide service, and runs as any user. Everything
listens on 127.0.0.1 only.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO
from urllib.parse import quote

from gofer.testing.guard import Guard
from gofer.testing.rabbitmq_management import BrokerError, Management
from gofer.testing.rabbitmq_node import Node, Ports, find_program

__all__ = ["BrokerError", "RabbitMQ"]

_BOOT_TIMEOUT = 60.0
_STOP_TIMEOUT = 30.0


class RabbitMQ(Management):
    """One RabbitMQ node under a directory, started and stopped as often as a test likes on the same ports.

    Not thread-safe. A context manager: it starts on entry; on exit it is killed and its directory deleted. Should this
    process be killed instead, the server is, too.

    Args:
        base_dir: a directory of its own, made if it is missing.
        management: start the management plugin too (needed by ``connections`` and the like; a second slower).
        plugins: more plugins to enable.
        config: more lines for ``rabbitmq.conf``.
        tls_config: lines for ``rabbitmq.conf`` that name the server's certificate (``ssl_options.*``); with them the
            broker listens for TLS on ``tls_port`` too.
        programs: the directory of ``rabbitmq-server``, ``rabbitmqctl`` and ``epmd``. None: the one that the environment
            variable ``GOFER_RABBITMQ`` names; without that, where packages of the system put them.
    """

    def __init__(
        self,
        base_dir: str | os.PathLike[str],
        *,
        management: bool = False,
        plugins: Sequence[str] = (),
        config: str = "",
        tls_config: str = "",
        programs: str | os.PathLike[str] | None = None,
    ) -> None:
        self.base_dir = Path(base_dir).absolute()
        self.management = management
        self.host = "127.0.0.1"
        ports = Ports.free()
        self.port, self.tls_port, self.management_port = ports.amqp, ports.tls, ports.management
        self._node = Node(
            self.base_dir,
            self.host,
            ports,
            f"gofer-{secrets.token_hex(4)}@localhost",
            (*["rabbitmq_management"] * management, *plugins),
            f"{config}\n{tls_config}\n",
            management,
            bool(tls_config),
        )
        self._server: _Guarded | None = None
        self._epmd: _Guarded | None = None
        self._server_program, self._ctl_program, self._epmd_program = (
            str(find_program(name, programs)) for name in ("rabbitmq-server", "rabbitmqctl", "epmd")
        )

    def __enter__(self) -> RabbitMQ:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Not in order: what it would still write is deleted, and with the management plugin that takes six seconds.
        self.kill()
        self._stop_epmd()
        self.remove()

    # -- life ------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the server's process lives (it may be frozen)."""
        return self._server is not None and self._server.process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it serves. Queues and messages of an earlier start are still there.

        Raises:
            BrokerError: not installed, or not ready in 60 s.
        """
        if self.running:
            return
        self._node.write_files()
        try:
            if self._epmd is None or self._epmd.process.poll() is not None:
                self._start_epmd()
            with (self.base_dir / "stdout.log").open("ab") as log:
                # With RABBITMQ_ALLOW_INPUT the script execs the Erlang VM itself: the child is the server, with no
                # shell in between that would have to pass signals on.
                self._server = _Guarded(
                    [self._server_program, "-noinput"],
                    self._node.environment() | {"RABBITMQ_ALLOW_INPUT": "1"},
                    self.base_dir,
                    log,
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

    def ctl(self, *arguments: str, timeout: float = 120.0) -> str:
        """Run ``rabbitmqctl`` against this server and return what it prints.

        It takes a second or two, on a busy machine much longer.

        Raises:
            BrokerError: it failed; the text is its output.
        """
        done = subprocess.run(  # noqa: S603 - the caller is a test; no shell is involved
            [self._ctl_program, "-q", "-n", self._node.name, *arguments],
            env=self._node.environment(),
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

    def _start_epmd(self) -> None:
        # Erlang would start a daemon that outlives it; a child of our own is ended by its process id.
        port = self._node.ports.epmd
        command = [self._epmd_program, "-port", str(port), "-address", self.host]
        self._epmd = _Guarded(command, self._node.environment(), self.base_dir, subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not _answers(self.host, port, b""):
            status = self._epmd.process.poll()
            if status is not None or time.monotonic() > deadline:
                raise BrokerError(f"epmd does not serve port {port} (exit status {status})")
            time.sleep(0.02)

    def _stop_epmd(self) -> None:
        if self._epmd is not None:
            self._epmd.guard.release()
            self._epmd.process.kill()
            self._epmd.process.wait()
            self._epmd = None

    def _wait_ready(self, deadline: float) -> None:
        ports = [(self.port, b"AMQP\x00\x00\x09\x01")]
        if self.management:
            ports.append((self.management_port, b"GET /api/overview HTTP/1.0\r\n\r\n"))
        if self._node.tls:
            ports.append((self.tls_port, b""))
        for port, greeting in ports:
            while not _answers(self.host, port, greeting):
                if not self.running:
                    raise BrokerError(f"RabbitMQ ended while starting\n{self._node.log_end()}")
                if time.monotonic() > deadline:
                    raise BrokerError(
                        f"RabbitMQ does not serve port {port} after {_BOOT_TIMEOUT:g} s\n{self._node.log_end()}"
                    )
                time.sleep(0.05)

    def _alive(self) -> subprocess.Popen[bytes]:
        if self._server is None or self._server.process.poll() is not None:
            raise BrokerError("RabbitMQ is not running")
        return self._server.process

    def _end(self, how: signal.Signals) -> None:
        guarded, self._server = self._server, None
        if guarded is None:
            return
        server = guarded.process
        guarded.guard.release()
        try:
            if server.poll() is None:
                server.send_signal(how)
                server.send_signal(signal.SIGCONT)  # a frozen one takes SIGTERM only when it goes on
            server.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise BrokerError(
                f"RabbitMQ did not stop in {_STOP_TIMEOUT:g} s and was killed\n{self._node.log_end()}"
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


class _Guarded:
    """A process at the head of a group of its own, which is killed with all that this has started, should we be."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: Path, output: IO[bytes] | int) -> None:
        self.guard = Guard()
        try:
            self.process = subprocess.Popen(  # noqa: S603 - found by find_program, arguments are written here
                command,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except BaseException:
            self.guard.release()
            raise
        self.guard.watch(self.process.pid, group=True)


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
