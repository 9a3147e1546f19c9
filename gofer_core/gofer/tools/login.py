"""Secrets and passwords of a caller: asked for at the terminal, or read from a file. Never on the command line."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

import click

from gofer.errors import ConfigError
from gofer.messaging.keyfiles import read_secret

__all__ = ["ask", "from_file", "password_of"]


def ask(what: str, option: str) -> str:
    """Ask for something at the terminal, without showing it.

    Raises:
        UsageError: there is no terminal; the text names ``option``, which reads a file.
    """
    try:
        with open("/dev/tty", "rb"):
            pass
    except OSError:
        raise click.UsageError(f"no terminal to ask for the {what} at; use {option} FILE") from None
    return getpass.getpass(f"{what.capitalize()}: ")


def from_file(path: str, option: str) -> str:
    """Return the first line of a file that only its owner may read, or of standard input for ``-``.

    Raises:
        UsageError: it cannot be read, or others may read it.
    """
    try:
        text = sys.stdin.read() if path == "-" else read_secret(Path(path)).decode()
    except (ConfigError, UnicodeDecodeError) as wrong:
        raise click.UsageError(f"{option}: {wrong}") from None
    line = text.partition("\n")[0].rstrip("\r")
    if not line:
        raise click.UsageError(f"{option}: the first line of {path} is empty")
    return line


def password_of(user: str, file: str | None) -> str:
    """Return a user's password: the first line of a file, or what is typed at the terminal."""
    if file is not None:
        return from_file(file, "--password-file")
    return ask(f"password of {user}", "--password-file")
