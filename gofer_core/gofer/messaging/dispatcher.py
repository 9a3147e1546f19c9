"""The documented home of ``NotAuthorized`` (see :mod:`gofer.errors`)."""

from gofer.errors import NotAuthorized

__all__ = ["NotAuthorized"]
