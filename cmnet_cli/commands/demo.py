"""The commands phantom and demo: a simulated cohort, and a whole analysis of one beside its ground truth."""

import csv
from collections.abc import Mapping
from pathlib import Path

from cmnet_cli.commands import analysis
from cmnet_cli.commands.analysis import Analysis
from cmnet_cli.config import IndicesConfig, InferConfig, load_config
from cmnet_cli.console import Messages, progress
from cmnet_cli.execution.plan import ExecutionSettings
from cmnet_cli.execution.summary import CommandSummary
from cmnet_cli.runs.paths import RunFolder, SimulationFolder
from cmnet_cli.stages.phantom import write_cohort
from cmnet_cli.tables.schema import read_rows

_PRINTED = {
    "lvedv_ml": "LVEDV mL",
    "lvesv_ml": "LVESV mL",
    "lvef_pct": "LVEF %",
    "lvm_g": "LVM g",
    "rvef_pct": "RVEF %",
}


def simulate_phantoms(
    out: Path, messages: Messages, *, subjects: int, frames: int, seed: int, defect_fraction: float = 0.25
) -> Path:
    """Write the cines of phantoms with their ground truth.

    Args:
        out: Folder to write to.
        messages: Where to print.
        subjects: Number of phantoms.
        frames: Frames per cardiac cycle.
        seed: Random seed.
        defect_fraction: Fraction of the phantoms in which one segment has reduced motion.

    Returns:
        The path of the manifest.
    """
    with progress(messages, "phantom", total=subjects) as ticker:
        return write_cohort(
            out,
            subjects=subjects,
            frames=frames,
            seed=seed,
            defect_fraction=defect_fraction,
            progress=lambda: ticker.tick(failed=False),
        )


def demo(
    manifest: Path, run: Path, messages: Messages, *, model: str | None, device: str, workers: int
) -> CommandSummary:
    """Analyse simulated phantoms from images to the report, and print the indices beside the ground truth.

    Args:
        manifest: The manifest that :func:`simulate_phantoms` wrote.
        run: The run folder to write to.
        messages: Where to print.
        model: A shipped model or the path of a weights file; None for the default.
        device: Device of the networks.
        workers: Number of worker processes; 0 for none.

    Returns:
        The summary of inference.

    Raises:
        CheckpointError: The weights cannot be used.
    """
    settings = Analysis(load_config(InferConfig, None, model=model), IndicesConfig(), device)
    result = analysis.run(manifest, run, settings, ExecutionSettings(workers=workers), messages)
    print_beside_truth(run, SimulationFolder(manifest.parent).truth_table, messages)
    if result.page:
        messages.result(f"Report: {result.page.resolve()}")
    return result.summaries[0]


def print_beside_truth(run: Path, truth_table: Path, messages: Messages) -> None:
    """Print the indices of every subject, each with its ground truth in parentheses."""
    with truth_table.open(encoding="utf-8", newline="") as file:
        truth = {row["subject_id"]: row for row in csv.DictReader(file)}
    lines = [
        [row["subject_id"], *_estimates_with_truth(row, truth[row["subject_id"]])]
        for row in read_rows(RunFolder(run).table("indices"))
    ]
    messages.table("Estimate (ground truth)", ["subject", *_PRINTED.values()], lines)


def _estimates_with_truth(row: Mapping[str, float | None], truth: Mapping[str, str]) -> list[str]:
    cells = []
    for name in _PRINTED:
        estimate = row[name]
        text = "none" if estimate is None else f"{estimate:.0f}"
        cells.append(f"{text} ({float(truth[name]):.0f})" if truth[name] else text)
    return cells
