"""A goferd with rules in ``[access]``, and callers who sign by names."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path
from typing import Any

from gofer.messaging.connector import Connector
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer_authenticator_hmac import HmacAuthenticator

from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.plugins import describe, install
from support.waiting import eventually

__all__ = ["Guarded"]

CALLERS = ("agent", "alice", "bob", "carol")


class Guarded:
    """Plugins with rules, each at the queue of its name. All know the same keys, one for each caller."""

    def __init__(self, process: AgentProcess, broker: LocalBroker, site: Path) -> None:
        self.process = process
        self.root = process.root
        self.site = site
        self.url = broker.url
        self.keys = process.root / "etc/gofer/keys"
        self.keys.touch(0o600)
        self.keys.write_text("".join(f"{name} {base64.b64encode(os.urandom(32)).decode()}\n" for name in CALLERS))

    def code(self, name: str, code: str) -> None:
        """Install a plugin's code."""
        install(self.site, name, code)

    def describe(self, name: str, access: str | None, main: str = "", *, signed: bool = True) -> Path:
        """Write a descriptor; ``access`` are the lines of that section. None: it has none."""
        trust = f"authenticator = hmac\n[hmac]\nkeys = {self.keys}\nkey = agent\n" if signed else ""
        rules = "" if access is None else f"[access]\n{access}\n"
        text = (
            f"[main]\nenabled=1\nthreads=4\n{main}\n[model]\nqueue={name}\n[messaging]\nurl={self.url}\n{trust}{rules}"
        )
        return describe(self.root, name, text)

    def groups(self, **members: str) -> None:
        """Write ``agent.conf``."""
        self.process.configure("[groups]\n" + "".join(f"{name} = {who}\n" for name, who in members.items()))

    def agent(self, identity: str | None = "alice", address: str = "dog", **options: Any) -> Agent:
        """Return an agent as that caller sees it; None: one who does not sign."""
        signer = None if identity is None else HmacAuthenticator(self.keys, key=identity)
        connector = Connector(URL.parse(self.url), reconnect_max=1.0)
        return Agent(connector, address, authenticator=signer, **{"wait": 60.0, **options})

    def log(self, text: str) -> int:
        """Return how often a text is in the log."""
        return self.process.log.read_text().count(text)

    def reread(self, told: str = "who may call it has changed") -> None:
        """Have goferd read its descriptors again, and wait until its log says so."""
        before = self.log(told)
        os.kill(self.process.pid, signal.SIGHUP)
        eventually(lambda: self.log(told) > before)
