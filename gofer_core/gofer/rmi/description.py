"""Descriptions of remote members as plain JSON: what ``Admin.describe`` tells."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from gofer.decorators import version_of
from gofer.rmi.api import API, Target, targets_of

__all__ = ["of_api"]


def of_api(api: API, tells: Callable[[Target], bool] = lambda target: True) -> dict[str, Any]:
    """Describe an API: its classes and functions, with signatures, first docstring lines and marks.

    A secret is shown only as True; the values never leave the agent.

    Args:
        tells: which methods are in it; a class without any is left out.
    """
    told = {
        name: [target for target in targets_of(api.plugin, name, cls) if tells(target)]
        for name, cls in sorted(api.classes.items())
    }
    return {
        "plugin": api.plugin,
        "names": list(api.names),
        "classes": [_of_class(name, api.classes[name], targets) for name, targets in told.items() if targets],
        "functions": [
            _of_target(target)
            for name, function in sorted(api.functions.items())
            for target in targets_of(api.plugin, name, function)
            if any(tells(replace(target, namespace=space)) for space in api.names)
        ],
    }


def _of_class(name: str, cls: type, targets: Iterable[Target]) -> dict[str, Any]:
    """Describe a class and its remote methods. ``version`` is None for one that has none."""
    version = version_of(cls)
    return {
        "name": name,
        "version": None if version is None else version.number,
        "doc": _first_line(cls),
        "constructor": _signature(cls, skip=False),
        "methods": [_of_target(target) for target in targets],
    }


def _of_target(target: Target) -> dict[str, Any]:
    """Describe a method or function, without its ``self``."""
    mark = target.mark
    bound = target.cls is not None and not isinstance(target.member, staticmethod)
    return {
        "name": target.method,
        "doc": _first_line(target.function),
        "signature": _signature(target.function, skip=bound),
        "parameters": _parameters(target.function, skip=bound),
        "model": target.model,
        "async": target.is_async,
        "once": mark.once,
        "timeout": mark.timeout,
        "secret": mark.secret is not None,
        "users": [login.user for login in mark.logins],
    }


def _parameters(function: Callable[..., Any], *, skip: bool) -> list[dict[str, Any]]:
    try:
        parameters = list(inspect.signature(function).parameters.values())[1 if skip else 0 :]
    except (TypeError, ValueError):
        return []  # what is written in C tells no signature
    empty = inspect.Parameter.empty
    return [
        {
            "name": one.name,
            "kind": one.kind.name.lower(),
            "type": None if one.annotation is empty else inspect.formatannotation(one.annotation).strip("'"),
            "default": None if one.default is empty else _shown(one.default),
        }
        for one in parameters
    ]


def _signature(function: Callable[..., Any], *, skip: bool) -> str:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return "(...)"
    parameters = [
        one.replace(annotation=_bare(one.annotation)) for one in list(signature.parameters.values())[1 if skip else 0 :]
    ]
    try:
        return str(signature.replace(parameters=parameters, return_annotation=_bare(signature.return_annotation)))
    except Exception:  # noqa: BLE001 - the repr of a default value may do anything
        return "(...)"


def _bare(annotation: object) -> object:
    """Have what was written as text, as all is under ``from __future__ import annotations``, shown without quotes."""
    return _Bare(annotation) if isinstance(annotation, str) else annotation


class _Bare:
    """Text that is its own repr."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _shown(value: object) -> str:
    try:
        return repr(value)[:200]
    except Exception:  # noqa: BLE001 - the repr of a default value may do anything
        return f"<{type(value).__qualname__}>"


def _first_line(documented: object) -> str:
    return (inspect.getdoc(documented) or "").strip().partition("\n")[0]
