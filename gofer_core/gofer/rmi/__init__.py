"""Requests and replies.

The caller's half (``options``, ``conversation``, ``session``, ``stub``) and the agent's half (``receiver``, ``book``,
``workers``, ``dispatcher``, ``model``, ``context``, ``outgoing``) never import each other; both use ``exceptions``.
"""

__all__: list[str] = []
