"""What the engine costs when the work costs nothing: driver, status and merge over 1,000, 10,000 and 100,000 subjects.

A stub stands in for the stage, so that everything measured is overhead. Each figure comes from a process of its own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cmnet_cli.cohort.case import Case
from cmnet_cli.cohort.manifest import Manifest, read_manifest, write_manifest
from cmnet_cli.console import Messages
from cmnet_cli.execution.runner import Job, at_work, go, make_plan
from cmnet_cli.options import ExecutionOptions, SelectionOptions
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.runs.provenance import Expected
from cmnet_cli.runs.run_folder import start_run
from cmnet_cli.tables.parts import new_part_folder
from cmnet_cli.tables.schema import schema_of, write_arrow

FIRST_ID = 9_000_000_000
CASES_A_PART = 500
FRAMES = 50


@dataclass(frozen=True)
class Stub:
    """A stage that does nothing."""

    name: str = "infer"

    def open(self) -> Callable[[Case], str]:
        """Nothing to load; the function of a case."""
        return lambda case: case.case_id

    def expected(self, case: Case) -> Expected:
        """Nobody asks."""
        return Expected(case.image, "", "")


def drive(run: Path, manifest: Path, workers: int) -> None:
    """Go over the cohort with the stub; prints the seconds on the clock and of this process that it took."""
    read = read_manifest(manifest)
    how = ExecutionOptions(workers=workers)
    folder = RunFolder(run)
    with at_work(folder, "infer", Job(SelectionOptions(), how, Messages(quiet=True))) as site:
        plan = make_plan(Stub(), read.cases, folder, how)
        opened = start_run(run, read, "infer", {})
        started, used = time.monotonic(), time.process_time()
        tally = go(Stub(), plan, opened, site)
        print(time.monotonic() - started, time.process_time() - used)
    assert len(tally.done) == len(read.cases)


def write_cohort(folder: Path, subjects: int) -> Path:
    """Write a manifest of subjects whose images are not there."""
    cases = [Case(2 + n, str(FIRST_ID + n), (folder / f"{FIRST_ID + n}.nii.gz",)) for n in range(subjects)]
    write_manifest(folder / "cohort.parquet", cases)
    return folder / "cohort.parquet"


def pretend_done(run: RunFolder, manifest: Manifest) -> None:
    """Give every case the sidecar that status looks for."""
    for case in manifest.cases:
        sidecar = run.case(case.case_id).sidecar("infer")
        sidecar.parent.mkdir(parents=True, exist_ok=True)
        sidecar.touch()


def write_parts(run: RunFolder, manifest: Manifest) -> None:
    """Write the parts that array tasks leave behind: an index row and ``FRAMES`` frame rows a case."""
    folder = new_part_folder(run)
    for start in range(0, len(manifest.cases), CASES_A_PART):
        ids = [case.case_id for case in manifest.cases[start : start + CASES_A_PART]]
        for table, repeat in (("indices", 1), ("frames", FRAMES)):
            path = folder / f"{start // CASES_A_PART:05d}.{table}.parquet"
            write_arrow(path, _drawn(table, [case_id for case_id in ids for _ in range(repeat)]))


def _drawn(table: str, case_ids: Sequence[str]) -> pa.Table:
    """Rows of a table with numbers drawn at random."""
    schema = schema_of(table)
    numbers = np.random.default_rng(1)
    columns = [
        pa.array(case_ids)
        if field.name == "case_id"
        else pa.array(numbers.normal(size=len(case_ids)))
        if field.type == pa.float64()
        else pa.nulls(len(case_ids), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took: seconds on the clock and of the processor, peak memory in MB; and what it printed."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    told: str


def measure(words: Sequence[str], log: Path) -> Cost:
    """Run a process to its end."""
    started = time.monotonic()
    with log.open("w+") as output:
        process = subprocess.Popen([sys.executable, *words], stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        told = output.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with exit code {process.returncode}:\n{told}")
    return Cost(time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, told)


def bench(folder: Path, subjects: int, workers: int) -> None:
    """Measure one size of cohort and print its line."""
    manifest, run = write_cohort(folder, subjects), folder / "run"
    here = ["--drive", str(run), str(manifest), "--workers", str(workers)]
    driver = measure([__file__, *here], folder / "log")
    read = read_manifest(manifest)
    pretend_done(RunFolder(run), read)
    status = measure(["-m", "cmnet_cli", "status", "--run", str(run)], folder / "log")
    assert f"{subjects} done" in status.told, status.told
    as_json = measure(["-m", "cmnet_cli", "status", "--run", str(run), "--json"], folder / "log")
    write_parts(RunFolder(run), read)
    merge = measure(["-m", "cmnet_cli", "merge", "--run", str(run)], folder / "log")
    assert f"indices: {subjects} rows" in merge.told, merge.told
    wall_ms, cpu_ms = (1000 * float(word) / subjects for word in driver.told.split()[-2:])
    cells = [f"{wall_ms:.2f} ({cpu_ms:.2f})", f"{1000 * driver.cpu_s / subjects:.2f}", f"{driver.peak_mb:.0f}"]
    cells += [f"{cost.wall_s:.1f} ({cost.cpu_s:.1f})" for cost in (status, as_json, merge)]
    print(f"{subjects:>9,}" + "".join(f"{cell:>16}" for cell in [*cells, f"{merge.peak_mb:.0f}"]), flush=True)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--drive", type=Path, nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        drive(*given.drive, given.workers)
        return
    print(f"{given.workers} workers, {os.cpu_count()} cores, {FRAMES} frames a subject in the merge")
    print("Seconds on the clock; in brackets those of the processor, which do not depend on what else it does")
    print("All CPU: driver and workers from start to end, imports included: what one core would need for everything")
    names = ("ms/subject", "all CPU ms", "driver MB", "status s", "--json s", "merge s", "merge MB")
    print(f"{'subjects':>9}" + "".join(f"{name:>16}" for name in names))
    for subjects in given.subjects:
        with tempfile.TemporaryDirectory() as folder:
            bench(Path(folder), subjects, given.workers)


if __name__ == "__main__":
    main()
