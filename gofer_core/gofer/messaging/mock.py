"""The documented name of :mod:`gofer.testing.mock`."""

from gofer.testing.mock import install, register, uninstall

__all__ = ["install", "register", "uninstall"]
