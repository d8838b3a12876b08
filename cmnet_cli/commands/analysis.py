"""The command run: the whole analysis of a cohort, from images to the report."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.cohort.manifest import read_manifest
from cmnet_cli.commands.accuracy.evaluate import evaluate
from cmnet_cli.commands.process import indices, infer
from cmnet_cli.commands.report import report
from cmnet_cli.config import EvaluateConfig, IndicesConfig, InferConfig
from cmnet_cli.console import Messages
from cmnet_cli.execution.attempt_log import read_attempts
from cmnet_cli.execution.plan import ExecutionSettings
from cmnet_cli.execution.summary import CommandSummary
from cmnet_cli.runs.paths import RunFolder


@dataclass(frozen=True, slots=True)
class Analysis:
    """Settings of a whole analysis.

    Attributes:
        infer: Settings of the segmentation and the motion.
        indices: Settings of the indices.
        device: The device that the networks run on.
    """

    infer: InferConfig
    indices: IndicesConfig
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class AnalysisResult:
    """How a whole analysis ended.

    Attributes:
        summaries: The summaries of infer, indices and evaluate, as far as they were run.
        page: The cohort page of the report; None if it was not written.
    """

    summaries: tuple[CommandSummary, ...]
    page: Path | None = None


def run(
    manifest: Path,
    out: Path,
    analysis: Analysis,
    settings: ExecutionSettings,
    messages: Messages,
    *,
    cells: Mapping[str, str] | None = None,
) -> AnalysisResult:
    """Run infer, indices, evaluate where the manifest has reference masks, and report.

    Run again, it continues where it was stopped. In a dry run, only the subjects that infer would process are listed.
    Each step shows its own remaining time: that of the steps after it is not known before they begin.

    Args:
        manifest: The manifest.
        out: The run folder.
        analysis: The settings of the stages.
        settings: Which cases to run, and where.
        messages: The console.
        cells: Cells of every row, in place of those of the manifest.

    Raises:
        ManifestError: The manifest or the run folder cannot be used, or there is no such device.
        CheckpointError: The weights cannot be used.
    """
    has_masks = any(case.has_masks for case in read_manifest(manifest.absolute(), cells=cells).cases)
    steps = ["infer", "indices", *(["evaluate"] if has_masks else []), "report"]
    if not settings.dry_run:
        messages.note(f"{len(steps)} steps: {', '.join(steps)}. A remaining time is that of the present step.")
    inferred = infer(manifest, out, analysis.infer, settings, messages, device=analysis.device, cells=cells)
    if settings.dry_run or not (inferred.done or inferred.already_done):
        return AnalysisResult((inferred,))
    computed = indices(out, analysis.indices, settings, messages)
    evaluated: tuple[CommandSummary, ...] = ()
    if has_masks:
        evaluated = (evaluate(out, None, EvaluateConfig(), settings, Messages(quiet=True)),)
    page = report(out, messages)
    messages.note(f"{_worker_hours(out):.2f} hours of one worker, all attempts at all subjects together.")
    return AnalysisResult((inferred, computed, *evaluated), page)


def _worker_hours(out: Path) -> float:
    return sum(attempt.seconds for attempt in read_attempts(RunFolder(out.absolute()).all_outcomes)) / 3600.0
