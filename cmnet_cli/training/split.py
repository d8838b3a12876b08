"""The split of the training cases between the two stages, so that each is trained on subjects unknown to the other."""

from collections.abc import Sequence
from dataclasses import replace

from cmnet_cli.cohort.case import Case
from cmnet_cli.training.data import ids_for_validation
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.training.stages import TrainingStage


def cases_of_stage(
    cases: Sequence[Case], stage: TrainingStage, *, segnet_fraction: float, validate_every: int
) -> Sequence[Case]:
    """Return the training cases of a stage, and the cases for validation, which both stages share.

    SegNet's cases are spread evenly over the manifest, and the motion network has all others. A SegNet that has not
    been trained on the subjects of the motion network is not overconfident on them.

    Args:
        cases: The cases of the manifest.
        stage: The stage.
        segnet_fraction: Fraction of the training cases that SegNet is trained on; 1 trains both stages on all.
        validate_every: Every n-th case is for validation, unless the manifest has a column ``split``.

    Raises:
        ManifestError: The fraction is not within (0, 1].
    """
    if not 0.0 < segnet_fraction <= 1.0:
        raise ManifestError(
            f"The setting segnet_fraction is {segnet_fraction:g}; it must be above 0 and at most 1.",
            hint="Set 1 to train both stages on all subjects, or 0.25 for the split of the article.",
            code=ErrorCode.CONFIG,
        )
    if segnet_fraction == 1.0:
        return cases
    validation = ids_for_validation(cases, validate_every)
    chosen, number = [], 0
    for case in cases:
        if case.case_id in validation:
            chosen.append(_with_split(case, "validation"))
            continue
        of_segnet = int((number + 1) * segnet_fraction) > int(number * segnet_fraction)
        number += 1
        if of_segnet == (stage == TrainingStage.SEGNET):
            chosen.append(_with_split(case, "train"))
    return chosen


def _with_split(case: Case, split: str) -> Case:
    """Return the case with its part of the split in the column ``split``, which takes precedence when it is loaded."""
    return replace(case, extra={**case.extra, "split": split})
