"""How full the disks of this machine are."""

import os
import shutil

from gofer.decorators import remote

__all__ = ["Disk", "fullest"]


class Disk:
    """The file system of a directory. Each call makes a new object, with the arguments that the caller passed."""

    def __init__(self, path: str = "/") -> None:
        self.path = path

    @remote
    def usage(self) -> dict[str, int]:
        """Return total, used and free space, in bytes. A directory that there is not raises FileNotFoundError."""
        return shutil.disk_usage(self.path)._asdict()


@remote
def fullest() -> dict[str, str | int]:
    """Return the mount point with the least free space, and its usage. Callers use the plugin's name for functions."""
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        points = [line.split()[1].encode().decode("unicode_escape") for line in mounts if line.startswith("/dev/")]
    candidates = [point for point in points if os.path.isdir(point)] or ["/"]
    path = min(candidates, key=lambda point: shutil.disk_usage(point).free)
    return {"path": path, **shutil.disk_usage(path)._asdict()}
