"""What can be asked of an agent by management, each by the name in ``{"do": NAME}``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gofer.agent.management.view import plugin_line, show
from gofer.agent.management.wire import Unusable, encode
from gofer.errors import ConfigError, GoferError, PluginError

if TYPE_CHECKING:
    from gofer.agent.container import PluginContainer

__all__ = ["Operations"]

log = logging.getLogger(__name__)

_MOST = 1000  # requests listed, unless more are asked for
_ALL = 100_000
_DATA = 8 << 20  # bytes of callers' data in one listing

_TEXT, _NUMBER, _OBJECT, _TEXTS = "text", "a whole number above 0", "an object", "a list of texts"


class Operations:
    """Does what callers of management ask for. Any thread; each may take its time.

    ==============  ==============================================  ================================================
    ``show``                                                        the agent, and its plugins with all about them
    ``load``        ``path`` of a descriptor                        the plugin, in short
    ``reload``      ``which``: a plugin's name, or a descriptor's   the plugin, in short
                    path
    ``unload``      ``which``: likewise                             None
    ``requests``    ``plugin``, ``states``, ``most``, all may be    ``entries``, ``total``, ``unavailable``
                    left out
    ``cancel``      ``sn``; or ``criteria``, and perhaps            the serial numbers of those that were there
                    ``plugin``
    ``retry``       ``sn``                                          None
    ``drop``        ``sn``                                          None
    ==============  ==============================================  ================================================
    """

    def __init__(self, container: PluginContainer) -> None:
        """Keep the container, whose plugins and requests these are about."""
        self._container = container
        #: What the agent does as a whole: ``starting``, ``running`` or ``stopping``.
        self.phase = "starting"
        self._known: dict[str, Callable[[_Request], Any]] = {
            "show": self._show,
            "load": self._load,
            "reload": self._reload,
            "unload": self._unload,
            "requests": self._requests,
            "cancel": self._cancel,
            "retry": self._retry,
            "drop": self._drop,
        }

    def do(self, request: Mapping[str, Any], caller: str) -> Any:
        """Do what a request says, and return plain JSON.

        Raises:
            Unusable: it cannot be done; says why.
        """
        asked = _Request(request)
        name = asked.text("do")
        operation = self._known.get(name or "")
        if operation is None:
            raise Unusable("malformed", f"'do' is {name!r:.60}; allowed: {', '.join(self._known)}")
        if name not in ("show", "requests"):
            told = " ".join(f"{key}={value!r:.200}" for key, value in request.items() if key != "do")
            log.info("management: %s: %s %s", caller, name, told)
        try:
            return operation(asked)
        except (PluginError, ConfigError) as failed:
            raise Unusable("failed", str(failed)) from failed

    def _show(self, asked: _Request) -> Any:
        asked.all_known()
        return show(self._container, self.phase)

    def _load(self, asked: _Request) -> Any:
        path = asked.needed("path")
        asked.all_known()
        return plugin_line(self._container.load(path))

    def _reload(self, asked: _Request) -> Any:
        which = asked.needed("which")
        asked.all_known()
        return plugin_line(self._container.reload(which))

    def _unload(self, asked: _Request) -> None:
        which = asked.needed("which")
        asked.all_known()
        self._container.unload(which)

    # -- requests -------------------------------------------------------------------------------------------------

    def _requests(self, asked: _Request) -> Any:
        plugin, most, states = asked.text("plugin"), asked.number("most"), asked.texts("states")
        asked.all_known()
        requests = self._container.requests
        more = {} if states is None else {"states": tuple(states)}
        try:
            found = requests.listing(plugin, most=min(most or _MOST, _ALL), **more)
        except ValueError as wrong:
            raise Unusable("malformed", str(wrong)) from wrong
        entries, left = [], _DATA
        for one in found.entries:
            size = 0 if one.data is None else len(encode(one.data))
            left_out = size > left
            left -= 0 if left_out else size
            entries.append({**one._asdict(), "data": None if left_out else one.data, "data_left_out": left_out})
        return {"entries": entries, "total": found.total, "unavailable": found.unavailable}

    def _cancel(self, asked: _Request) -> list[str]:
        sn, criteria, plugin = asked.text("sn"), asked.mapping("criteria"), asked.text("plugin")
        asked.all_known()
        if (sn is None) == (criteria is None):
            raise Unusable("malformed", "cancel needs one of 'sn' and 'criteria'")
        if plugin is not None and plugin not in self._container.plugins:
            known = ", ".join(sorted(self._container.plugins)) or "none"
            raise Unusable("malformed", f"there is no plugin {plugin!r:.60}; there are: {known}")
        try:
            if sn is not None:
                return [sn] if self._container.requests.cancel(sn) else []
            return list(self._container.requests.cancel_those(criteria or {}, plugin))
        except RuntimeError as failed:
            raise Unusable("failed", str(failed)) from failed
        except (GoferError, ValueError) as wrong:
            raise Unusable("malformed", str(wrong)) from wrong

    def _retry(self, asked: _Request) -> None:
        self._of_one(asked, self._container.requests.retry)

    def _drop(self, asked: _Request) -> None:
        self._of_one(asked, self._container.requests.drop)

    def _of_one(self, asked: _Request, operation: Callable[[str], object]) -> None:
        sn = asked.needed("sn")
        asked.all_known()
        try:
            operation(sn)
        except LookupError as unknown:
            raise Unusable("not-found", str(unknown.args[0] if unknown.args else unknown)) from unknown
        except (GoferError, ValueError, RuntimeError) as failed:
            raise Unusable("failed", str(failed)) from failed


class _Request:
    """A request's fields, each taken as what it has to be."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self._taken: set[str] = set()

    def text(self, name: str) -> str | None:
        found = self._take(name, _TEXT, _is_text)
        return None if found is None else str(found)

    def needed(self, name: str) -> str:
        found = self.text(name)
        if not found:
            raise Unusable("malformed", f"{name!r} is missing; allowed: {_TEXT}")
        return found

    def number(self, name: str) -> int | None:
        found = self._take(name, _NUMBER, lambda value: type(value) is int and value > 0)
        return None if found is None else int(found)

    def mapping(self, name: str) -> dict[str, Any] | None:
        found = self._take(name, _OBJECT, lambda value: isinstance(value, dict))
        return None if found is None else dict(found)

    def texts(self, name: str) -> list[str] | None:
        found = self._take(name, _TEXTS, lambda value: isinstance(value, list) and all(map(_is_text, value)))
        return None if found is None else list(found)

    def _take(self, name: str, allowed: str, fits: Callable[[Any], bool]) -> Any:
        self._taken.add(name)
        value = self._fields.get(name)
        if value is not None and not fits(value):
            raise Unusable("malformed", f"{name!r} is {value!r:.60}; allowed: {allowed}")
        return value

    def all_known(self) -> None:
        """Refuse what nobody has asked for: it might be a slip that changes what is meant."""
        if unknown := sorted(set(self._fields) - self._taken):
            raise Unusable(
                "malformed", f"{unknown[0]!r:.60} is unknown here; allowed: {', '.join(sorted(self._taken))}"
            )


def _is_text(value: object) -> bool:
    """Tell what paths and the ledger can take from what they cannot, like half of a surrogate pair."""
    return isinstance(value, str) and "\0" not in value and value == value.encode(errors="replace").decode()
