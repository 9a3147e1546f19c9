"""Descriptions of remote members as plain JSON: what ``Admin.describe`` tells."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from gofer.decorators import version_of
from gofer.rmi.api import API, Target, targets_of
from gofer.rmi.contract import Contract, constructor_of

__all__ = ["of_api"]


def of_api(api: API, tells: Callable[[Target], bool] = lambda target: True) -> dict[str, Any]:
    """Describe an API: its classes and functions, with signatures, docstrings, JSON Schemas and marks.

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


def _of_class(name: str, cls: type, targets: Sequence[Target]) -> dict[str, Any]:
    """Describe a class and its remote methods. ``version`` is None for one that has none."""
    version = version_of(cls)
    constructor = constructor_of(cls)
    return {
        "name": name,
        "version": None if version is None else version.number,
        **_docs(cls),
        "constructor": _signature(cls, skip=False),
        "parameters": _parameters(constructor),
        "schema": constructor.schema(),
        "methods": [_of_target(target) for target in targets],
    }


def _of_target(target: Target) -> dict[str, Any]:
    """Describe a method or function, without its ``self``."""
    mark, contract = target.mark, target.contract
    bound = target.cls is not None and not isinstance(target.member, staticmethod)
    _, returns, definitions = contract.schemas()
    return {
        "name": target.method,
        **_docs(target.function),
        "signature": _signature(target.function, skip=bound),
        "parameters": _parameters(contract),
        "schema": contract.schema(),
        "returns": {**returns, "$defs": definitions} if definitions else returns,
        "model": target.model,
        "async": target.is_async,
        "once": mark.once,
        "read_only": mark.read_only,
        "destructive": mark.destructive,
        "idempotent": mark.idempotent,
        "timeout": mark.timeout,
        "typed": contract.checks and not mark.untyped,
        "secret": mark.secret is not None,
        "users": [login.user for login in mark.logins],
    }


def _docs(documented: object) -> dict[str, str]:
    whole = (inspect.getdoc(documented) or "").strip()
    return {"doc": whole.partition("\n")[0], "documentation": whole}


def _parameters(contract: Contract) -> list[dict[str, Any]]:
    """Describe parameters, those without a name among them; what is written in C tells none."""
    schemas, _, _ = contract.schemas()
    return [
        {
            "name": one.name,
            "kind": one.kind.name.lower(),
            "type": one.annotation,
            "schema": schema,
            "default": None if one.default is inspect.Parameter.empty else _shown(one.default),
        }
        for one, schema in zip(contract.parameters or (), schemas, strict=False)
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
