"""Backups of directories of this machine."""

import time
from pathlib import Path

from gofer.agent.plugin import Plugin
from gofer.decorators import action, load, once, remote
from gofer.rmi.shell import Shell

__all__ = ["Backup", "init", "prune"]

plugin = Plugin.find(__name__)


def folder() -> Path:
    """Return where the backups are."""
    return Path(plugin.cfg.backups.folder)


@load
def init() -> None:
    """Make that directory. If it cannot be made, the plugin is not loaded, and the log says why."""
    folder().mkdir(mode=0o700, parents=True, exist_ok=True)


class Backup:
    """Makes backups and lists them."""

    @remote(secret="swordfish")
    @once
    def make(self, path: str) -> tuple[int, dict[str, str]]:
        """Pack a directory, and return the status and the output of tar.

        A crash of the agent does not start it twice: its caller gets Interrupted.
        """
        source = Path(path)
        if not source.is_absolute() or not source.is_dir():
            raise ValueError(f"{path!r} is not the full path of a directory")
        target = folder() / f"{source.name}.{time.time_ns()}.tar.gz"
        return Shell().run("tar", "-czf", str(target), "-C", str(source.parent), "--", source.name)

    @remote
    def names(self) -> list[str]:
        """List the backups, the oldest first."""
        return [path.name for path in by_age()]


@action(hours=24)
def prune() -> None:
    """Remove all but the newest."""
    found = by_age()
    for path in found[: max(0, len(found) - int(plugin.cfg.backups.keep))]:
        path.unlink(missing_ok=True)


def by_age() -> list[Path]:
    """Return the backups, the oldest first."""
    return sorted(folder().iterdir(), key=lambda path: path.stat().st_mtime)
