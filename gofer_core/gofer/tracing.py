"""Where a distribution that traces calls is put in. gofer itself knows no library of traces, and asks nobody.

``use("some_module:Tracer")`` makes the tracer of this process: an application does so, or a plugin for its agent. The
agent's part is done by hooks (:mod:`gofer.hooks`); a tracer begins the spans of calls that this process makes, and
those of methods that run in processes of their own, where there are no hooks.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Protocol

__all__ = ["Tracer", "slot", "use"]


class Tracer(Protocol):
    """What traces the calls of a process. Any thread."""

    def calling(self, document: dict[str, Any], url: Any, *, waits: bool) -> AbstractContextManager[object]:
        """Return what is entered around a call, from before its request is sent to its end; what it raises comes by.

        Put into the document what the agent goes on with: ``traceparent``, and ``tracestate`` if there is one.

        Args:
            url: the broker's :class:`gofer.messaging.url.URL`.
            waits: whether the call waits for its result.
        """

    def carrier(self) -> Mapping[str, str]:
        """Return what a method's own process goes on with, from where its call is now: names and text."""

    def in_child(self, called: str, carrier: Mapping[str, str]) -> AbstractContextManager[object]:
        """Return what is entered around a method in a process of its own; ``called`` is ``Class.method``.

        The process is forked, for this call, from one that has made the tracer and has one thread.
        """

    def flush(self) -> None:
        """Hand on what was recorded, in a process that ends next; quick, whatever does not answer."""


class _Slot:
    """The tracer of this process; ``name`` is what it was made from. None: calls are not traced."""

    tracer: Tracer | None = None
    name: str | None = None


slot = _Slot()


def use(name: str | None) -> None:
    """Make a tracer, and have it trace the calls of this process; None: none are traced any more.

    Args:
        name: its module and class, ``module:Class``. Processes that this one starts for methods do the same.
    """
    if name is None:
        slot.tracer = slot.name = None
        return
    module, _, attribute = name.partition(":")
    slot.tracer, slot.name = getattr(import_module(module), attribute)(), name
