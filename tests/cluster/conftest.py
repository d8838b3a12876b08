"""What the tests on a real SLURM share. Where there is none they are skipped, unless it was asked for."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.commanding import ROOT
from tests.cluster import slurm as here


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """A SLURM that takes jobs. ``CMNET_SLURM=required`` makes its absence a failure."""
    reason = here.why_not()
    if reason and os.environ.get("CMNET_SLURM") == "required":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    was_up = here.is_up()
    here.start()
    before = dict(os.environ)
    # Jobs inherit what finds this checkout.
    os.environ.update(here.environment(), PYTHONPATH=str(ROOT))
    yield
    os.environ.clear()
    os.environ.update(before)
    if not was_up:
        here.stop()


def until(true: Callable[[], object], *, within_s: float = 900.0) -> None:
    """Wait for something to become true."""
    ends = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < ends, f"waited for {within_s:.0f} s"
        time.sleep(0.1)


def jobs_of(run: Path) -> list[str]:
    """Every job that was submitted for a run."""
    files = sorted(run.glob("slurm/*/jobs.json"))
    return [str(job["job_id"]) for file in files for job in json.loads(file.read_text())["jobs"]]


def jobs_left(run: Path) -> str:
    """Which of them are in SLURM's queue; it has forgotten those that ended long ago."""
    asked = ["squeue", "--noheader", f"--jobs={','.join(jobs_of(run))}"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout
