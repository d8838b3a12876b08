"""The commands phantom and demo: synthetic hearts, and the whole main job on them."""

import csv
from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.commands.evaluate import evaluate
from cmnet_cli.commands.process import indices, infer
from cmnet_cli.commands.report import report
from cmnet_cli.config import EvaluateConfig, IndicesConfig, InferConfig, load_config
from cmnet_cli.console import Messages, progress
from cmnet_cli.execution.plan import ExecutionSettings
from cmnet_cli.execution.summary import CommandSummary
from cmnet_cli.runs.paths import RunFolder
from cmnet_cli.stages.phantom import write_cohort
from cmnet_cli.tables.schema import read_rows

_SHOWN = {
    "lvedv_ml": "LVEDV mL",
    "lvesv_ml": "LVESV mL",
    "lvef_pct": "LVEF %",
    "lvm_g": "LVM g",
    "rvef_pct": "RVEF %",
}


@dataclass(frozen=True, slots=True)
class Hearts:
    """Which synthetic hearts.

    Attributes:
        subjects: How many.
        frames: Frames in each cycle.
        seed: What all chance starts from.
        defect_fraction: Share of the hearts with a segment that moves less.
    """

    subjects: int
    frames: int
    seed: int
    defect_fraction: float = 0.25


def write_hearts(out: Path, hearts: Hearts, messages: Messages) -> Path:
    """Write synthetic hearts with their truth.

    Returns:
        The manifest.
    """
    with progress(messages, "phantom", total=hearts.subjects) as ticker:
        return write_cohort(
            out,
            subjects=hearts.subjects,
            frames=hearts.frames,
            seed=hearts.seed,
            defect_fraction=hearts.defect_fraction,
            progress=lambda: ticker.tick(failed=False),
        )


def demo(
    out: Path, hearts: Hearts, messages: Messages, *, model: str | None, device: str, workers: int
) -> CommandSummary:
    """Run the whole main job on synthetic hearts and print the indices beside the truth.

    Returns:
        How inference went.

    Raises:
        CheckpointError: The weights cannot be used.
    """
    manifest, run = write_hearts(out / "hearts", hearts, messages), out / "run"
    settings = ExecutionSettings(workers=workers)
    config = load_config(InferConfig, None, model=model)
    summary = infer(manifest, run, config, settings, messages, device=device)
    indices(run, IndicesConfig(), settings, messages)
    evaluate(run, None, EvaluateConfig(), settings, Messages(quiet=True))
    page = report(run, messages)
    show_beside_truth(run, out / "hearts" / "truth_indices.csv", messages)
    messages.result(f"Report: {page.resolve()}")
    return summary


def show_beside_truth(run: Path, truth: Path, messages: Messages) -> None:
    """Print every subject's indices, each with the truth behind it."""
    with truth.open(encoding="utf-8", newline="") as file:
        known = {row["subject_id"]: row for row in csv.DictReader(file)}
    lines = [
        [row["subject_id"], *(_beside(row[name], known[row["subject_id"]][name]) for name in _SHOWN)]
        for row in read_rows(RunFolder(run).table("indices"))
    ]
    messages.table("Found (true)", ["subject", *_SHOWN.values()], lines)


def _beside(found: float | None, true: str) -> str:
    told = "none" if found is None else f"{found:.0f}"
    return f"{told} ({float(true):.0f})" if true else told
