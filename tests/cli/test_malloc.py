"""The reuse of freed memory."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from cmnet_cli.malloc import reuse_freed_memory

FRESH_PAGES = """
import resource, sys
import numpy as np
from cmnet_cli.malloc import reuse_freed_memory
if sys.argv[1] == "reuse":
    reuse_freed_memory()
np.ones(5_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(5_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def fresh_pages(mode: str) -> int:
    """Count the pages that the kernel provides while 40 MB are allocated and freed ten times."""
    done = subprocess.run([sys.executable, "-c", FRESH_PAGES, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_is_reused() -> None:
    assert fresh_pages("reuse") < 0.01 * fresh_pages("default")


@pytest.mark.parametrize(("largest", "settings"), [(1 << 25, [(-3, 1 << 25), (-1, 1 << 30), (-8, 1)]), (0, [])])
def test_older_library_accepts_a_smaller_threshold(
    largest: int, settings: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int) -> int:
        if parameter == -3 and value > largest:
            return 0
        accepted.append((parameter, value))
        return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    monkeypatch.setattr(sys, "platform", "linux")
    reuse_freed_memory()
    assert accepted == settings
