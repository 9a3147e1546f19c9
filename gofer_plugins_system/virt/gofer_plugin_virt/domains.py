"""Virtual machines: libvirt's domains."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import libvirt
from gofer.agent.plugin import Plugin
from gofer.decorators import once, pam, remote

from gofer_plugin_virt.connections import connect

__all__ = ["Domain", "Virt"]

#: ``{"name": text, "uuid": text, "id": its number while it runs, else None, "state": text}``
Domain = dict[str, Any]

# As virsh says it.
_STATES = {
    libvirt.VIR_DOMAIN_NOSTATE: "no state",
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "idle",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "in shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "pmsuspended",
}
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")
_WRONG_XML = frozenset(
    (
        *(libvirt.VIR_ERR_XML_ERROR, libvirt.VIR_ERR_XML_DETAIL, libvirt.VIR_ERR_XML_INVALID_SCHEMA),
        *(libvirt.VIR_ERR_NO_NAME, libvirt.VIR_ERR_NO_ROOT, libvirt.VIR_ERR_NO_OS, libvirt.VIR_ERR_OS_TYPE),
        *(libvirt.VIR_ERR_CONFIG_UNSUPPORTED, libvirt.VIR_ERR_INVALID_ARG),
    )
)
_REFUSED = frozenset((libvirt.VIR_ERR_ACCESS_DENIED, libvirt.VIR_ERR_OPERATION_DENIED, libvirt.VIR_ERR_AUTH_FAILED))


class Virt:
    """The virtual machines of the agent's host.

    ``domain`` is a name, a UUID, or the number of a running one.

    All methods raise:

    - LookupError: there is no such domain. The text names those that there are
    - RuntimeError: libvirt has refused, like "domain is already running"
    - ConnectionError: libvirt cannot be reached; PermissionError: it does not take the agent's user
    """

    @remote
    @pam(user="root", identity=True)
    def domains(self) -> list[Domain]:
        """List all domains, by name: ``[{"name", "uuid", "id", "state"}, ...]``; ``id`` is None unless it runs."""
        with _errors("libvirt cannot list domains"):
            found = [_describe(one) for one in _connection().listAllDomains()]
        return sorted(found, key=lambda one: str(one["name"]))

    @remote
    @pam(user="root", identity=True)
    def state(self, domain: str | int) -> str:
        """Tell a domain's state.

        One of ``running``, ``idle``, ``paused``, ``in shutdown``, ``shut off``, ``crashed``, ``pmsuspended`` and
        ``no state``.
        """
        with _errors(f"domain {domain!r}"):
            return _state(_find(domain))

    @remote
    @pam(user="root", identity=True)
    def id(self, domain: str | int) -> int | None:
        """Tell the number of a domain, which it has while it runs; None: it does not run."""
        with _errors(f"domain {domain!r}"):
            return _id(_find(domain))

    @remote
    @once
    @pam(user="root", identity=True)
    def start(self, domain: str | int) -> Domain:
        """Start a domain, and return what it is then, as ``domains`` does."""
        return _do(domain, "was not started", lambda found: found.create())

    @remote
    @once
    @pam(user="root", identity=True)
    def shutdown(self, domain: str | int) -> Domain:
        """Ask the system in a domain to shut down, and return what it is then, as ``domains`` does.

        The system may take its time, or ignore that: ask for ``state``.
        """
        return _do(domain, "was not told to shut down", lambda found: found.shutdown())

    @remote
    @once
    @pam(user="root", identity=True)
    def destroy(self, domain: str | int) -> Domain:
        """Switch a domain off, as if its power had failed, and return what it is then, as ``domains`` does.

        Its definition stays. A domain that was never defined, only created, is gone.
        """
        return _do(domain, "was not switched off", lambda found: found.destroy())

    @remote
    @once
    @pam(user="root", identity=True)
    def define(self, xml: str) -> Domain:
        """Define a domain, or change the definition of the one with that name and UUID; it is not started.

        Args:
            xml: libvirt's description of it.

        Raises:
            ValueError: it is no such description; the text says what is wrong.
            TypeError: no text.
        """
        if not isinstance(xml, str):
            raise TypeError(f"xml is a text, not {xml!r:.100}")
        with _errors("the domain was not defined"):
            # The characters of a text that C cannot hold are none of XML either.
            return _describe(_connection().defineXML(xml.replace("\0", "\N{REPLACEMENT CHARACTER}")))


def _connection() -> libvirt.virConnect:
    return connect(Plugin.find(__name__))


def _find(domain: object) -> libvirt.virDomain:
    """Find a domain.

    Raises:
        LookupError: there is none such.
        TypeError: neither text nor a number.
    """
    if isinstance(domain, bool) or not isinstance(domain, str | int):
        raise TypeError(f"domain is a name, a UUID or a number, not {domain!r:.100}")
    connection = _connection()
    try:
        if isinstance(domain, int):
            return connection.lookupByID(max(domain, 0))  # no domain that runs has 0
        return connection.lookupByName(domain)
    except (libvirt.libvirtError, ValueError, OverflowError) as error:  # too large a number, or text that C cannot hold
        if isinstance(error, libvirt.libvirtError) and error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise
    every = connection.listAllDomains()
    if isinstance(domain, str) and _UUID.fullmatch(domain):
        wanted = domain.replace("-", "").lower()
        for one in every:
            if one.UUIDString().replace("-", "") == wanted:
                return one
    names = ", ".join(sorted(one.name() for one in every)) or "none"
    raise LookupError(f"there is no domain {domain!r:.100}; there are: {names:.1000}")


def _do(domain: object, failed: str, what: Callable[[libvirt.virDomain], object]) -> Domain:
    """Do something with a domain, and return what it is then. ``failed`` says that it was not done."""
    with _errors(f"domain {domain!r} {failed}"):
        found = _find(domain)
        what(found)
        return _describe(found)


def _describe(domain: libvirt.virDomain) -> Domain:
    return {"name": domain.name(), "uuid": domain.UUIDString(), "id": _id(domain), "state": _state(domain)}


def _state(domain: libvirt.virDomain) -> str:
    try:
        number = domain.state()[0]
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return _STATES[libvirt.VIR_DOMAIN_SHUTOFF]  # it was never defined, and has gone with its end
        raise
    return _STATES.get(number, f"state {number}")


def _id(domain: libvirt.virDomain) -> int | None:
    number = int(domain.ID())
    return None if number < 0 else number


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """Turn libvirt's errors into builtins: the caller may not have libvirt."""
    try:
        yield
    except libvirt.libvirtError as error:
        code, text = error.get_error_code(), f"{what[:200]}: {error}"
        if code in _WRONG_XML:
            raise ValueError(text) from None
        if code in _REFUSED:
            raise PermissionError(text) from None
        raise RuntimeError(text) from None
