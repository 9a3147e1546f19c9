"""Users of this machine, made for a test."""

from __future__ import annotations

import os
import secrets
import subprocess
from types import TracebackType

import pytest

__all__ = ["Person"]


class Person:
    """A user with a password. A context manager: the user is removed at its end. Needs root."""

    def __init__(self, name: str) -> None:
        if os.geteuid() != 0:
            pytest.fail("these tests make users of this machine: they run as root")
        self.name = f"gofer-{name}-{os.getpid()}"
        self.password = f"s3cr3t-{secrets.token_hex(8)}"

    def __enter__(self) -> Person:
        shell = ["--shell", "/usr/sbin/nologin"]
        subprocess.run(["useradd", "--no-create-home", *shell, self.name], check=True, timeout=30)
        subprocess.run(["chpasswd"], input=f"{self.name}:{self.password}\n", text=True, check=True, timeout=30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["userdel", self.name], check=True, timeout=30, capture_output=True)
