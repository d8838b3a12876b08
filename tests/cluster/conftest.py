"""Fixtures of the tests on a real SLURM. Without one they are skipped, unless ``CMNET_SLURM=required``."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.commanding import ROOT
from tests.cluster import slurm as daemons


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """A SLURM that takes jobs. ``CMNET_SLURM=required`` makes its absence a failure."""
    reason = daemons.why_not()
    if reason and os.environ.get("CMNET_SLURM") == "required":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    was_up = daemons.is_up()
    daemons.start()
    before = dict(os.environ)
    # Jobs inherit the path to this checkout.
    os.environ.update(daemons.environment(), PYTHONPATH=str(ROOT))
    yield
    os.environ.clear()
    os.environ.update(before)
    if not was_up:
        daemons.stop()


def until(true: Callable[[], object], *, within_s: float = 900.0) -> None:
    """Wait until a condition holds."""
    ends = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < ends, f"waited for {within_s:.0f} s"
        time.sleep(0.1)


def jobs_of(run: Path) -> list[str]:
    """Return the ids of all jobs that were submitted for a run."""
    files = sorted(run.glob("slurm/*/jobs.json"))
    return [str(job["job_id"]) for file in files for job in json.loads(file.read_text())["jobs"]]


def jobs_left(run: Path) -> str:
    """Return the lines of squeue about these jobs; SLURM no longer lists those that ended long ago."""
    asked = ["squeue", "--noheader", f"--jobs={','.join(jobs_of(run))}"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout
