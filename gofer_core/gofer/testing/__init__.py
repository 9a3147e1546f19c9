"""What gofer ships for testing: the contract that every adapter keeps.

``AdapterContract`` is loaded when it is asked for, because it needs pytest and importing this package does not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gofer.testing.authenticators import AuthenticatorContract
    from gofer.testing.contract import AdapterContract

__all__ = ["AdapterContract", "AuthenticatorContract"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{'contract' if name == 'AdapterContract' else 'authenticators'}"), name)
