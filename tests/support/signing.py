"""A goferd that signs and believes by keys or by certificates, and its callers by name."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from gofer.messaging.connector import Connector
from gofer.messaging.stamped import StampedAuthenticator
from gofer.messaging.url import URL
from gofer.proxy import Agent
from gofer_authenticator_hmac import HmacAuthenticator
from gofer_authenticator_x509 import X509Authenticator

from support.goferd import AgentProcess
from support.localbroker import LocalBroker
from support.pki import OWN, SERVER, Authority
from support.presence import until_it_answers
from support.probe import PROBE

__all__ = ["ALIAS", "QUEUE", "SCHEMES", "SIGNER", "Scheme", "Serving", "hmac_scheme", "serving", "x509_scheme"]

QUEUE = "signed-probe"
ALIAS = "signed-probe-too"

#: A module with an authenticator of its own, by which everybody is Jane.
SIGNER = """
import hmac

from gofer.messaging.auth import Authenticator, ValidationFailed


class Signer(Authenticator):
    def sign(self, digest):
        return hmac.digest(b"key", digest.encode(), "sha256")

    def validate(self, document, digest, signature):
        if not hmac.compare_digest(self.sign(digest), signature):
            raise ValidationFailed("signature not matched")
        return "jane"
"""

WHO = """
from gofer.agent.rmi import Context
from gofer.decorators import fork, remote
from gofer.hooks import hookimpl


class Who:
    called = []
    asked = []

    @remote
    def am_i(self):
        return Context.current().identity

    @remote
    def tell(self, path, until):
        # The number of this request and where its replies go; and stay until another file is there.
        import os
        import time

        request = self.asked[-1]
        with open(path, "w") as file:
            file.write(f"{request.sn} {request.replyto}!")
        while not os.path.exists(until):
            time.sleep(0.005)
        return "told"

    @remote
    @fork
    def am_i_there(self):
        return Context.current().identity

    @remote
    async def am_i_later(self):
        return Context.current().identity

    @remote
    def called_me(self):
        return self.called[:-1]

    @remote(secret=("first", "second"))
    def knows(self):
        return "in"


@hookimpl
def gofer_accept(request):
    if request.method == "tell":
        Who.asked.append(request)
    if request.identity == "banned":
        raise PermissionError(f"not {request.identity}")


@hookimpl(wrapper=True)
def gofer_call(request):
    Who.called.append([request.identity, request.api.name])
    return (yield)
"""


class Scheme:
    """How both sides sign, with a few callers by name. ``section`` is what the agent's descriptor says.

    ``admit`` makes a caller known that was not, while the agent runs, and ``banish`` is the end of that.
    """

    def __init__(
        self,
        name: str,
        section: str,
        named: Callable[[str], StampedAuthenticator],
        admit: Callable[[str], None],
        banish: Callable[[str], None],
    ) -> None:
        self.name = name
        self.section = section
        self.named = named
        self.admit = admit
        self.banish = banish


def hmac_scheme(folder: Path) -> Scheme:
    keys = folder / "keys"
    names = ["agent", "ops", "guest", "banned"]

    def write(path: Path, *known: str) -> None:
        new = path.with_name(f".{path.name}.new")  # whole, or not there: it may be read at this moment
        new.touch(0o600)
        new.write_text("".join(f"{n} {base64.b64encode(n.encode().ljust(32, b'.')).decode()}\n" for n in known))
        new.replace(path)

    write(keys, *names)

    def named(name: str) -> StampedAuthenticator:
        if name != "stranger":
            own = folder / f"{name}.keys"
            write(own, name, "agent")
            return HmacAuthenticator(own)
        other = folder / "other"
        other.touch(0o600)
        other.write_text(f"ops {base64.b64encode(b'x' * 32).decode()}\n")
        return HmacAuthenticator(other)

    def admit(name: str) -> None:
        names.append(name)
        write(keys, *names)

    def banish(name: str) -> None:
        names.remove(name)
        write(keys, *names)

    return Scheme("hmac", f"keys = {keys}\nkey = agent\n", named, admit, banish)


def x509_scheme(folder: Path) -> Scheme:
    authority, other = Authority(folder / "pki"), Authority(folder / "other")
    holders = {name: authority.issue(name) for name in ("agent", "ops", "guest", "banned")}
    stranger = other.issue("ops")
    # Both have the name of one who may do more than others.
    holders["web server"] = authority.issue("ops", file="web-server", purposes=(SERVER,))
    unknown = x509.UnrecognizedExtension(OWN, b"\x05\x00")
    holders["unknown extension"] = authority.issue("ops", file="unknown-extension", more=((unknown, True),))
    authority.revoke()

    def named(name: str) -> StampedAuthenticator:
        holder, its = (stranger, other) if name == "stranger" else (holders[name], authority)
        return X509Authenticator(certificate=holder.certificate, key=holder.key, ca=its.ca)

    def admit(name: str) -> None:
        holders[name] = authority.issue(name)

    def banish(name: str) -> None:
        authority.revoke(holders[name])

    mine = holders["agent"]
    section = f"certificate = {mine.certificate}\nkey = {mine.key}\nca = {authority.ca}\ncrl = {authority.crl}\n"
    return Scheme("x509", section, named, admit, banish)


SCHEMES = {"hmac": hmac_scheme, "x509": x509_scheme}


class Serving:
    """A goferd that signs, at a local broker."""

    def __init__(self, folder: Path, scheme: Scheme) -> None:
        self.scheme = scheme
        self.broker = LocalBroker(str(folder / "broker.sock"))
        self.process = AgentProcess(folder / "root")
        self.connector = Connector(URL.parse(self.broker.url), reconnect_max=1.0)

    @property
    def log(self) -> str:
        return self.process.log.read_text()

    def agent(self, name: str | None = "ops", wait: float = 20, **options: Any) -> Agent:
        signer = None if name is None else self.scheme.named(name)
        return Agent(self.connector, QUEUE, wait=wait, authenticator=signer, **options)


@contextmanager
def serving(folder: Path, scheme: Scheme, *, main: str = "admin = ops") -> Iterator[Serving]:
    one = Serving(folder, scheme)
    with one.broker, one.process as process:
        process.plugin(
            "probe",
            PROBE + WHO,
            f"[main]\nenabled = 1\nthreads = 4\n{main}\n"
            f"[messaging]\nurl = {one.broker.url}\nauthenticator = {scheme.name}\naudience = {ALIAS}\n"
            f"[model]\nqueue = {QUEUE}\n[{scheme.name}]\n{scheme.section}",
        )
        process.start()
        with one.agent() as agent:
            until_it_answers(agent, process.tail())
        yield one
