"""The settings of the C library's memory allocator."""

import ctypes
import sys

_TRIM_THRESHOLD_BYTES = 1 << 30
"""A process returns freed memory to the kernel only beyond this amount."""

_MMAP_THRESHOLDS_BYTES = (1 << 30, 1 << 25)
"""Arrays up to this size come from the heap. Older versions of glibc accept at most 32 MiB."""

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def reuse_freed_memory() -> None:
    """Keep freed memory for reuse instead of returning it to the kernel at once, where the C library is glibc.

    Networks allocate and free the same megabytes hundreds of times a second. By default, glibc maps fresh pages each
    time, which the kernel has to clear. Where that is slow, as on virtual machines, inference spends more than half of
    its time on it. All threads then use one heap, since the heaps of other threads cannot keep as much.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # With the trim threshold alone, every array above 128 KiB would still be mapped and unmapped.
    if any(mallopt(_M_MMAP_THRESHOLD, size) for size in _MMAP_THRESHOLDS_BYTES):
        mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
        mallopt(_M_ARENA_MAX, 1)
