"""After a kill -9 at any moment, a resume ends with the tables of an undisturbed run and repeats no finished subject.

The environment variable ``CMNET_KILLS`` sets the number of kills.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cli.commanding import ROOT, cmnet
from tests.phantoms import write_cohort
from tests.processes import workers_of
from tests.tables import require_equal_tables

KILLS = int(os.environ.get("CMNET_KILLS", "2"))
SUBJECTS = 6


@pytest.mark.skipif(sys.platform != "linux", reason="workers end with their parent on Linux alone")
def test_tables_after_kills_equal_those_of_an_undisturbed_run(tmp_path: Path, tiny_model: Path) -> None:
    manifest, undisturbed = write_cohort(tmp_path, SUBJECTS, frames=3), tmp_path / "undisturbed"
    infer = ["infer", "-m", manifest, "--model", tiny_model]
    started = time.monotonic()
    assert _start(*infer, "-o", undisturbed, "--workers", 2).wait() == 0
    # Moments are drawn from the duration of a whole run, which depends on how busy the machine is.
    whole_s = time.monotonic() - started
    assert cmnet("indices", "-r", undisturbed, "--samples", 2).exit_code == 0
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    moments, kills, runs = random.Random(seed), 0, 0
    while kills < KILLS:
        runs += 1
        run = tmp_path / f"run-{runs}"
        while True:
            before = _proofs(run)
            process = _start(*infer, "-o", run, "--workers", 2)
            whole = kills % 2 == 0
            killed = kills < KILLS and _kill(process, moments.uniform(0.05, 1.0) * whole_s, whole=whole)
            kills += killed
            ended = process.wait(timeout=1200)
            _wait_for_workers_of(process.pid)
            # Finished subjects were not repeated, and every file under its final name is complete.
            assert before.items() <= _proofs(run).items()
            print(f"{kills} kills; {'all' if whole else 'a worker'} at {len(_proofs(run))} of {SUBJECTS}", flush=True)
            assert (
                not run.exists() or not (run / "cohort.parquet").exists() or cmnet("verify", "-r", run).exit_code == 0
            )
            if not (killed and whole):
                assert ended == 0
                break
        assert cmnet("indices", "-r", run, "--samples", 2).exit_code == 0
        require_equal_tables(run, undisturbed)


def _start(*arguments: object) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "cmnet_cli", *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


def _kill(process: "subprocess.Popen[bytes]", after_s: float, *, whole: bool) -> bool:
    """Kill a process or one of its workers; return whether there was one to kill."""
    time.sleep(after_s)
    if process.poll() is not None:
        return False
    if whole:
        process.kill()
        return True
    workers = workers_of(process.pid)
    if workers:
        workers[0].kill()
    return bool(workers)


def _wait_for_workers_of(pid: int) -> None:
    """Wait until the workers have ended with their parent, since they might write what the next run writes."""
    ends = time.monotonic() + 120
    while any(item.info["ppid"] == pid for item in psutil.process_iter(["ppid"])):
        assert time.monotonic() < ends
        time.sleep(0.05)


def _proofs(run: Path) -> dict[str, int]:
    """Return the modification time of every sidecar of infer, by name."""
    return {path.name: path.stat().st_mtime_ns for path in run.rglob("*_desc-infer.json")}
