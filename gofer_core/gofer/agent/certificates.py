"""The certificates that plugins use: which there are, and a warning once a day from 30 days before one ends."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from gofer.agent.config import Descriptor
from gofer.errors import ConfigError
from gofer.messaging.certificates import day, read_certificates, read_file
from gofer.messaging.url import URL
from gofer.rmi.clock import Clock

if TYPE_CHECKING:
    from gofer.agent.plugin import Plugin

__all__ = ["CertificateWatch", "InUse", "certificates_in_use", "files_of", "read_in_use"]

log = logging.getLogger(__name__)

_DAY = 86400.0
#: Seconds before its end that a certificate is warned of.
_EARLY = 30 * _DAY
_LOOK = 3600.0  # seconds between two looks
_MOST = 20  # authorities in one file; a file with more is the system's, and most of it is not used


class InUse(Struct, frozen=True):
    """A certificate that plugins use.

    ``uses``: for what, like ``clientcert of plugin dogs``. ``name``: its CN. ``ends``: seconds since 1970, None if it
    cannot be read, and then ``error`` says why.
    """

    file: str
    uses: tuple[str, ...]
    name: str = ""
    ends: float | None = None
    error: str | None = None

    def warning(self, now: float) -> str | None:
        """Say what is wrong with it, and what to do; None: nothing is, yet."""
        uses = ", ".join(self.uses)
        if self.ends is None:
            return f"certificate {self.file} ({uses}) cannot be read: {self.error}"
        left = self.ends - now
        if left > _EARLY:
            return None
        what = f"certificate {self.name!r} in {self.file} ({uses})"
        when = f"ended on {day(self.ends)}"
        if left > 0:
            days = int(left // _DAY)
            when = f"ends in {days} day{'' if days == 1 else 's'}, on {day(self.ends)}"
        return f"{what} {when}. Renew it (gofer certs renew), and replace the file: no restart is needed"


def files_of(descriptor: Descriptor, url: URL | None) -> Iterator[tuple[str, Path]]:
    """Iterate over the files with certificates that a descriptor names and a connection to this URL uses."""
    if url is not None and url.tls:
        for option, path in (("cacert", descriptor.cacert), ("clientcert", descriptor.clientcert)):
            if path is not None:
                yield option, path


def certificates_in_use(plugins: Iterable[Plugin]) -> list[InUse]:
    """Read the certificates of running plugins' connections and authenticators, each once; reads files."""
    uses: dict[Path, list[str]] = {}
    for plugin in plugins:
        if plugin.state.value not in ("running", "loading"):
            continue
        try:
            named = list(files_of(plugin.described, plugin.url))
        except ConfigError:
            continue  # its code has set what cannot be used, and was told so
        files = getattr(plugin.authenticator, "certificate_files", None)
        if callable(files):
            try:
                named += [("authenticator", Path(path)) for path in files()]
            except Exception as error:  # noqa: BLE001 - an authenticator of somebody else's
                log.warning("plugin %s: certificate_files of its authenticator failed: %s", plugin.name, error)
        for option, path in named:
            uses.setdefault(path, []).append(f"{option} of plugin {plugin.name}")
    return [one for path, what in uses.items() for one in read_in_use(path, what)]


def read_in_use(path: Path, uses: Iterable[str]) -> list[InUse]:
    """Read a file. Of several certificates with one name the one counts that ends last: it was renewed."""
    file, what = str(path), tuple(uses)
    try:
        found = read_certificates(read_file(path)[0])
    except (OSError, ValueError) as error:
        return [InUse(file, what, error=getattr(error, "strerror", None) or str(error))]
    if not found:
        return [InUse(file, what, error="it holds no PEM certificate")]
    last: dict[str, float] = {}
    for one in found:
        last[one.name] = max(one.ends, last.get(one.name, one.ends))
    return [] if len(last) > _MOST else [InUse(file, what, name, ends) for name, ends in last.items()]


class CertificateWatch:
    """Looks at the certificates once an hour, and logs a warning for each at most once a day.

    Args:
        plugins: returns the plugins. Called in a thread of its own.
        monotonic: tells the time, in seconds.
    """

    def __init__(
        self,
        clock: Clock,
        plugins: Callable[[], Iterable[Plugin]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._plugins = plugins
        self._monotonic = monotonic
        self._told: dict[tuple[str, str], float] = {}
        self._looking = threading.Lock()

    def start(self) -> None:
        """Look now, and from now on."""
        # Files may be on a disk that does not answer: nobody else may wait for that.
        threading.Thread(target=self.look, name="gofer-certificates", daemon=True).start()
        self._clock.call_after(_LOOK, self.start)

    def look(self) -> None:
        """Log what is to be warned of, and was not within a day."""
        if not self._looking.acquire(blocking=False):
            return  # the last look has not come back
        try:
            now = self._monotonic()
            told = {}
            for one in certificates_in_use(self._plugins()):
                warning, key = one.warning(time.time()), (one.file, one.name)
                if warning is None:
                    continue
                told[key] = self._told.get(key, now - _DAY)
                if now - told[key] >= _DAY:
                    told[key] = now
                    log.warning("%s", warning)
            self._told = told  # without those that were renewed, or are not used any more
        finally:
            self._looking.release()
