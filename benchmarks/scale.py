"""The overhead of the engine, status and merge per subject, over 1,000, 10,000 and 100,000 subjects.

The stage does nothing, so that everything measured is overhead. Each value is measured in a process of its own.
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
from cmnet_cli.execution.plan import ExecutionSettings, plan_stage
from cmnet_cli.execution.runner import open_execution, run_stage
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
        """Return the function of a case."""
        return lambda case: case.case_id

    def expected(self, case: Case) -> Expected:
        """Return an expectation that no sidecar of the benchmark is compared with."""
        return Expected(case.image, "", "")


def drive(run: Path, manifest: Path, workers: int) -> None:
    """Run the stub on the cohort; print the wall time and this process's CPU time in seconds."""
    read = read_manifest(manifest)
    settings = ExecutionSettings(workers=workers)
    folder = RunFolder(run)
    with open_execution(folder, "infer", settings, Messages(quiet=True)) as context:
        plan = plan_stage(Stub(), read.cases, folder, settings)
        opened = start_run(run, read, "infer", {})
        started, used = time.monotonic(), time.process_time()
        result = run_stage(Stub(), plan, opened, context)
        print(time.monotonic() - started, time.process_time() - used)
    assert len(result.done) == len(read.cases)


def write_cohort(folder: Path, subjects: int) -> Path:
    """Write a manifest of subjects whose images are not there."""
    cases = [Case(2 + n, str(FIRST_ID + n), (folder / f"{FIRST_ID + n}.nii.gz",)) for n in range(subjects)]
    write_manifest(folder / "cohort.parquet", cases)
    return folder / "cohort.parquet"


def pretend_done(run: RunFolder, manifest: Manifest) -> None:
    """Write an empty sidecar for every case, whose existence status checks."""
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
    """Return rows of a table with random numbers."""
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
    """The cost of a process: wall time and CPU time in seconds, peak memory in MB; and its output."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    output: str


def measure(arguments: Sequence[str], log: Path) -> Cost:
    """Run a process to its end."""
    started = time.monotonic()
    with log.open("w+") as file:
        process = subprocess.Popen([sys.executable, *arguments], stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        file.seek(0)
        output = file.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with exit code {process.returncode}:\n{output}")
    return Cost(time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, output)


def bench(folder: Path, subjects: int, workers: int) -> None:
    """Measure a cohort of one size and print its line of the table."""
    manifest, run = write_cohort(folder, subjects), folder / "run"
    here = ["--drive", str(run), str(manifest), "--workers", str(workers)]
    driver = measure([__file__, *here], folder / "log")
    read = read_manifest(manifest)
    pretend_done(RunFolder(run), read)
    status = measure(["-m", "cmnet_cli", "status", "--run", str(run)], folder / "log")
    assert f"{subjects} done" in status.output, status.output
    as_json = measure(["-m", "cmnet_cli", "status", "--run", str(run), "--json"], folder / "log")
    write_parts(RunFolder(run), read)
    merge = measure(["-m", "cmnet_cli", "merge", "--run", str(run)], folder / "log")
    assert f"indices: {subjects} rows" in merge.output, merge.output
    wall_ms, cpu_ms = (1000 * float(seconds) / subjects for seconds in driver.output.split()[-2:])
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
    print("Wall time; CPU time in brackets, which does not depend on the machine's other work")
    print("All CPU: CPU time of driver and workers from start to end, including imports")
    names = ("ms/subject", "all CPU ms", "driver MB", "status s", "--json s", "merge s", "merge MB")
    print(f"{'subjects':>9}" + "".join(f"{name:>16}" for name in names))
    for subjects in given.subjects:
        with tempfile.TemporaryDirectory() as folder:
            bench(Path(folder), subjects, given.workers)


if __name__ == "__main__":
    main()
