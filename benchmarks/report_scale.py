"""Cost of the cohort page: time, memory and size for 1,000 to 100,000 subjects, and the time until a browser shows it.

The tables are synthetic, in the schemas that cmnet writes. The report runs in a process of its own, so that its memory
is that of the report alone.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.seals import open_parquet_writer, seal_parquet, write_sealed_json
from cmnet_cli.tables.schema import DECLARED, schema_of

FIRST_ID = 9_000_000_000
AT_ONCE = 5_000
FRAMES = 50
SEGMENTS = 16

MOST_BYTES, MOST_S, MOST_MB, OPEN_S = 10e6, 30.0, 1500.0, 3.0

GROUPS = ("control", "hypertension", "diabetes", "infarction", "rare")
GROUP_FRACTIONS = (0.62, 0.2, 0.12, 0.0599, 0.0001)
FLAGS = ("few-slices", "base-not-covered", "low-confidence-motion", "stroke-volumes-differ", "no-heart-rate")
FAILURES = (
    ("file-damaged", "Copy the file again."),
    ("heart-not-found", "Check the image."),
    ("image-dimensions", "Give a 4-D image."),
)

# Mean, standard deviation and correlation with cardiac function; any other quantity has mean 20 and SD 5.
DISTRIBUTIONS = {
    "lvedv_ml": (145.0, 30.0, -0.4), "lvesv_ml": (60.0, 16.0, -0.8), "lvsv_ml": (86.0, 18.0, 0.4),
    "lvef_pct": (59.0, 6.0, 0.95), "lvm_g": (88.0, 22.0, -0.2), "rvedv_ml": (155.0, 33.0, -0.3),
    "rvesv_ml": (66.0, 18.0, -0.5), "rvsv_ml": (88.0, 19.0, 0.4), "rvef_pct": (57.0, 7.0, 0.6),
    "lvedv_index_ml_m2": (78.0, 14.0, -0.4), "lvesv_index_ml_m2": (32.0, 9.0, -0.8),
    "cardiac_output_l_min": (5.4, 1.2, 0.3),
    "lvsv_index_ml_m2": (46.0, 9.0, 0.4), "lvm_index_g_m2": (47.0, 9.0, -0.2), "rvedv_index_ml_m2": (83.0, 15.0, -0.3),
    "rvesv_index_ml_m2": (35.0, 9.0, -0.5), "rvsv_index_ml_m2": (47.0, 10.0, 0.4),
    "gcs_line_midwall_peak_pct": (-18.0, 3.0, -0.9),
    "grs_line_wall_peak_pct": (42.0, 9.0, 0.7),
    "time_to_peak_gcs_line_midwall_ms": (330.0, 35.0, -0.2),
    "wall_thickness_ed_mm": (6.8, 1.1, -0.2), "wall_thickening_pct": (58.0, 16.0, 0.6), "twist_deg": (11.0, 3.5, 0.3),
    "torsion_deg_per_cm": (1.9, 0.6, 0.3), "dyssynchrony_ms": (34.0, 12.0, -0.4),
    "ecc_line_wall_peak_pct": (-18.0, 4.0, -0.6),
    "err_line_wall_peak_pct": (42.0, 14.0, 0.4), "time_to_peak_ecc_line_wall_ms": (330.0, 50.0, -0.1),
    "lv_peak_ejection_rate_ml_s": (-480.0, 110.0, -0.4), "lv_peak_filling_rate_ml_s": (430.0, 120.0, 0.4),
    "rv_peak_ejection_rate_ml_s": (-460.0, 110.0, -0.3), "rv_peak_filling_rate_ml_s": (400.0, 120.0, 0.3),
    "age_years": (63.0, 8.0, -0.1), "height_cm": (169.0, 9.0, 0.0), "weight_kg": (76.0, 14.0, 0.0),
    "bsa_m2": (1.86, 0.2, 0.0), "lv_ml": (140.0, 30.0, 0.0), "rv_ml": (150.0, 30.0, 0.0), "myo_ml": (85.0, 15.0, 0.0),
    "gcs_line_midwall_pct": (-18.0, 3.0, -0.9), "grs_line_wall_pct": (42.0, 9.0, 0.7),
    "seconds_infer": (40.0, 8.0, 0.0), "seconds_indices": (4.0, 0.8, 0.0), "peak_memory_mb": (2400.0, 150.0, 0.0),
}  # fmt: skip

# Quantities that change over the cycle: the fraction of their value at the first frame and in the middle.
OVER_THE_CYCLE = {
    "lv_ml": (1.0, 0.4), "rv_ml": (1.0, 0.42), "gcs_line_midwall_pct": (0.0, 1.0), "grs_line_wall_pct": (0.0, 1.0),
    "twist_deg": (0.0, 1.0),
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Time, memory and size of a report."""

    seconds: float
    memory_mb: float
    size_mb: float

    @property
    def is_within_limits(self) -> bool:
        """Whether the report stays within the limits."""
        return self.seconds <= MOST_S and self.memory_mb <= MOST_MB and self.size_mb * 1e6 <= MOST_BYTES


def write_run(root: Path, subjects: int) -> RunFolder:
    """Write every table that the cohort page reads, with synthetic subjects."""
    folder = RunFolder(root)
    folder.table("indices").parent.mkdir(parents=True)
    repeats = {"indices": 1, "motion": 1, "status": 1, "frames": FRAMES, "segments": SEGMENTS}
    for table, repeat in repeats.items():
        _write(folder.table(table), table, subjects, repeat)
    write_sealed_json(folder.record, {"cmnet_version": "synthetic", "commands": {}})
    return folder


def _write(path: Path, table: str, subjects: int, repeat: int) -> None:
    schema = schema_of(table)
    with open_parquet_writer(path, schema) as writer:
        for start in range(0, subjects, AT_ONCE):
            numbers = np.arange(start, min(start + AT_ONCE, subjects))
            subjects_of_batch = _SyntheticSubjects(numbers, repeat)
            columns = {column.name: subjects_of_batch.column(column.name, column.kind) for column in DECLARED[table]}
            arrays = [columns.get(field.name, [None] * (len(numbers) * repeat)) for field in schema]
            writer.write_table(pa.table([pa.array(a, f.type) for a, f in zip(arrays, schema, strict=True)], schema))
    seal_parquet(path)


class _SyntheticSubjects:
    """Some synthetic subjects; a subject is the same in every table, and alone or among others."""

    def __init__(self, numbers: Any, repeat: int) -> None:
        generator = np.random.default_rng([int(numbers[0]), repeat])
        self._numbers_of, self._repeat, self._generator = np.repeat(numbers, repeat), repeat, generator
        one = np.random.default_rng(int(numbers[0]))
        self._function = np.repeat(one.normal(size=len(numbers)), repeat)
        self._group = np.repeat(one.choice(len(GROUPS), len(numbers), p=GROUP_FRACTIONS), repeat)
        self._sex = np.repeat(one.choice(2, len(numbers)), repeat)

    def column(self, name: str, kind: str) -> Any:
        """The values of a column."""
        columns = {
            "case_id": lambda: [f"sub-{FIRST_ID + n}" for n in self._numbers_of.tolist()],
            "subject_id": lambda: [str(FIRST_ID + n) for n in self._numbers_of.tolist()],
            "sex": lambda: np.array(["female", "male"])[self._sex],
            "group": lambda: np.array(GROUPS)[self._group],
            "host": lambda: [f"node{n % 40:02d}" for n in self._numbers_of.tolist()],
            "frame": lambda: np.arange(len(self._numbers_of)) % self._repeat,
            "segment": lambda: np.arange(len(self._numbers_of)) % self._repeat + 1,
            "qc_flags": self._flags,
            "state": lambda: np.where(self._failed() >= 0, "failed", "done"),
            "error_code": lambda: self._of_failed([code for code, _ in FAILURES]),
            "hint": lambda: self._of_failed([hint for _, hint in FAILURES]),
            "message": lambda: self._of_failed([f"Something is wrong: {code}." for code, _ in FAILURES]),
        }
        if name in columns:
            return columns[name]()
        return (
            self._numbers(name, whole=kind == "integer")
            if kind in ("number", "integer")
            else [None] * len(self._numbers_of)
        )

    def _numbers(self, name: str, *, whole: bool) -> Any:
        mean, sd, with_function = DISTRIBUTIONS.get(name, (20.0, 5.0, 0.1))
        noise = self._generator.normal(size=len(self._numbers_of))
        function = self._function - 0.4 * self._group
        values = mean + sd * (with_function * function + np.sqrt(1 - with_function**2) * noise)
        if self._repeat == FRAMES and name in OVER_THE_CYCLE:
            values = values * self._cycle_curve(*OVER_THE_CYCLE[name])
        values = values * np.where(self._sex, 1.08, 0.92) if name.endswith(("_ml", "_g")) else values
        return np.round(values).astype(int) if whole else values

    def _cycle_curve(self, start: float, end: float) -> Any:
        """A curve over the cycle between its values at the first frame and in the middle."""
        phase = 2 * np.pi * (np.arange(len(self._numbers_of)) % FRAMES) / FRAMES
        fraction = (1 - np.cos(phase - 0.6 * np.sin(phase))) / 2
        return start + (end - start) * fraction

    def _flags(self) -> Any:
        drawn = self._generator.random((len(self._numbers_of), len(FLAGS))) < (0.02, 0.03, 0.01, 0.005, 0.3)
        return [[FLAGS[n] for n in np.flatnonzero(row)] for row in drawn]

    def _failed(self) -> Any:
        return np.where(self._numbers_of % 50 == 7, self._numbers_of // 50 % len(FAILURES), -1)

    def _of_failed(self, texts: Sequence[str]) -> Any:
        return [texts[n] if n >= 0 else None for n in self._failed().tolist()]


def measure(root: Path, *options: str) -> Cost:
    """Run cmnet report in a process of its own."""
    code = (
        "import sys, time, resource\n"
        "started = time.monotonic()\n"
        "from cmnet_cli.app import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "print(time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)\n"
    )
    command = [sys.executable, "-c", code, "report", "--run", str(root), "--quiet", *options]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().splitlines()
    seconds, memory_mb = map(float, printed[-1].split())
    page = Path(printed[0])
    return Cost(seconds, memory_mb, page.stat().st_size / 1e6)


def seconds_to_open(page: Path, chromium: str) -> float:
    """Measure the seconds until Chromium has drawn a page from disk: its first frame after loading."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page()
        started = time.monotonic()
        opened.goto(page.absolute().as_uri(), wait_until="load")
        opened.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        seconds = time.monotonic() - started
        browser.close()
    return seconds


def main() -> int:
    """Print one line per size; the exit status is 1 where a report exceeds the limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--chromium", default="", help="Measure also the time until this browser shows the page.")
    parser.add_argument("--keep", type=Path, help="Folder in which the runs are kept.")
    options = parser.parse_args()
    within_limits = True
    with tempfile.TemporaryDirectory() as scratch:
        for subjects in options.subjects:
            folder = write_run((options.keep or Path(scratch)) / str(subjects), subjects)
            for name, options_of_page in (("cohort page", ("--pages", "none")), ("share-safe", ("--share-safe",))):
                cost = measure(folder.root, *options_of_page)
                line = f"{subjects:>7,} subjects, {name}: {cost.seconds:.1f} s, {cost.memory_mb:,.0f} MB of memory"
                page = folder.report if name == "cohort page" else folder.shared_report
                opened = seconds_to_open(page, options.chromium) if options.chromium else 0.0
                print(
                    f"{line}, {cost.size_mb:.2f} MB{f', open after {opened:.2f} s' if options.chromium else ''}",
                    flush=True,
                )
                within_limits &= cost.is_within_limits and opened <= OPEN_S
    verdict = "Within" if within_limits else "Beyond"
    print(f"{verdict} the limits of {MOST_S:g} s, {MOST_MB:g} MB of memory and {MOST_BYTES / 1e6:g} MB on disk")
    return 0 if within_limits else 1


if __name__ == "__main__":
    sys.exit(main())
