"""The home of :class:`RequestTimeout` in gofer 2 (see :mod:`gofer.errors`)."""

from gofer.errors import RequestTimeout

__all__ = ["RequestTimeout"]
