"""Coverage of the 95 % intervals, and the calibration factors that make it 95 %.

The subjects are every 5th patient of ACDC, which the training did not use, with the reference masks as ground truth;
phantoms with masks and closed-form strain of the whole wall and of its AHA segments; and, with ``--run``, any run whose
manifest has masks. Segments are evaluated only: they have the factors that are fitted on the whole wall.

    python benchmarks/coverage.py                  measure
    python benchmarks/coverage.py --fit            fit the factors first and store them beside the weights

The factors are fitted on ACDC and on phantoms of one seed, and evaluated on phantoms of another seed. The provenance
also has the cross-validated coverage, for which the factors of each subject are fitted without it. ``--work FOLDER``
keeps the runs, which a second call then does not repeat.
"""

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmnet_cli.tables.columns.mechanics import GREEN_STRAINS, SEGMENT_STRAINS
from cmnet_cli.tables.schema import read_rows
from cmnet_core.geometry.lv_coordinates import SEGMENTS
from cmnet_core.mechanics.strain import SIGN, Direction
from cmnet_core.mechanics.strain_curves import Timing, summarise
from cmnet_core.models.checkpoint import find_weights, load_checkpoint
from cmnet_core.uncertainty.calibration import CALIBRATION_SUFFIX, Family, family_of, find_calibration

REAL_DATA = Path(os.environ.get("CMNET_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
FIT_SEED, TEST_SEED = 1071, 1072  # the training of the shipped weights had other seeds
VALIDATION_EVERY = 5
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pair:
    """One index of one subject: its error, and the half-width of its interval without a calibration factor."""

    cohort: str
    subject: str
    index: str
    error: float
    half: float

    @property
    def required_factor(self) -> float:
        """The smallest factor with which the interval contains the true value."""
        return abs(self.error) / self.half if self.half > 0 else math.inf


def cmnet(*arguments: object) -> None:
    """Run a command of cmnet; subjects may fail, but any other error ends the benchmark."""
    ran = subprocess.run([sys.executable, "-m", "cmnet_cli", *map(str, arguments), "--quiet"], check=False)
    if ran.returncode not in (0, 4):
        raise SystemExit(f"cmnet {arguments[0]} ended with exit code {ran.returncode}.")


def acdc_manifest(folder: Path) -> Path | None:
    """Write a manifest of the validation patients of ACDC; return None where the data are missing."""
    source, whole, kept = REAL_DATA / "acdc", folder / "acdc-all.csv", folder / "acdc.csv"
    if not source.is_dir():
        return None
    subprocess.run(
        [sys.executable, "-m", "cmnet_cli", "manifest", str(source), "--layout", "acdc", "--out", str(whole)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    header, *lines = whole.read_text(encoding="utf-8").splitlines()
    kept.write_text("\n".join([header, *sorted(lines)[::VALIDATION_EVERY]]) + "\n", encoding="utf-8")
    return kept


def phantom_manifest(folder: Path, seed: int, subjects: int, frames: int) -> Path:
    """Simulate phantoms; return their manifest."""
    out = folder / f"hearts-{seed}"
    if not (out / "cohort.csv").exists():
        cmnet("phantom", out, "--subjects", subjects, "--frames", frames, "--seed", seed)
    return out / "cohort.csv"


def run_of(manifest: Path, model: str, samples: int) -> Path:
    """Run infer, indices and evaluate; finished subjects are not repeated."""
    run = manifest.parent / f"run-{manifest.parent.name}-{manifest.stem}"
    cmnet("infer", "--manifest", manifest, "--out", run, "--model", model)
    cmnet("indices", "--run", run, "--samples", samples)
    cmnet("evaluate", "--run", run)
    return run


def pairs_of(run: Path, cohort: str, factor: Callable[[str], float], truth: Path | None = None) -> list[Pair]:
    """Return every index of every subject that has an interval and a true value.

    Args:
        run: A run with indices and evaluation.
        cohort: Name of the cohort in the result.
        factor: Calibration factors with which the intervals were written; they are divided out.
        truth: Table of further true values that ``cmnet phantom`` wrote.
    """
    known = {(row["subject_id"], row["index"]): row["reference"] for row in read_rows(run / "tables/agreement.parquet")}
    if truth is not None and truth.exists():
        known |= _more_truth(truth)
    pairs = []
    for row in read_rows(run / "tables/indices.parquet"):
        for index in [name.removesuffix("_hi") for name in row if name.endswith("_hi")]:
            true, value, upper = known.get((row["subject_id"], index)), row[index], row[f"{index}_hi"]
            if true is not None and value is not None and upper is not None:
                half = (upper - value) / factor(index)
                pairs.append(Pair(cohort, row["subject_id"], index, value - true, half))
    return pairs


def _more_truth(path: Path) -> dict[tuple[str, str], float]:
    """Read the true strain of phantoms: peaks, values at ES, times and rates; volumes are those of the masks."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else ()) if name.startswith((*GREEN_STRAINS, "time_to_peak"))]
    return {(row["subject_id"], name): float(row[name]) for row in rows for name in names if row[name]}


def segment_pairs(run: Path, cohort: str, factor: Callable[[str], float], phantoms: Path) -> list[Pair]:
    """Return the peak strain of every AHA segment of phantoms.

    Args:
        run: A run with indices.
        cohort: Name of the cohort in the result.
        factor: Calibration factors with which the intervals were written; they are divided out.
        phantoms: The folder that ``cmnet phantom`` wrote.
    """
    pairs, known = [], {}
    for row in read_rows(run / "tables/segments.parquet"):
        subject = row["subject_id"]
        if subject not in known:
            known[subject] = _true_segments(phantoms / f"sub-{subject}" / f"sub-{subject}_truth.json")
        for name, true in known[subject][row["segment"] - 1].items():
            value, upper = row[name], row[f"{name}_hi"]
            if value is not None and upper is not None:
                half = (upper - value) / factor(name)
                pairs.append(Pair(cohort, subject, name, value - true, half))
    return pairs


def _true_segments(path: Path) -> list[dict[str, float]]:
    """Compute the peaks in % of each AHA segment from the closed-form curves of a phantom."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    timing = Timing(stored["ed"], stored["es"], frame_ms=None)
    segments: list[dict[str, float]] = [{} for _ in range(SEGMENTS)]
    for direction, name in zip(Direction, SEGMENT_STRAINS, strict=False):
        curves = 100.0 * torch.tensor(stored["green_lagrange_strain_of_aha_segments"][name], dtype=torch.float64)
        for segment, curve in zip(segments, curves.T, strict=True):
            peak = summarise(curve, timing, sign=SIGN[direction]).peak
            if peak is not None:
                segment[f"{name}_green_wall_peak_pct"] = peak
    return segments


def fit(pairs: Sequence[Pair]) -> dict[str, float]:
    """Fit the factor of each family: the smallest, but at least 1, with a coverage of 95 % averaged over the cohorts.

    A small number of subjects is no evidence that intervals are too wide: no factor narrows an interval.
    """
    factors = {}
    for family in Family:
        by_cohort: dict[str, list[float]] = {}
        for pair in pairs:
            if family_of(pair.index) == family:
                by_cohort.setdefault(pair.cohort, []).append(pair.required_factor)
        if by_cohort:
            # Each cohort has the same weight, independently of its number of subjects.
            required_factor = np.concatenate([np.asarray(values) for values in by_cohort.values()])
            weight = np.concatenate([np.full(len(values), 1 / len(values)) for values in by_cohort.values()])
            order = np.argsort(required_factor)
            reached = np.cumsum(weight[order]) / weight.sum()
            factors[str(family)] = max(1.0, round(float(required_factor[order][np.searchsorted(reached, 0.95)]), 2))
    return factors


def coverage_pct(pairs: Iterable[Pair], factors: dict[str, float]) -> float:
    """Return the percentage of the pairs whose interval contains the true value."""
    inside = [pair.required_factor <= factors.get(family_of(pair.index), 1.0) for pair in pairs]
    return 100 * sum(inside) / len(inside) if inside else math.nan


def cross_validated_coverage_pct(pairs: Sequence[Pair], cohort: str) -> float:
    """Return the coverage of one cohort with factors that are fitted without the subject to which they are applied."""
    own = [pair for pair in pairs if pair.cohort == cohort]
    coverages = []
    for subject in sorted({pair.subject for pair in own}):
        factors = fit([pair for pair in pairs if (pair.cohort, pair.subject) != (cohort, subject)])
        members = [pair for pair in own if pair.subject == subject]
        coverages += [coverage_pct(members, factors)] * len(members)
    return sum(coverages) / len(coverages) if coverages else math.nan


def print_coverage(title: str, pairs: Sequence[Pair], factors: dict[str, float]) -> None:
    """Print the coverage without and with the factors, for all pairs and for each index."""
    subjects = len({pair.subject for pair in pairs})
    print(f"\n{title}: {subjects} subjects, {len(pairs)} pairs, coverage {coverage_pct(pairs, {}):.1f} % without and "
          f"{coverage_pct(pairs, factors):.1f} % with factors")  # fmt: skip
    for index in dict.fromkeys(pair.index for pair in pairs):
        members = [pair for pair in pairs if pair.index == index]
        half = np.mean([pair.half * factors.get(family_of(index), 1.0) for pair in members])
        rmse = math.sqrt(np.mean([pair.error**2 for pair in members]))
        print(f"  {index:14} {coverage_pct(members, {}):6.1f} % {coverage_pct(members, factors):6.1f} %"
              f"   mean half-width {half:6.1f}   RMSE {rmse:6.1f}")  # fmt: skip


def store(model: str, digest: str, factors: dict[str, float], fitted: Sequence[Pair]) -> Path:
    """Write the factors and their provenance beside the weights."""
    cohorts = list(dict.fromkeys(pair.cohort for pair in fitted))
    provenance: Row = {"fitted": datetime.now(UTC).date().isoformat(), "by": "benchmarks/coverage.py --fit"}
    for cohort in cohorts:
        members = [pair for pair in fitted if pair.cohort == cohort]
        provenance[cohort] = {
            "subjects": len({pair.subject for pair in members}),
            "pairs": len(members),
            "held_before_pct": round(coverage_pct(members, {}), 1),
            "held_after_pct": round(coverage_pct(members, factors), 1),
            "held_after_without_self_pct": round(cross_validated_coverage_pct(fitted, cohort), 1),
        }
    path = find_weights(model).with_suffix(CALIBRATION_SUFFIX)
    stored = {"digest": digest, "factors": factors, "provenance": provenance}
    path.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
    return path


def measure(work: Path, options: argparse.Namespace) -> None:
    """Run all commands, fit the factors with ``--fit``, and print the coverage."""
    digest = load_checkpoint(find_weights(options.model)).digest
    calibration = find_calibration(digest)
    before = calibration.factor if calibration else lambda _: 1.0
    phantoms = phantom_manifest(work, FIT_SEED, options.subjects, options.frames)
    manifests = {"ACDC, validation": acdc_manifest(work), "phantoms, for fitting": phantoms}
    fitted: list[Pair] = []
    for cohort, manifest in manifests.items():
        if manifest is None:
            print(f"{REAL_DATA / 'acdc'} is missing: the coverage of ACDC is not measured.")
            continue
        run = run_of(manifest, options.model, options.samples)
        fitted += pairs_of(run, cohort, before, manifest.parent / "truth_indices.csv")
    factors = fit(fitted) if options.fit else dict(calibration.factors) if calibration else {}
    for cohort in dict.fromkeys(pair.cohort for pair in fitted):
        print_coverage(cohort, [pair for pair in fitted if pair.cohort == cohort], factors)
        if options.fit:
            print(f"  cross-validated: {cross_validated_coverage_pct(fitted, cohort):.1f} %")
    if not options.fit_only:
        test = phantom_manifest(work, TEST_SEED, options.subjects, options.frames)
        run = run_of(test, options.model, options.samples)
        print_coverage(
            "phantoms, for testing", pairs_of(run, "test", before, test.parent / "truth_indices.csv"), factors
        )
        print_coverage("phantoms, for testing, segments", segment_pairs(run, "test", before, test.parent), factors)
    for run in options.run:
        print_coverage(str(run), pairs_of(run, str(run), before), factors)
    print(f"\nfactors: {factors}")
    if options.fit:
        print(f"stored: {store(options.model, digest, factors, fitted)}")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default", help="a shipped model, or a .safetensors file")
    parser.add_argument("--fit", action="store_true", help="fit the factors and store them beside the weights")
    parser.add_argument("--fit-only", action="store_true", help="omit the phantoms for testing")
    parser.add_argument("--subjects", type=int, default=12, help="number of phantoms of each seed")
    parser.add_argument("--frames", type=int, default=10, help="number of frames of each phantom")
    parser.add_argument("--samples", type=int, default=20, help="number of posterior samples")
    parser.add_argument(
        "--run", type=Path, action="append", default=[], help="a finished run with indices and evaluation"
    )
    parser.add_argument("--work", type=Path, help="folder in which the runs are kept")
    options = parser.parse_args()
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        measure(options.work, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options)


if __name__ == "__main__":
    main()
