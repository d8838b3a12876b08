"""What a process does with freed memory."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from cmnet_cli.malloc import reuse_freed_memory

FRESH_PAGES = """
import resource, sys
import numpy as np
from cmnet_cli.malloc import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
np.ones(5_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.ones(5_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def fresh_pages(how: str) -> int:
    """Pages that the kernel gives out while 40 MB are asked for and freed ten times over."""
    done = subprocess.run([sys.executable, "-c", FRESH_PAGES, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_is_used_again() -> None:
    assert fresh_pages("keep") < 0.01 * fresh_pages("as it is")


@pytest.mark.parametrize(("largest", "settings"), [(1 << 25, [(-3, 1 << 25), (-1, 1 << 30), (-8, 1)]), (0, [])])
def test_an_older_library_keeps_what_it_can(
    largest: int, settings: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[int, int]] = []

    def mallopt(parameter: int, value: int) -> int:
        if parameter == -3 and value > largest:
            return 0
        taken.append((parameter, value))
        return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    monkeypatch.setattr(sys, "platform", "linux")
    reuse_freed_memory()
    assert taken == settings
