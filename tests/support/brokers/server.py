"""A broker's process: started, stopped, killed, frozen; gone when the test's own process is gone."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from gofer.testing.agents import Guard

from support.frozen import freeze
from support.ports import free_port

__all__ = ["BrokerError", "Server", "ServerTLS", "answers", "ask_management", "java_tool", "made_by"]

_GREETING = b"AMQP\x03\x01\x00\x00"  # AMQP 1.0 with SASL: every broker here answers it


class BrokerError(RuntimeError):
    """The test broker cannot be started, stopped or asked. The text has the end of its log."""


@dataclass(frozen=True, slots=True)
class ServerTLS:
    """The PEM files of a broker that listens for TLS. ``authority`` signed the client certificates that it takes."""

    certificate: Path
    key: Path
    authority: Path


class Server(ABC):
    """A broker under a directory, started and stopped as often as a test likes on the same ports.

    Not thread-safe. A context manager: it starts on entry; on exit it is killed and its directory deleted. Should this
    process be killed instead, the broker is, too. It has a user ``guest`` with the password ``guest``.

    ``port`` asks for a name and password; ``tls_port`` too, over TLS, and takes a client certificate but asks for
    none; on ``external_port`` the client certificate is the login (SASL EXTERNAL).
    """

    name = "broker"
    host = "127.0.0.1"
    #: Seconds until it must serve, and until it must have stopped.
    start_timeout = 200.0
    stop_timeout = 90.0

    def __init__(self, base_dir: str | os.PathLike[str], *, tls: ServerTLS | None = None) -> None:
        self.base_dir = Path(base_dir).absolute()
        self.tls = tls
        self.port, self.tls_port, self.external_port = free_port(), free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None
        self._log_start = 0

    @abstractmethod
    def write_files(self) -> None:
        """Write what the broker reads at its start, into ``base_dir``, which exists."""

    @abstractmethod
    def command(self) -> Sequence[str | os.PathLike[str]]:
        """Return the command that runs the broker in the foreground."""

    def environment(self) -> Mapping[str, str]:
        """Return the environment of that command."""
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self.base_dir), "LANG": "C.UTF-8"}

    def ports(self) -> tuple[int, ...]:
        """Return the ports that must be served before the broker counts as started."""
        return (self.port,) if self.tls is None else (self.port, self.tls_port, self.external_port)

    def serving(self, log: str) -> bool:
        """Tell whether the broker serves, once its ports answer. ``log`` is what it has printed since this start."""
        return True

    # -- life ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.base_dir)

    @property
    def running(self) -> bool:
        """Whether the broker's process lives (it may be frozen)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The broker's process.

        Raises:
            BrokerError: it does not run.
        """
        if self._process is None or self._process.poll() is not None:
            raise BrokerError(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the broker and wait until it serves. What is durable from an earlier start is still there.

        Raises:
            BrokerError: not installed, or not ready in 90 s.
        """
        if self.running:
            return
        self.base_dir.mkdir(parents=True, exist_ok=True)
        self.write_files()
        self._guard = Guard()
        try:
            with self._log.open("ab") as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(
                    list(self.command()),
                    env=dict(self.environment()),
                    cwd=self.base_dir,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._guard.watch(self._process.pid, group=True)
            self._wait_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Stop the broker in order. Idempotent."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the broker at once (SIGKILL), as a power cut would. ``start`` brings it back. Idempotent."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop the broker in order and start it again on the same ports."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop the broker's process where it stands (SIGSTOP): its sockets stay open and say nothing."""
        freeze(self.pid)

    def thaw(self) -> None:
        """Let a frozen broker go on."""
        self._signal(signal.SIGCONT)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Have it frozen."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    # -- use -------------------------------------------------------------------------------------------------------

    def url(
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
            vhost: another virtual host than the default.
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
        port = self.external_port if external else self.tls_port if tls else self.port
        path = "" if vhost is None else "/" + quote(vhost, safe="")
        return (
            f"{'' if adapter is None else adapter + '+'}{'amqps' if secure else 'amqp'}://"
            f"{login}{'localhost' if secure else self.host}:{port}{path}"
        )

    # -- inside ----------------------------------------------------------------------------------------------------

    @property
    def _log(self) -> Path:
        return self.base_dir / "stdout.log"

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        for port in self.ports():
            look = partial(answers, self.host, port, _GREETING if port == self.port else b"")
            self._wait_for(look, deadline, f"port {port}")
        self._wait_for(lambda: self.serving(self._log.read_text(errors="replace")[self._log_start :]), deadline, "yet")

    def _wait_for(self, look: Callable[[], bool], deadline: float, what: str) -> None:
        while not look():
            if not self.running:
                raise BrokerError(f"{self.name} ended while starting\n{self.log_end()}")
            if time.monotonic() > deadline:
                raise BrokerError(f"{self.name} does not serve {what} after {self.start_timeout:g} s\n{self.log_end()}")
            time.sleep(0.05)

    def log_end(self) -> str:
        """Return the end of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-25:])

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.release()
        if process is None:
            return
        try:
            if process.poll() is None:
                process.send_signal(how)
                process.send_signal(signal.SIGCONT)  # a frozen one takes SIGTERM only when it goes on
            process.wait(self.stop_timeout)
        except subprocess.TimeoutExpired:
            raise BrokerError(f"{self.name} did not stop in {self.stop_timeout:g} s and was killed") from None
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)  # whatever the command has started besides
            except ProcessLookupError:
                pass
            process.wait()


def java_tool(name: str) -> str:
    """Return the path of ``java`` or ``keytool``.

    Raises:
        BrokerError: Java is not installed; the text says what to type.
    """
    found = shutil.which(name)
    if found is None:
        raise BrokerError(f"{name} is not installed; install Java 17 or newer: scripts/need python3 java")
    return found


def made_by(script: str, variable: str, home: str | os.PathLike[str] | None) -> Path:
    """Return the directory that a script under ``scripts/brokers`` has made.

    Args:
        script: its name.
        variable: the environment variable that names the directory.
        home: the directory instead; None: what the variable says.

    Raises:
        BrokerError: the variable is not set, or there is no such directory; the text says what to type.
    """
    chosen = os.environ.get(variable) if home is None else os.fspath(home)
    if not chosen:
        raise BrokerError(
            f"{variable} is not set; make the broker, and set what this prints: "
            f"scripts/brokers/{script} build/brokers/{script}"
        )
    path = Path(chosen).absolute()
    if not path.is_dir():
        raise BrokerError(
            f"{path}, which {variable} names, is no directory; make it, and set what this prints: "
            f"scripts/brokers/{script} build/brokers/{script}"
        )
    return path


def ask_management(base: str, method: str, path: str, body: object = None, timeout: float = 10.0) -> Any:
    """Ask a broker's management API as guest: ``("http://127.0.0.1:15672/api", "GET", "/queues")``.

    Returns:
        The answer's JSON, or None when it has no body.

    Raises:
        BrokerError: the API said no; the text has its status and words.
    """
    request = urllib.request.Request(
        f"{base}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Authorization": "Basic " + base64.b64encode(b"guest:guest").decode(),
            "Content-Type": "application/json",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            text = answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            words = refused.read().decode(errors="replace")
        raise BrokerError(f"{method} {path}: {refused.code} {words}") from None
    return json.loads(text) if text else None


def answers(host: str, port: int, greeting: bytes) -> bool:
    """Whether the port accepts, and answers the greeting if there is one."""
    try:
        with socket.create_connection((host, port), timeout=2) as probe:
            if not greeting:
                return True
            probe.sendall(greeting)
            return bool(probe.recv(8))
    except OSError:
        return False
