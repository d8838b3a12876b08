"""What the tests on a real SLURM share. Where there is none they are skipped, unless it was asked for."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster import slurm as here

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """A SLURM that takes jobs. ``CMNET_SLURM=required`` makes its absence a failure."""
    reason = here.why_not()
    if reason and os.environ.get("CMNET_SLURM") == "required":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    here.start()
    before = dict(os.environ)
    # Jobs inherit what finds this checkout.
    os.environ.update(here.environment(), PYTHONPATH=str(ROOT))
    yield
    os.environ.clear()
    os.environ.update(before)
    here.stop()


def command(*arguments: object) -> list[str]:
    """The words of a command."""
    return [sys.executable, "-m", "cmnet_cli", *(str(argument) for argument in arguments)]


def until(true: Callable[[], object], *, within_s: float = 120.0) -> None:
    """Wait for something to become true."""
    ends = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < ends, f"waited for {within_s:.0f} s"
        time.sleep(0.1)


def jobs_left() -> str:
    """What is in SLURM's queue."""
    return subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True).stdout
