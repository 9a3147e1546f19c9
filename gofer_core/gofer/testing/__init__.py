"""What gofer ships for testing: the contract that every adapter keeps.

``AdapterContract`` is loaded when it is asked for, because it needs pytest and importing this package does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gofer.testing.authenticators import AuthenticatorContract
    from gofer.testing.contract import AdapterContract

__all__ = ["AdapterContract", "AuthenticatorContract"]


def __getattr__(name: str) -> object:
    if name == "AdapterContract":
        from gofer.testing.contract import AdapterContract

        return AdapterContract
    if name == "AuthenticatorContract":
        from gofer.testing.authenticators import AuthenticatorContract

        return AuthenticatorContract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
