"""Who may write a file: what decides what is run, and who is believed, must be safe from everybody else."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

__all__ = ["OTHERS_WRITE", "SECRET", "distrust", "refusal", "user_name"]

#: Rights that others than the owner must not have: to a file that decides something, and to one that holds a secret,
#: which its group may read.
OTHERS_WRITE, SECRET = 0o022, 0o037


def distrust(path: Path, found: os.stat_result | None = None) -> str | None:
    """Return why code or configuration at ``path`` is refused, or None: nobody else could have put it there.

    What it leads to must be as ``refusal`` says. If it is a symbolic link, the link must belong to root or this
    process's user, too, and nobody else must be able to replace its target: the directory of that is as safe, or has
    the sticky bit.

    Args:
        found: the status of what it leads to; None: it is looked at now.

    Raises:
        OSError: there is nothing at ``path``.
    """
    reason = refusal(path, os.stat(path) if found is None else found)
    link = os.lstat(path)
    if reason is not None or not stat.S_ISLNK(link.st_mode):
        return reason
    user = os.geteuid()
    if link.st_uid not in (0, user):
        return (
            f"the link belongs to {_owner(link.st_uid)}; {_allowed()}. Fix: chown -h {user_name(user)} {_plain(path)}"
        )
    directory = Path(os.path.realpath(path)).parent
    found = os.stat(directory)
    if found.st_mode & stat.S_ISVTX and found.st_uid in (0, user):
        return None  # nobody but its owner can replace a file there
    reason = refusal(directory, found)
    return reason and f"is a link into {_plain(directory)}, which others can change: {reason}"


def refusal(path: Path, found: os.stat_result, forbidden: int = OTHERS_WRITE, *, owned: bool = True) -> str | None:
    """Return why a file or directory is refused, and what to type; None: it is not.

    Args:
        found: its status.
        forbidden: the rights that its mode must not give.
        owned: it must belong to root or to this process's user.
    """
    if owned and found.st_uid not in (0, os.geteuid()):
        return f"belongs to {_owner(found.st_uid)}; {_allowed()}. Fix: chown {user_name(os.geteuid())} {_plain(path)}"
    excess = found.st_mode & forbidden
    if not excess:
        return None
    by = " and ".join(who for who, bits in (("its group", 0o070), ("others", 0o007)) if excess & bits)
    what, fix = ("read or change", "600") if forbidden == SECRET else ("write to", "go-w")
    return f"mode {stat.S_IMODE(found.st_mode):04o} lets {by} {what} it. Fix: chmod {fix} {_plain(path)}"


def _allowed() -> str:
    user = os.geteuid()
    return f"allowed: {_owner(0)}" + (f" or {_owner(user)}" if user else "")


def _owner(user: int) -> str:
    name = user_name(user)
    return f"uid {user}" if name == str(user) else f"{name} (uid {user})"


def user_name(user: int) -> str:
    """Return the name of a user, or the number as text where there is no such user."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _plain(path: Path) -> str:
    """Return a path as it is where that is harmless on a line."""
    name = str(path)
    return name if name.isprintable() else repr(name)
