"""The memory allocator of the process, told to give memory back."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["give_memory_back"]

# What malloc.h calls M_TRIM_THRESHOLD, M_MMAP_THRESHOLD and M_ARENA_MAX.
_TRIM, _MMAP, _ARENAS = -1, -3, -8
_LARGE = 2 * 1024 * 1024


def give_memory_back() -> None:
    """Have glibc return large memory to the system as soon as it is free. Called before other threads start.

    By itself it learns from the first large message to keep such memory: calls with 10 MB left 50 MB behind. One arena
    is enough, as the interpreter's lock lets one thread allocate at a time; with one for each thread 6 MB were left.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # else another C library's, as musl, which gives it back anyway
        for option, value in ((_ARENAS, 1), (_MMAP, _LARGE), (_TRIM, _LARGE)):
            mallopt(option, value)
