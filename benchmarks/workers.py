"""Throughput of one worker and of two, one thread each: ``cmnet infer`` over the same synthetic cohort.

The rate is measured between the first and the last subject of each worker, so that the start does not count; the wall
time of the whole command is printed beside it. On a machine with other work, wall times say little; the CPU time per
subject then shows how much two workers slow each other down.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cmnet_cli.cohort.manifest import read_manifest


@dataclass(frozen=True, slots=True)
class Speed:
    """The speed of a run over a cohort.

    Attributes:
        per_min: Subjects per minute of wall time, once all workers have started.
        wall_s: Wall time of the whole command in seconds.
        cpu_s: CPU time of the whole command and its workers in seconds.
    """

    per_min: float
    wall_s: float
    cpu_s: float


def measure(manifest: Path, run: Path, workers: int, model: str) -> Speed:
    """Run infer on the cohort once."""
    arguments = ["infer", "-m", str(manifest), "-o", str(run), "--workers", str(workers), "--model", model, "--quiet"]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "cmnet_cli", *arguments], env={**os.environ, **one_thread})
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"cmnet {' '.join(arguments)} ended with exit code {process.returncode}")
    per_min = _rate((run / "logs" / "outcomes.jsonl").read_text().splitlines(), workers)
    return Speed(per_min, time.monotonic() - started, used.ru_utime + used.ru_stime)


def _rate(lines: list[str], workers: int) -> float:
    """Return the subjects per minute after each worker's first one, which includes loading the networks."""
    ends = [datetime.fromisoformat(json.loads(line)["at"]) for line in lines]
    return 60.0 * (len(ends) - workers) / (ends[-1] - ends[workers - 1]).total_seconds()


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, default=16)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=1, help="number of repetitions")
    parser.add_argument("--manifest", type=Path, help="a cohort to use instead of phantoms")
    parser.add_argument("--model", default="default")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.manifest is None:
            phantom = ["phantom", str(folder / "in"), "--subjects", str(given.subjects), "--frames", str(given.frames)]
            subprocess.run([sys.executable, "-m", "cmnet_cli", *phantom, "--quiet"], check=True)
        manifest = given.manifest or folder / "in" / "cohort.csv"
        subjects = len(read_manifest(manifest).cases)
        print(f"{subjects} subjects, {os.cpu_count()} cores")
        print(f"{'workers':>9}{'subjects/min':>16}{'wall s':>10}{'cpu s':>10}{'cpu s/subject':>16}{'load before':>14}")
        for number in range(given.rounds):
            speeds = [
                _line(manifest, folder / f"run-{number}-{workers}", workers, given.model, subjects)
                for workers in (1, 2)
            ]
            ratio, cost = speeds[1].per_min / speeds[0].per_min, speeds[0].cpu_s / speeds[1].cpu_s
            print(f"two against one: {ratio:.2f} by wall time, {2 * cost:.2f} by CPU time")


def _line(manifest: Path, run: Path, workers: int, model: str, subjects: int) -> Speed:
    load = os.getloadavg()[0]
    speed = measure(manifest, run, workers, model)
    cells = f"{speed.per_min:>16.1f}{speed.wall_s:>10.0f}{speed.cpu_s:>10.0f}{speed.cpu_s / subjects:>16.2f}"
    print(f"{workers:>9}{cells}{load:>14.1f}", flush=True)
    return speed


if __name__ == "__main__":
    main()
