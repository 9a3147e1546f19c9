"""Requests and replies.

The caller's half (``client``) and the agent's half (``server``, ``store``, ``model``, and what both of these use) never
import each other; both halves use ``exceptions``.
"""

__all__: list[str] = []
