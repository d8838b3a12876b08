"""Calibrate the intervals of shipped weights, and measure their coverage.

Columns that masks determine are calibrated on every 5th patient of ACDC, which the training did not use, against the
masks of its readers. Columns of motion are calibrated on cines of known motion: phantoms, and simulated cines of the
same patients of ACDC, of two classes of motion. Coverage is cross-validated: the interval of each subject is computed
from the others alone.

    python -m benchmarks.coverage --work FOLDER            calibrate, and store beside the weights (make calibration)
    python -m benchmarks.coverage --work FOLDER --test     apply the stored calibration to cines of other seeds, and
                                                           compare the widths of two seeds of the posterior samples

The folder keeps cines, runs and known values. A second call repeats only what other weights change.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.commands.calibrate import Quantities, fit_quantities, markdown_card, merge_quantities
from cmnet_cli.config import SimulatedMotion
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.stages.calibrate import KnownValue, known_values
from cmnet_cli.stages.intervals import MOTION_COLUMNS, SEGMENTATION_COLUMNS, SamplingSettings
from cmnet_core.models.checkpoint import find_weights, load_checkpoint
from cmnet_core.uncertainty.calibration import (
    CALIBRATION_SUFFIX,
    Calibration,
    find_calibration,
    read_calibration,
    write_calibration,
)
from cmnet_core.uncertainty.conformal import COMPARED_LEVEL, CalibrationPair, fit

REAL_DATA = Path(os.environ.get("CMNET_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
VALIDATION_PAGE = Path(__file__).parents[1] / "docs" / "validation.md"
BEGIN, END = "<!-- calibration: written by benchmarks/coverage.py -->\n", "<!-- end of calibration -->"
# The training of the shipped weights had other seeds.
PHANTOM_SEEDS, TEST_PHANTOM_SEED = (1071, 1072), 1073
SIMULATION_SEED, TEST_SIMULATION_SEED = 2071, 2072
VALIDATION_EVERY = 5
FRAMES = 10
PHANTOMS, TEST_CINES = 8, 8
READERS = "20 patients of ACDC (every 5th of the training set; one centre, two scanners), masks of its readers"
KNOWN_MOTION = (
    "16 phantoms and 40 simulated cines of ACDC's patients, of two classes of motion, 10 frames, known motion"
)


@dataclass(frozen=True, slots=True)
class Cohort:
    """Subjects with known values.

    Attributes:
        name: Name of its folder.
        manifest: Makes the manifest in a folder, unless it exists.
        columns: The columns that it calibrates.
    """

    name: str
    manifest: Callable[[Path], Path]
    columns: frozenset[str]


def cmnet(*arguments: object) -> None:
    """Run a command of cmnet; subjects may fail, but any other error ends the benchmark."""
    quiet = [] if arguments[0] == "manifest" else ["--quiet"]
    ran = subprocess.run([sys.executable, "-m", "cmnet_cli", *map(str, arguments), *quiet], check=False)
    if ran.returncode not in (0, 4):
        raise SystemExit(f"cmnet {arguments[0]} ended with exit code {ran.returncode}.")


def acdc(folder: Path, subjects: int | None = None) -> Path:
    """Write a manifest of the validation patients of ACDC, or of the first of them."""
    whole, kept = folder / "acdc-all.csv", folder / ("acdc.csv" if subjects is None else f"acdc-{subjects}.csv")
    if not kept.exists():
        if not whole.exists():
            cmnet("manifest", REAL_DATA / "acdc", "--layout", "acdc", "--out", whole)
        header, *lines = whole.read_text(encoding="utf-8").splitlines()
        chosen = sorted(lines)[::VALIDATION_EVERY][:subjects]
        kept.write_text("\n".join([header, *chosen]) + "\n", encoding="utf-8")
    return kept


def phantoms(seed: int, subjects: int) -> Callable[[Path], Path]:
    """Return the function that simulates phantoms of a seed."""

    def make(folder: Path) -> Path:
        out = folder / f"phantoms-{seed}"
        if not (out / "cohort.csv").exists():
            cmnet("phantom", out, "--subjects", subjects, "--frames", FRAMES, "--seed", seed)
        return out / "cohort.csv"

    return make


def simulated(
    seed: int, subjects: int | None = None, motion: SimulatedMotion = SimulatedMotion.VELOCITY
) -> Callable[[Path], Path]:
    """Return the function that simulates cines of validation patients of ACDC; finished ones are kept."""

    def make(folder: Path) -> Path:
        out = folder / (f"simulated-{seed}" if motion is SimulatedMotion.VELOCITY else f"{motion}-{seed}")
        if not (out / "cohort.csv").exists():
            source = acdc(folder, subjects)
            cmnet("phantom", out, "--from", source, "--frames", FRAMES, "--seed", seed, "--motion", motion)
        return out / "cohort.csv"

    return make


CALIBRATED = (
    Cohort("acdc", acdc, SEGMENTATION_COLUMNS),
    *(Cohort("phantoms", phantoms(seed, PHANTOMS), MOTION_COLUMNS) for seed in PHANTOM_SEEDS),
    Cohort("simulated", simulated(SIMULATION_SEED), MOTION_COLUMNS),
    Cohort("simulated, second class", simulated(SIMULATION_SEED, motion=SimulatedMotion.CYLINDER), MOTION_COLUMNS),
)
TESTED = (
    Cohort("phantoms", phantoms(TEST_PHANTOM_SEED, TEST_CINES), MOTION_COLUMNS),
    Cohort("simulated", simulated(TEST_SIMULATION_SEED, TEST_CINES), MOTION_COLUMNS),
    Cohort(
        "simulated, second class",
        simulated(TEST_SIMULATION_SEED, TEST_CINES, SimulatedMotion.CYLINDER),
        MOTION_COLUMNS,
    ),
)


def collect(work: Path, cohort: Cohort, model: str, draws: SamplingSettings, *, most: int | None) -> list[KnownValue]:
    """Infer a cohort and collect its known values; finished subjects are not repeated.

    Args:
        work: The folder that is kept.
        cohort: The cohort.
        model: The weights.
        draws: Number and seed of the posterior samples.
        most: Number of subjects; None for all.
    """
    manifest = cohort.manifest(work)
    label = f"{manifest.parent.name}-{manifest.stem}" if manifest.parent != work else manifest.stem
    run = RunFolder(work / f"run-{label}")
    selection = ["--pilot", most] if most else []
    print(f"{label}: infer", flush=True)
    cmnet("infer", "--manifest", manifest, "--out", run.root, "--model", model, "--on-stale", "rerun", *selection)
    digest = load_checkpoint(find_weights(model)).digest
    kept = work / "known-values" / f"{label}-{digest[:12]}-{draws.samples}-{draws.seed}"
    kept.mkdir(parents=True, exist_ok=True)
    print(f"{label}: known values", flush=True)
    found: list[KnownValue] = []
    for case in read_manifest(manifest).cases[:most]:
        if run.case(case.case_id).sidecar("infer").exists():
            found += known_values_once(kept / f"{case.case_id}.json", lambda case=case: known_values(case, run, draws))
    return [known for known in found if known.column in cohort.columns]


def known_values_once(path: Path, compute: Callable[[], list[KnownValue]]) -> list[KnownValue]:
    """Return the known values of a subject, from a file if they have been computed before."""
    if not path.exists():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps([asdict(known) for known in compute()]), encoding="utf-8")
        partial.rename(path)
    stored = json.loads(path.read_text(encoding="utf-8"))
    # Phantoms of two seeds have the same identifiers.
    subject = f"{path.parent.name}/{path.stem}"
    return [
        KnownValue(item["table"], item["column"], CalibrationPair(**(item["pair"] | {"subject": subject})))
        for item in stored
    ]


def calibrate_weights(work: Path, model: str, draws: SamplingSettings) -> None:
    """Calibrate, store the calibration beside the weights, and write its card into docs/validation.md."""
    readers, *motion = (collect(work, cohort, model, draws, most=None) for cohort in CALIBRATED)
    known_motion = [known for of_cohort in motion for known in of_cohort]
    quantities = merge_quantities(
        fit_quantities(readers, population=READERS), fit_quantities(known_motion, population=KNOWN_MOTION)
    )
    path = find_weights(model).with_suffix(CALIBRATION_SUFFIX)
    made = {"made": datetime.now(UTC).date().isoformat(), "by": "benchmarks/coverage.py"}
    write_calibration(path, Calibration(load_checkpoint(find_weights(model)).digest, quantities, made))
    stored = read_calibration(path).quantities
    VALIDATION_PAGE.write_text(with_card(VALIDATION_PAGE.read_text(encoding="utf-8"), stored), encoding="utf-8")
    print_summary(stored)


def with_card(page: str, quantities: Quantities) -> str:
    """Return a page with the card of a calibration in place of the one that it has."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{markdown_card(quantities)}\n{END}{after}"


def print_summary(quantities: Quantities) -> None:
    """Print the card and how many columns are within 85 to 95 % at 90 %, and how many are never reported."""
    print(markdown_card(quantities))
    fitted = [one for of_table in quantities.values() for one in of_table.values()]
    held = [one.at_90.held_pct for one in fitted if one.at_90]
    withheld = sum(one.at_95 is not None and one.at_95.half_width > one.largest_half_width for one in fitted)
    within = sum(85 <= value <= 95 for value in held)
    print(f"{len(fitted)} columns, cross-validated coverage at 90 % from {min(held):.0f} to {max(held):.0f} %")
    print(f"{within} columns within 85 to 95 %; {withheld} not reported in a typical subject")


def apply_calibration(work: Path, model: str, draws: SamplingSettings) -> None:
    """Print the coverage of the stored calibration in cines of other seeds, and the ratio of widths of two seeds."""
    calibration = find_calibration(load_checkpoint(find_weights(model)).digest)
    if calibration is None:
        raise SystemExit("The weights have no calibration: run without --test first.")
    fitted = [known for cohort in CALIBRATED for known in collect(work, cohort, model, draws, most=None)]
    for cohort in TESTED:
        print_coverage(cohort.name, fitted, collect(work, cohort, model, draws, most=TEST_CINES), calibration)
    other = SamplingSettings(draws.samples, draws.seed + 1, spreads_only=True)
    first, second = (collect(work, CALIBRATED[0], model, one, most=None) for one in (draws, other))
    print("\nmedian half-width with another seed of the posterior samples / with the first")
    for column, of_table in calibration.quantities["indices"].items():
        if of_table.typical_spread is not None and column in SEGMENTATION_COLUMNS:
            widths = [
                np.median([of_table.half_width(known.pair.spread) for known in found if known.column == column])
                for found in (first, second)
            ]
            print(f"  {column:32} {widths[1] / widths[0]:.3f}")


def print_coverage(
    title: str, fitted: Sequence[KnownValue], tested: Sequence[KnownValue], calibration: Calibration
) -> None:
    """Print the coverage at 90 % and 95 % of every column, and of all columns."""
    print(f"\n{title}, another seed: coverage at 90 %, at 95 %")
    all_held = []
    for table, of_table in calibration.quantities.items():
        for column, at_95 in of_table.items():
            own = _pairs(tested, table, column)
            if not own:
                continue
            at_90 = fit(_pairs(fitted, table, column), COMPARED_LEVEL)
            held = [
                np.mean([abs(pair.value - pair.true) <= one.half_width(pair.spread) for pair in own])
                for one in (at_90, at_95)
            ]
            all_held.append(held)
            print(f"  {table:8} {column:45} {100 * held[0]:5.0f} {100 * held[1]:5.0f}")
    print("  mean of all columns " + ", ".join(f"{100 * value:.1f} %" for value in np.mean(all_held, axis=0)))


def _pairs(found: Iterable[KnownValue], table: str, column: str) -> list[CalibrationPair]:
    return [known.pair for known in found if (known.table, known.column) == (table, column)]


def main() -> None:
    """Read the options, and calibrate or test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder in which cines, runs and values are kept")
    parser.add_argument("--model", default="default", help="a shipped model")
    parser.add_argument("--test", action="store_true", help="apply the stored calibration to cines of other seeds")
    parser.add_argument("--samples", type=int, default=50, help="number of posterior samples")
    options = parser.parse_args()
    if not (REAL_DATA / "acdc").is_dir():
        raise SystemExit(f"{REAL_DATA / 'acdc'} is missing: the calibration needs ACDC.")
    options.work.mkdir(parents=True, exist_ok=True)
    draws = SamplingSettings(options.samples, seed=1, spreads_only=True)
    (apply_calibration if options.test else calibrate_weights)(options.work.absolute(), options.model, draws)


if __name__ == "__main__":
    main()
