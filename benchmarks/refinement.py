"""What ``cmnet infer --refine N`` costs and gains on real hearts: the validation split of ACDC, or a part of it.

    python -m benchmarks.refinement                 measure, then write the section of docs/validation.md
    python -m benchmarks.refinement --subjects 10   every second patient of the split

Runs infer and evaluate as a user would, once for each number of iterations. The cost is processor time beyond that of
no refinement, a step of the cycle.
"""

import argparse
import csv
import os
import resource
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.accuracy import STRUCTURES, cmnet, over_subjects, validation_split
from benchmarks.pages import markdown_table, replace_section
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.tables.schema import read_rows

ITERATIONS = (0, 10, 30)
STEPS_OF_ACDC = 2
LONG = 50
HEAD = [
    "iterations",
    *(f"{name} Dice ED to ES, %" for name in ("LV", "myocardium", "RV")),
    *(f"{name} HD95 ED to ES, mm" for name in ("LV", "myocardium", "RV")),
    "folded voxels, largest",
    "CPU seconds per frame",
    f"additional time for {LONG} frames",
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one number of iterations gave.

    Attributes:
        iterations: Of the optimiser, for each step of the cycle.
        figures: Mean ± standard deviation over subjects of Dice, then of HD95, LV, myocardium and RV.
        folds: The largest number of folded voxels of any subject, in either direction.
        seconds: Processor seconds of infer a subject.
    """

    iterations: int
    figures: tuple[str, ...]
    folds: int
    seconds: float


def outcome(run: RunFolder, iterations: int, seconds: float) -> Outcome:
    """Read an evaluated run.

    Args:
        run: Its folder.
        iterations: What it was run with.
        seconds: Processor seconds of infer, all subjects together.
    """
    rows = read_rows(run.table("evaluation_subjects"))
    names = [f"motion_ed_to_es_{s}_{figure}" for figure in ("dsc_pct", "hd95_mm") for s in STRUCTURES]
    found = [over_subjects([row[name] for row in rows]) for name in names]
    told = tuple("" if one is None or one.spread is None else f"{one.value:.1f} ± {one.spread:.1f}" for one in found)
    folds = max(max(row["njd_field_ed_to_es"], row["njd_field_es_to_ed"]) for row in rows)
    return Outcome(iterations, told, folds, seconds / len(rows))


def lines(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Rows of the table; the first outcome is that without refinement."""
    without = outcomes[0].seconds
    rows = []
    for one in outcomes:
        step_s = (one.seconds - without) / STEPS_OF_ACDC
        cost = [f"{step_s:.1f}", f"{step_s * LONG / 60:.1f} min"] if one.iterations else ["", ""]
        rows.append([str(one.iterations), *one.figures, str(one.folds), *cost])
    return rows


def measure(manifest: Path, work: Path, iterations: int, model: str | None) -> Outcome:
    """Infer and evaluate one cohort."""
    run = RunFolder(work / f"refined-{iterations}")
    chosen = ("--model", model) if model else ()
    before = _children_s()
    cmnet("infer", "--manifest", manifest, "--out", run.root, "--workers", 0, "--refine", iterations, *chosen)
    seconds = _children_s() - before
    cmnet("evaluate", "--run", run.root)
    return outcome(run, iterations, seconds)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def part_of(manifest: Path, subjects: int) -> Path:
    """So many subjects of a manifest, evenly chosen."""
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = rows[:: max(len(rows) // subjects, 1)][:subjects]
    part = manifest.with_name("part.csv")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(chosen)
    return part


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the section."""
    root = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    beside = root.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CMNET_REAL_DATA") or beside))
    parser.add_argument("--subjects", type=int, default=20)
    parser.add_argument("--model", help="a name or a safetensors file; default: the shipped weights")
    parser.add_argument("--page", type=Path, default=root / "docs" / "validation.md")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        manifest = part_of(validation_split(given.data / "acdc", Path(folder)), given.subjects)
        outcomes = [measure(manifest, Path(folder), iterations, given.model) for iterations in ITERATIONS]
    told = f"{given.subjects} patients, mean ± standard deviation:"
    replace_section(given.page, "refinement", f"{told}\n\n{markdown_table(HEAD, lines(outcomes))}")


if __name__ == "__main__":
    main()
