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
    Answer,
    Channel,
    Request,
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


def ask(
    root: Root, request: Request | Mapping[str, Any], *, host: str | None, port: int | None, wait: float | None
) -> Any:
    """Ask the agent of a root, and return what it answers: plain JSON.

    Args:
        request: or the same as a mapping, ``{"do": NAME, ...}``.
        host, port: by TCP, there; None for both: by the Unix socket if there is one, else as ``agent.conf`` says.
        wait: seconds for the answer; None: no limit.

    Raises:
        NoAgent, NoAnswer: see there.
        Unusable: the agent refuses or could not do it; ``code`` is one of ``wire.CODES``.
    """
    config = read_agent(root)[0].management
    connection = _connect_unix(root, otherwise=config.enabled) if host is None and port is None else None
    token = None
    if connection is None:
        token = _token(root)
        connection = _connect_tcp(ManagementConfig(True, host or config.host, port or config.port))
    with connection:
        try:
            return _exchange(Channel(connection), encode(request), token, wait)
        except TimeoutError as late:
            raise NoAnswer("the agent accepts no management request at the moment") from late
        except OSError as error:
            raise NoAgent(f"the agent has ended, or hung up: {error.strerror or error}") from error


def _exchange(channel: Channel, line: bytes, token: bytes | None, wait: float | None) -> Any:
    nonce, words = "", line
    if token is not None:
        try:
            greeting = decode(channel.receive(4096, monotonic() + _CONNECT), Answer)
        except Unusable as unusable:
            raise NoAgent(f"the process that answers there is not goferd: {unusable}") from unusable
        _raise_error(greeting)
        nonce = greeting.nonce or ""
        words = encode({"proof": proof(token, "caller", nonce, line[:-1])}) + line
    with suppress(BrokenPipeError, ConnectionResetError):  # refused before it has read; that is told below
        channel.send(words, monotonic() + _CONNECT)
    try:
        answer = channel.receive(MAX_ANSWER, None if wait is None else monotonic() + wait)
        if token is not None:
            shown = decode(answer, Answer)
            if shown.error is None or shown.proof is not None:  # else it was refused before there could be a proof
                answer = channel.receive(MAX_ANSWER, monotonic() + _CONNECT)
                if shown.proof != proof(token, "agent", nonce, answer):
                    raise Unusable("refused", "the process that answers there does not know the token of this root")
        found = decode(answer, Answer)
    except Unusable as unusable:
        if unusable.code == "too-slow":
            raise NoAnswer(f"no answer within {wait:g} s; the agent may still be working on it") from unusable
        if unusable.code == "malformed":
            raise NoAgent(f"the agent has hung up: {unusable}") from unusable
        raise
    _raise_error(found)
    return found.value


def _raise_error(answer: Answer) -> None:
    if answer.error is not None:
        code = answer.error.code
        raise Unusable(code if code in CODES else "internal", answer.error.text)


def _connect_unix(root: Root, *, otherwise: bool) -> socket.socket | None:
    """Connect to the agent's socket; None: nobody listens there, and there is another way."""
    path = socket_of(root)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_CONNECT)
    try:
        with reachable(str(path)) as name:
            connection.connect(name)
    except OSError as error:
        connection.close()
        why = error.strerror or error
        if isinstance(error, PermissionError):
            raise Unusable("refused", f"{path}: {why}; only root and the agent's own user may manage it") from error
        if not isinstance(error, FileNotFoundError | ConnectionRefusedError):
            raise NoAgent(f"{path}: {why}") from error
        if otherwise:
            return None
        raise NoAgent(f"no goferd listens at {path}: {why}") from error
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
        text = f"{path}: {error.strerror}; only root and the agent's own user may manage it"
        raise Unusable("refused", text) from error
    except OSError as error:
        raise NoAgent(f"{path}: {error.strerror}; no goferd runs there with [management] enabled") from error
    with open(descriptor, "rb") as file:
        return file.read(4096).strip()
