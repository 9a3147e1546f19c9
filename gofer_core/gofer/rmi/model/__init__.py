"""Execution models: where a method runs.

DIRECT: within the agent's process; FORK: each call in a child of its own.
"""

from gofer.decorators import DIRECT, FORK

__all__ = ["DIRECT", "FORK"]
