"""The command phantom --from: cines simulated from the subjects of a labelled data set."""

from pathlib import Path

from cmnet_cli.cohort.manifest import Case, read_manifest, write_manifest
from cmnet_cli.config import SimulatedMotion
from cmnet_cli.console import Messages, progress
from cmnet_cli.engines.select import map_cases
from cmnet_cli.execution.runner import FailedCase
from cmnet_cli.execution.summary import CommandSummary
from cmnet_cli.runs.paths import SimulationFolder
from cmnet_cli.stages.simulate import SimulateStage
from cmnet_core import __version__
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.atomic import write_json

_TERMS = (
    "These images were derived from the images of another data set and remain under the terms of use of that data set."
)


def simulate(
    source: Path,
    out: Path,
    messages: Messages,
    *,
    frames: int,
    variants: int,
    seed: int,
    motion: SimulatedMotion = SimulatedMotion.VELOCITY,
) -> CommandSummary:
    """Simulate cines with known motion of every labelled case of a manifest; cines that exist are kept.

    Args:
        source: Manifest of the labelled data set.
        out: Folder to write to; the new manifest, ``cohort.csv``, is written last.
        messages: Where to print.
        frames: Frames per cardiac cycle.
        variants: Number of cines per case.
        seed: Random seed.
        motion: Class of the motion.

    Raises:
        ManifestError: The manifest cannot be used, or the folder cannot be written.
    """
    manifest = read_manifest(source)
    cases = manifest.cases
    folder = SimulationFolder(out.resolve())
    stage = SimulateStage(folder.root, frames, variants, seed, motion)
    _write_description(folder, source)
    simulated: list[Case] = []
    failed: list[FailedCase] = []
    rows = {case.case_id: case.row for case in cases}
    with progress(messages, stage.name, total=len(cases)) as ticker:
        for outcome in map_cases(stage, cases, workers=0):
            simulated += outcome.receipt or []
            if outcome.failure:
                failed.append(FailedCase.of(outcome.case_id, rows[outcome.case_id], outcome.failure))
            ticker.tick(failed=outcome.failure is not None)
    if simulated:
        write_manifest(folder.manifest, simulated)
    return CommandSummary(
        command=stage.name,
        run=str(out),
        done=len(cases) - len(failed),
        already_done=0,
        skipped=0,
        failed=tuple(failed),
        unusable_rows=manifest.left_out,
    )


def _write_description(folder: SimulationFolder, source: Path) -> None:
    """Write which data set the images were derived from, and its terms of use."""
    description = {
        "Name": "Simulated cines with known motion",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "License": _TERMS,
        "GeneratedBy": [{"Name": "cmnet", "Version": __version__}],
        "SourceDatasets": [{"URL": source.resolve().as_uri()}],
    }
    try:
        write_json(folder.description, description)
    except OSError as error:
        raise ManifestError(
            f"The folder {folder.root} cannot be written: {error.strerror}.",
            hint="Give a folder that you may write to, on a disk with free space.",
            code=ErrorCode.RUN,
        ) from error
