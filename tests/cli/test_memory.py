"""What a process does with freed memory."""

import subprocess
import sys

import pytest

FRESH_PAGES = """
import resource, sys
import numpy as np
from cmnet_cli.memory import keep_freed_memory
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
