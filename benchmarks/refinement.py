"""Cost and accuracy of ``cmnet infer --refine N`` on the validation patients of ACDC, or some of them.

    python -m benchmarks.refinement                 measure, then write the section of docs/validation.md
    python -m benchmarks.refinement --subjects 10   every second validation patient

The commands infer and evaluate are run once for each number of iterations. The cost is the additional CPU time compared
with no refinement, per step of the cycle.
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
ACDC_STEPS = 2
LONG_FRAMES = 50
HEAD = [
    "iterations",
    *(f"{name} Dice ED to ES, %" for name in ("LV", "myocardium", "RV")),
    *(f"{name} HD95 ED to ES, mm" for name in ("LV", "myocardium", "RV")),
    "folded voxels, largest",
    "CPU seconds per frame",
    f"additional time for {LONG_FRAMES} frames",
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results with one number of iterations.

    Attributes:
        iterations: Number of iterations for each step of the cycle.
        metrics: Mean ± standard deviation over subjects of Dice, then of HD95, each of LV, myocardium and RV.
        folds: Largest number of folded voxels of any subject, in either direction.
        seconds: CPU seconds of infer per subject.
    """

    iterations: int
    metrics: tuple[str, ...]
    folds: int
    seconds: float


def outcome(run: RunFolder, iterations: int, seconds: float) -> Outcome:
    """Read an evaluated run.

    Args:
        run: Folder of the run.
        iterations: Number of iterations.
        seconds: CPU seconds of infer for all subjects together.
    """
    rows = read_rows(run.table("evaluation_subjects"))
    names = [f"motion_ed_to_es_{s}_{metric}" for metric in ("dsc_pct", "hd95_mm") for s in STRUCTURES]
    found = [over_subjects([row[name] for row in rows]) for name in names]
    metrics = tuple("" if one is None or one.sd is None else f"{one.value:.1f} ± {one.sd:.1f}" for one in found)
    folds = max(max(row["njd_field_ed_to_es"], row["njd_field_es_to_ed"]) for row in rows)
    return Outcome(iterations, metrics, folds, seconds / len(rows))


def lines(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Return the rows of the table; the first outcome is that without refinement."""
    without = outcomes[0].seconds
    rows = []
    for one in outcomes:
        step_s = (one.seconds - without) / ACDC_STEPS
        cost = [f"{step_s:.1f}", f"{step_s * LONG_FRAMES / 60:.1f} min"] if one.iterations else ["", ""]
        rows.append([str(one.iterations), *one.metrics, str(one.folds), *cost])
    return rows


def measure(manifest: Path, work: Path, iterations: int, model: str | None) -> Outcome:
    """Run infer and evaluate for one number of iterations."""
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


def select_subjects(manifest: Path, subjects: int) -> Path:
    """Write a manifest of a number of subjects, evenly chosen."""
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = rows[:: max(len(rows) // subjects, 1)][:subjects]
    selected = manifest.with_name("part.csv")
    with selected.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(chosen)
    return selected


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the section of the page."""
    root = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    beside = root.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CMNET_REAL_DATA") or beside))
    parser.add_argument("--subjects", type=int, default=20)
    parser.add_argument("--model", help="a name or a safetensors file; default: the shipped weights")
    parser.add_argument("--page", type=Path, default=root / "docs" / "validation.md")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        manifest = select_subjects(validation_split(given.data / "acdc", Path(folder)), given.subjects)
        outcomes = [measure(manifest, Path(folder), iterations, given.model) for iterations in ITERATIONS]
    title = f"{given.subjects} patients, mean ± standard deviation:"
    replace_section(given.page, "refinement", f"{title}\n\n{markdown_table(HEAD, lines(outcomes))}")


if __name__ == "__main__":
    main()
