"""What can be asked of an agent by management: one function for each request of ``wire``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from gofer.agent.management import wire
from gofer.agent.management.view import plugin_line, show
from gofer.agent.management.wire import Unusable, encode
from gofer.errors import GoferError
from gofer.rmi.store import Unavailable

if TYPE_CHECKING:
    from gofer.agent.container import PluginContainer

__all__ = ["Operations"]

log = logging.getLogger(__name__)

_MOST = 100_000  # requests in one listing
_DATA = 8 << 20  # bytes of callers' data in one listing


class Operations:
    """Does what callers of management ask for. Any thread; each may take its time.

    ``phase``: what the agent does as a whole: ``starting``, ``running`` or ``stopping``.
    """

    def __init__(self, container: PluginContainer) -> None:
        """Keep the container, whose plugins and requests these are about."""
        self._container = container
        self.phase = "starting"
        self._known: Mapping[type, Callable[[Any], Any]] = {
            wire.Show: lambda _: show(container, self.phase),
            wire.Load: lambda asked: plugin_line(container.load(asked.path)),
            wire.Reload: lambda asked: plugin_line(container.reload(asked.which)),
            wire.Unload: lambda asked: container.unload(asked.which),
            wire.Requests: self._requests,
            wire.Cancel: self._cancel,
            wire.Retry: lambda asked: container.requests.retry(asked.sn),
            wire.Drop: lambda asked: container.requests.drop(asked.sn),
        }

    def do(self, request: wire.Request, caller: str) -> Any:
        """Do what a request says, and return plain JSON.

        Raises:
            Unusable: it cannot be done; says why.
        """
        if not isinstance(request, wire.Show | wire.Requests):
            fields = msgspec.to_builtins(request)
            told = " ".join(f"{key}={value!r:.200}" for key, value in fields.items() if key != "do")
            log.info("management: %s: %s %s", caller, fields["do"], told)
        try:
            return self._known[type(request)](request)
        except Unusable:
            raise
        except (GoferError, Unavailable, RuntimeError, TimeoutError) as failed:
            raise Unusable("failed", str(failed)) from failed
        except LookupError as unknown:
            if not isinstance(request, wire.Retry | wire.Drop):
                raise
            raise Unusable("not-found", str(unknown.args[0] if unknown.args else unknown)) from unknown

    def _requests(self, asked: wire.Requests) -> Any:
        states = {} if asked.states is None else {"states": asked.states}
        try:
            found = self._container.requests.listing(asked.plugin, most=min(asked.most, _MOST), **states)
        except ValueError as wrong:
            raise Unusable("malformed", str(wrong)) from wrong
        entries, left = [], _DATA
        for one in found.entries:
            size = 0 if one.data is None else len(encode(one.data))
            left_out = size > left
            left -= 0 if left_out else size
            entries.append({**one._asdict(), "data": None if left_out else one.data, "data_left_out": left_out})
        return {"entries": entries, "total": found.total, "unavailable": found.unavailable}

    def _cancel(self, asked: wire.Cancel) -> list[str]:
        requests, plugins = self._container.requests, self._container.plugins
        if (asked.sn is None) == (asked.criteria is None):
            raise Unusable("malformed", "cancel needs one of 'sn' and 'criteria'")
        if asked.plugin is not None and asked.plugin not in plugins:
            known = ", ".join(sorted(plugins)) or "none"
            raise Unusable("malformed", f"there is no plugin {asked.plugin!r:.60}; there are: {known}")
        try:
            if asked.sn is not None:
                return [asked.sn] if requests.cancel(asked.sn) else []
            return list(requests.cancel_those(asked.criteria or {}, asked.plugin))
        except (GoferError, ValueError) as wrong:  # no serial number, or no criteria
            raise Unusable("malformed", str(wrong)) from wrong
