"""How often the 95 % intervals hold the true value, and the factors that make it 95 %.

Hearts: every fifth patient of ACDC, kept back from training, whose truth are the reference masks; and synthetic hearts,
whose truth is their masks and their closed-form strain, of the whole wall and of its AHA segments; and any run whose
manifest names masks, by ``--run``. Segments are measured, never fitted on: they share the factors of the whole wall.

    python benchmarks/coverage.py                  measure
    python benchmarks/coverage.py --fit            fit the factors first and store them beside the weights

Factors are fitted on ACDC and on synthetic hearts of one seed, and measured on synthetic hearts of another; in the
provenance each subject is judged by factors fitted without it, too. ``--work FOLDER`` keeps the runs, so that a second
call is quick.
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

from cmnet_cli.tables.columns.mechanics import SEGMENT_STRAINS, STRAINS
from cmnet_cli.tables.schema import read_rows
from cmnet_core.geometry.lv_coordinates import SEGMENTS
from cmnet_core.mechanics.strain import SIGN, Direction
from cmnet_core.mechanics.strain_curves import Timing, summarise
from cmnet_core.models.checkpoint import find_weights, load_checkpoint
from cmnet_core.uncertainty.calibration import CALIBRATION_SUFFIX, Family, family_of, find_calibration

REAL_DATA = Path(os.environ.get("CMNET_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
FIT_SEED, TEST_SEED = 1071, 1072  # no shipped weights have seen hearts of these
EVERY = 5
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pair:
    """One index of one subject: the error, and the half-width of its interval without any factor."""

    cohort: str
    subject: str
    index: str
    error: float
    half: float

    @property
    def needed(self) -> float:
        """The factor from which on the interval holds the truth."""
        return abs(self.error) / self.half if self.half > 0 else math.inf


def cmnet(*arguments: object) -> None:
    """Run a command as a user would; some subjects may fail, all else ends the benchmark."""
    ran = subprocess.run([sys.executable, "-m", "cmnet_cli", *map(str, arguments), "--quiet"], check=False)
    if ran.returncode not in (0, 4):
        raise SystemExit(f"cmnet {arguments[0]} ended with exit code {ran.returncode}.")


def acdc_manifest(folder: Path) -> Path | None:
    """A manifest of the patients kept back, or None where the data are not there."""
    source, whole, kept = REAL_DATA / "acdc", folder / "acdc-all.csv", folder / "acdc.csv"
    if not source.is_dir():
        return None
    subprocess.run(
        [sys.executable, "-m", "cmnet_cli", "manifest", str(source), "--layout", "acdc", "--out", str(whole)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    header, *lines = whole.read_text(encoding="utf-8").splitlines()
    kept.write_text("\n".join([header, *sorted(lines)[::EVERY]]) + "\n", encoding="utf-8")
    return kept


def phantom_manifest(folder: Path, seed: int, subjects: int, frames: int) -> Path:
    """A manifest of synthetic hearts."""
    out = folder / f"hearts-{seed}"
    if not (out / "cohort.csv").exists():
        cmnet("phantom", out, "--subjects", subjects, "--frames", frames, "--seed", seed)
    return out / "cohort.csv"


def run_of(manifest: Path, model: str, samples: int) -> Path:
    """The finished run of a manifest; what is done before is not done again."""
    run = manifest.parent / f"run-{manifest.parent.name}-{manifest.stem}"
    cmnet("infer", "--manifest", manifest, "--out", run, "--model", model)
    cmnet("indices", "--run", run, "--samples", samples)
    cmnet("evaluate", "--run", run)
    return run


def pairs_of(run: Path, cohort: str, factor: Callable[[str], float], truth: Path | None = None) -> list[Pair]:
    """Every index of every subject that has an interval and a true value.

    Args:
        run: A run with indices and evaluation.
        cohort: What its hearts are called in the result.
        factor: What the intervals were multiplied by when they were written; it is taken out again.
        truth: Table of further true values, as ``cmnet phantom`` writes it.
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
    """Strain of synthetic hearts: peaks, values at ES, times and rates; their volumes are taken from the masks."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in (rows[0] if rows else ()) if name.startswith((*STRAINS, "time_to_peak"))]
    return {(row["subject_id"], name): float(row[name]) for row in rows for name in names if row[name]}


def segment_pairs(run: Path, cohort: str, factor: Callable[[str], float], hearts: Path) -> list[Pair]:
    """Peak strain of every AHA segment of synthetic hearts.

    Args:
        run: A run with indices.
        cohort: What its hearts are called in the result.
        factor: As in :func:`pairs_of`.
        hearts: The folder that ``cmnet phantom`` wrote.
    """
    pairs, known = [], {}
    for row in read_rows(run / "tables/segments.parquet"):
        subject = row["subject_id"]
        if subject not in known:
            known[subject] = _true_segments(hearts / f"sub-{subject}" / f"sub-{subject}_truth.json")
        for name, true in known[subject][row["segment"] - 1].items():
            value, upper = row[name], row[f"{name}_hi"]
            if value is not None and upper is not None:
                half = (upper - value) / factor(name)
                pairs.append(Pair(cohort, subject, name, value - true, half))
    return pairs


def _true_segments(path: Path) -> list[dict[str, float]]:
    """Peaks in % of each AHA segment from the closed-form curves of a synthetic heart."""
    told = json.loads(path.read_text(encoding="utf-8"))
    timing = Timing(told["ed"], told["es"], frame_ms=None)
    segments: list[dict[str, float]] = [{} for _ in range(SEGMENTS)]
    for direction, name in zip(Direction, SEGMENT_STRAINS, strict=True):
        curves = 100.0 * torch.tensor(told["green_lagrange_strain_of_aha_segments"][name], dtype=torch.float64)
        for segment, curve in zip(segments, curves.T, strict=True):
            peak = summarise(curve, timing, sign=SIGN[direction]).peak
            if peak is not None:
                segment[f"{name}_peak_pct"] = peak
    return segments


def fit(pairs: Sequence[Pair]) -> dict[str, float]:
    """The factor of each family: the least from 1 on with which 95 % of the pairs of a cohort, on average, are held.

    A handful of hearts does not show that a network doubts too much: no factor narrows an interval.
    """
    factors = {}
    for family in Family:
        by_cohort: dict[str, list[float]] = {}
        for pair in pairs:
            if family_of(pair.index) == family:
                by_cohort.setdefault(pair.cohort, []).append(pair.needed)
        if by_cohort:
            # Each cohort counts the same, however many hearts it has.
            needed = np.concatenate([np.asarray(values) for values in by_cohort.values()])
            weight = np.concatenate([np.full(len(values), 1 / len(values)) for values in by_cohort.values()])
            order = np.argsort(needed)
            reached = np.cumsum(weight[order]) / weight.sum()
            factors[str(family)] = max(1.0, round(float(needed[order][np.searchsorted(reached, 0.95)]), 2))
    return factors


def held(pairs: Iterable[Pair], factors: dict[str, float]) -> float:
    """Percentage of the pairs whose interval holds the truth."""
    inside = [pair.needed <= factors.get(family_of(pair.index), 1.0) for pair in pairs]
    return 100 * sum(inside) / len(inside) if inside else math.nan


def held_without_self(pairs: Sequence[Pair], cohort: str) -> float:
    """The same for one cohort, each subject judged by factors fitted without it."""
    own = [pair for pair in pairs if pair.cohort == cohort]
    shares = []
    for subject in sorted({pair.subject for pair in own}):
        factors = fit([pair for pair in pairs if (pair.cohort, pair.subject) != (cohort, subject)])
        members = [pair for pair in own if pair.subject == subject]
        shares += [held(members, factors)] * len(members)
    return sum(shares) / len(shares) if shares else math.nan


def show(title: str, pairs: Sequence[Pair], factors: dict[str, float]) -> None:
    """Print coverage without and with the factors, for all pairs and index by index."""
    subjects = len({pair.subject for pair in pairs})
    print(f"\n{title}: {subjects} subjects, {len(pairs)} pairs, held {held(pairs, {}):.1f} % without a factor, "
          f"{held(pairs, factors):.1f} % with")  # fmt: skip
    for index in dict.fromkeys(pair.index for pair in pairs):
        members = [pair for pair in pairs if pair.index == index]
        half = np.mean([pair.half * factors.get(family_of(index), 1.0) for pair in members])
        rmse = math.sqrt(np.mean([pair.error**2 for pair in members]))
        print(f"  {index:14} {held(members, {}):6.1f} % {held(members, factors):6.1f} %"
              f"   mean half-width {half:6.1f}   RMSE {rmse:6.1f}")  # fmt: skip


def store(model: str, digest: str, factors: dict[str, float], fitted: Sequence[Pair]) -> Path:
    """Write the factors beside the weights, with where they come from."""
    cohorts = list(dict.fromkeys(pair.cohort for pair in fitted))
    provenance: Row = {"fitted": datetime.now(UTC).date().isoformat(), "by": "benchmarks/coverage.py --fit"}
    for cohort in cohorts:
        members = [pair for pair in fitted if pair.cohort == cohort]
        provenance[cohort] = {
            "subjects": len({pair.subject for pair in members}),
            "pairs": len(members),
            "held_before_pct": round(held(members, {}), 1),
            "held_after_pct": round(held(members, factors), 1),
            "held_after_without_self_pct": round(held_without_self(fitted, cohort), 1),
        }
    path = find_weights(model).with_suffix(CALIBRATION_SUFFIX)
    told = {"digest": digest, "factors": factors, "provenance": provenance}
    path.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    return path


def measure(work: Path, options: argparse.Namespace) -> None:
    """Run everything, fit if asked, and print."""
    digest = load_checkpoint(find_weights(options.model)).digest
    calibration = find_calibration(digest)
    before = calibration.factor if calibration else lambda _: 1.0
    hearts = phantom_manifest(work, FIT_SEED, options.subjects, options.frames)
    manifests = {"ACDC, kept back": acdc_manifest(work), "synthetic, for fitting": hearts}
    fitted: list[Pair] = []
    for cohort, manifest in manifests.items():
        if manifest is None:
            print(f"{REAL_DATA / 'acdc'} is not there: nothing is said about real hearts.")
            continue
        run = run_of(manifest, options.model, options.samples)
        fitted += pairs_of(run, cohort, before, manifest.parent / "truth_indices.csv")
    factors = fit(fitted) if options.fit else dict(calibration.factors) if calibration else {}
    for cohort in dict.fromkeys(pair.cohort for pair in fitted):
        show(cohort, [pair for pair in fitted if pair.cohort == cohort], factors)
        if options.fit:
            print(f"  each subject with factors fitted without it: {held_without_self(fitted, cohort):.1f} %")
    if not options.fit_only:
        test = phantom_manifest(work, TEST_SEED, options.subjects, options.frames)
        run = run_of(test, options.model, options.samples)
        show("synthetic, others", pairs_of(run, "others", before, test.parent / "truth_indices.csv"), factors)
        show("synthetic, others, segments", segment_pairs(run, "others", before, test.parent), factors)
    for run in options.run:
        show(str(run), pairs_of(run, str(run), before), factors)
    print(f"\nfactors: {factors}")
    if options.fit:
        print(f"stored: {store(options.model, digest, factors, fitted)}")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default", help="a shipped model, or a .safetensors file")
    parser.add_argument("--fit", action="store_true", help="fit the factors and store them beside the weights")
    parser.add_argument("--fit-only", action="store_true", help="leave the other synthetic hearts out")
    parser.add_argument("--subjects", type=int, default=12, help="synthetic hearts of each seed")
    parser.add_argument("--frames", type=int, default=10, help="of each synthetic heart")
    parser.add_argument("--samples", type=int, default=20, help="draws behind an interval")
    parser.add_argument("--run", type=Path, action="append", default=[], help="a finished run with evaluation")
    parser.add_argument("--work", type=Path, help="folder to keep the runs in")
    options = parser.parse_args()
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        measure(options.work, options)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options)


if __name__ == "__main__":
    main()
