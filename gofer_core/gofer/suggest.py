"""Help for errors about a name that does not exist: the nearest name, and the names that do exist."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["available", "did_you_mean", "nearest"]


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that is most like ``name``, whatever the case; None when none is like it.

    Args:
        cutoff: how like it must be: 0 for anything, 1 for the same.
    """
    from difflib import get_close_matches  # memory and time that an agent without mistakes does not need

    by_lower = {one.lower(): one for one in known}
    # Comparing is quadratic, and the name may come over the wire.
    found = get_close_matches(name[:100].strip().lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'bark'?)``, with a space in front, or an empty text when no name is near."""
    near = nearest(name, known)
    return "" if near is None else f" (did you mean {near!r}?)"


def available(known: Iterable[str], most: int = 30) -> str:
    """Return names in alphabetical order, with commas; at most ``most`` of them. ``none`` stands for no names."""
    names = sorted(known)
    if not names:
        return "none"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
