"""How a process keeps the memory that it works with."""

import ctypes
import sys
from collections.abc import Callable

_KEPT_BYTES = 1 << 30
"""Freed memory of which a process lets go only beyond this much."""

_LARGEST_ARRAYS = (1 << 30, 1 << 25)
"""Arrays up to this size are taken from kept memory; older versions of glibc refuse more than 32 MiB."""

# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def reuse_freed_memory() -> None:
    """Let freed memory be used again instead of giving it back at once, where the C library is glibc.

    Networks free and ask for the same megabytes hundreds of times a second. By itself glibc takes and returns them as
    fresh pages each time, which the kernel has to clear: on machines where that is dear, as in virtual ones, inference
    spends more than half of its time so. All threads then share one heap, since others cannot keep as much.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            _keep(mallopt)


def _keep(mallopt: Callable[[int, int], int]) -> None:
    # With the threshold of trimming alone, every array above 128 KiB would be given back at once.
    if any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_ARRAYS):
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_ARENA_MAX, 1)
