"""The documented home of :class:`Context`: what a method can know of the call it answers."""

from gofer.rmi.context import Context

__all__ = ["Context"]
