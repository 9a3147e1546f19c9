"""The caller's side of management: finds the agent of a root, and asks it one thing."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from gofer.agent.config import ManagementConfig, read_agent
from gofer.agent.management.wire import (
    CODES,
    MAX_ANSWER,
    Channel,
    Unusable,
    decode,
    encode,
    proof,
    socket_of,
    token_of,
)
from gofer.errors import GoferError
from gofer.messaging.local.paths import reachable
from gofer.root import Root

__all__ = ["NoAgent", "NoAnswer", "ask"]

_CONNECT = 5.0  # seconds to connect, and to be greeted


class NoAgent(GoferError):
    """There is no agent to talk to."""


class NoAnswer(GoferError):
    """The agent has not answered in time; it may still be working on it."""


def ask(root: Root, request: Mapping[str, Any], *, host: str | None, port: int | None, wait: float | None) -> Any:
    """Ask the agent of a root, and return what it answers: plain JSON.

    Args:
        host, port: by TCP, there; None for both: by the Unix socket if there is one, else as ``agent.conf`` says.
        wait: seconds for the answer; None: no limit.

    Raises:
        NoAgent, NoAnswer: see there.
        Unusable: the agent refuses or could not do it; ``code`` is one of ``wire.CODES``.
    """
    by_tcp = host is not None or port is not None
    config = read_agent(root)[0].management
    if not by_tcp:
        try:
            connection = _connect_unix(root)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if not config.enabled:
                raise NoAgent(f"no goferd listens at {socket_of(root)}: {error.strerror}") from error
            by_tcp = True
        except PermissionError as error:
            raise Unusable(
                "refused",
                f"{error.filename or socket_of(root)}: {error.strerror}; only root and the "
                "agent's own user may manage it",
            ) from error
        except OSError as error:
            raise NoAgent(f"{socket_of(root)}: {error.strerror or error}") from error
    token = None
    if by_tcp:
        config = ManagementConfig(True, config.host if host is None else host, config.port if port is None else port)
        token = _token(root)
        connection = _connect_tcp(config)
    with connection:
        try:
            return _exchange(connection, encode(request), token, wait)
        except TimeoutError as late:
            raise NoAnswer("the agent accepts no management request at the moment") from late
        except OSError as error:
            raise NoAgent(f"the agent has ended, or hung up: {error.strerror or error}") from error


def _exchange(connection: socket.socket, line: bytes, token: bytes | None, wait: float | None) -> Any:
    channel = Channel(connection)
    nonce, words = "", line
    if token is not None:
        greeting = _line(channel, monotonic() + _CONNECT, "the process that answers there is not goferd")
        nonce = str(greeting.get("nonce"))
        words = encode({"proof": proof(token, "caller", nonce, line[:-1])}) + line
        if "error" in greeting:
            raise _error(greeting)
    with suppress(BrokenPipeError, ConnectionResetError):  # refused before it has read; that is told below
        channel.send(words, monotonic() + _CONNECT)
    try:
        answer = channel.receive(MAX_ANSWER, None if wait is None else monotonic() + wait)
        if token is not None:
            shown = decode(answer).get("proof")
            if shown is not None or "error" not in decode(answer):
                answer = channel.receive(MAX_ANSWER, monotonic() + _CONNECT)
                if shown != proof(token, "agent", nonce, answer):
                    raise Unusable("refused", "the process that answers there does not know the token of this root")
    except Unusable as unusable:
        if unusable.code == "too-slow":
            raise NoAnswer(f"no answer within {wait:g} s; the agent may still be working on it") from unusable
        if unusable.code == "malformed":
            raise NoAgent(f"the agent has hung up: {unusable}") from unusable
        raise
    found = decode(answer)
    if "error" in found:
        raise _error(found)
    return found.get("value")


def _error(found: Mapping[str, Any]) -> Unusable:
    told = found["error"]
    code, text = (told.get("code"), told.get("text")) if isinstance(told, dict) else (None, None)
    return Unusable(code if code in CODES else "internal", str(text))


def _line(channel: Channel, deadline: float, otherwise: str) -> dict[str, Any]:
    try:
        return decode(channel.receive(4096, deadline))
    except Unusable as unusable:
        raise NoAgent(f"{otherwise}: {unusable}") from unusable


def _connect_unix(root: Root) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_CONNECT)
    try:
        with reachable(str(socket_of(root))) as name:
            connection.connect(name)
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_tcp(config: ManagementConfig) -> socket.socket:
    try:
        return socket.create_connection((config.host, config.port), _CONNECT)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise NoAgent(f"no goferd listens at {config.host} port {config.port}: {why}") from error


def _token(root: Root) -> bytes:
    path = token_of(root)
    try:
        # Not through a FIFO or the like: only the agent's user and root can write there, but a mistake is soon made.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as error:
        raise Unusable(
            "refused", f"{path}: {error.strerror}; only root and the agent's own user may manage it"
        ) from error
    except OSError as error:
        raise NoAgent(f"{path}: {error.strerror}; no goferd runs there with [management] enabled") from error
    with open(descriptor, "rb") as file:
        return file.read(4096).strip()
