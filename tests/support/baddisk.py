"""A disk that fails to sync: a library in C that a process loads before all others."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["BadDisk"]

_CODE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    if (!strstr(path, getenv("BAD_DISK_OF")) || access(getenv("BAD_DISK"), F_OK)) return 0;
    int flag = open(getenv("BAD_DISK"), O_WRONLY | O_APPEND);
    if (flag >= 0 && write(flag, "x", 1) == 1) close(flag);
    errno = EIO;
    return 1;
}

int fsync(int fd) { return fails(fd) ? -1 : ((int (*)(int)) dlsym(RTLD_NEXT, "fsync"))(fd); }
int fdatasync(int fd) { return fails(fd) ? -1 : ((int (*)(int)) dlsym(RTLD_NEXT, "fdatasync"))(fd); }
"""


class BadDisk:
    """Makes each sync of some files fail with EIO, in processes that run under ``wrapper``, while it is bad.

    What is written is there, as is much of what a real disk fails to sync. It needs a C compiler.

    Args:
        of: what is in the paths of these files.
    """

    def __init__(self, folder: Path, of: str) -> None:
        source, library = folder / "baddisk.c", folder / "baddisk.so"
        source.write_text(_CODE)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        self._flag = folder / "disk-is-bad"
        self.wrapper = ("env", f"LD_PRELOAD={library}", f"BAD_DISK={self._flag}", f"BAD_DISK_OF={of}")

    def fail(self) -> None:
        """Have it fail from now on."""
        self._flag.touch()

    def failures(self) -> int:
        """How often it has failed since it is bad."""
        return self._flag.stat().st_size

    def heal(self) -> None:
        """Have it work again."""
        self._flag.unlink()
