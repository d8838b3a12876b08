"""Memory of this process: the settings of the C library's allocator, and the limit."""

import ctypes
import os
import sys
from pathlib import Path

MEMORY_LIMIT_VARIABLE = "CMNET_MEMORY_LIMIT"
"""Environment variable with the memory limit of a worker in bytes."""

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

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


def memory_limit_bytes() -> int:
    """Return the memory that this process may use: that of the worker, of the container or of the machine."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    texts = [os.environ.get(MEMORY_LIMIT_VARIABLE, "")]
    texts += [Path(path).read_text(encoding="ascii").strip() for path in _CGROUP_LIMITS if Path(path).exists()]
    limits += [int(text) for text in texts if text.isdigit()]
    return min(limit for limit in limits if limit > 0)
