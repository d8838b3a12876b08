"""The command phantom --from: cines made from real hearts."""

from dataclasses import dataclass
from pathlib import Path

from cmnet_cli.cohort.manifest import Case, read_manifest, write_manifest
from cmnet_cli.console import Messages, progress
from cmnet_cli.engines.select import map_cases
from cmnet_cli.execution.runner import FailedCase
from cmnet_cli.execution.summary import CommandSummary
from cmnet_cli.stages.simulate import SimulateStage
from cmnet_core import __version__
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.atomic import write_json

_TERMS = (
    "These images were made from other people's images, and remain under the terms of the data set that they came from."
)


@dataclass(frozen=True, slots=True)
class Making:
    """What to make of each real heart.

    Attributes:
        frames: Frames in each cycle.
        seed: What all chance starts from.
        variants: Cines of each heart.
    """

    frames: int
    seed: int
    variants: int


def make_hearts(source: Path, out: Path, making: Making, messages: Messages) -> CommandSummary:
    """Make cines of every labelled case of a manifest; those that are there already are kept.

    Args:
        source: Manifest of the real hearts.
        out: Folder to write to; the new manifest, ``cohort.csv``, is written last.
        making: What to make.
        messages: Where to print.

    Raises:
        ManifestError: The manifest cannot be used, or the folder cannot be written.
    """
    cases = read_manifest(source).cases
    stage = SimulateStage(out.resolve(), making.frames, making.variants, making.seed)
    _describe(out, source)
    made: list[Case] = []
    failed: list[FailedCase] = []
    rows = {case.case_id: case.row for case in cases}
    with progress(messages, stage.name, total=len(cases)) as ticker:
        for outcome in map_cases(stage, cases, workers=0):
            made += outcome.receipt or []
            if outcome.failure:
                failed.append(FailedCase.of(outcome.case_id, rows[outcome.case_id], outcome.failure))
            ticker.tick(failed=outcome.failure is not None)
    if made:
        write_manifest(out.resolve() / "cohort.csv", made)
    return CommandSummary(
        command=stage.name,
        run=str(out),
        done=len(cases) - len(failed),
        already_done=0,
        skipped=0,
        failed=tuple(failed),
    )


def _describe(out: Path, source: Path) -> None:
    """Say where the images come from and under whose terms they are."""
    description = {
        "Name": "Cines made from real hearts, with known motion",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "License": _TERMS,
        "GeneratedBy": [{"Name": "cmnet", "Version": __version__}],
        "SourceDatasets": [{"URL": source.resolve().as_uri()}],
    }
    try:
        write_json(out / "dataset_description.json", description)
    except OSError as error:
        raise ManifestError(
            f"The folder {out} cannot be written: {error.strerror}.",
            hint="Name a folder that you may write to, on a disk with room.",
            code=ErrorCode.RUN,
        ) from error
