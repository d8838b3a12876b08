"""The split of the subjects between the two training stages."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from cmnet_cli.cohort.case import Case
from cmnet_cli.training.data import ids_for_validation
from cmnet_cli.training.split import cases_of_stage
from cmnet_core.errors import ManifestError
from cmnet_core.training.stages import TrainingStage


def cases(*splits: str) -> list[Case]:
    return [
        Case(row, str(row), (Path("a.nii.gz"),), extra={"split": split} if split else {})
        for row, split in enumerate(splits)
    ]


def split(manifest: Sequence[Case], fraction: float, validate_every: int) -> tuple[list[int], list[int], list[int]]:
    """Return the rows that train SegNet, that train the motion network, and that validate both."""
    rows, validation = [], []
    for stage in TrainingStage:
        found = cases_of_stage(manifest, stage, segnet_fraction=fraction, validate_every=validate_every)
        ids = ids_for_validation(found, validate_every)
        rows.append([case.row for case in found if case.case_id not in ids])
        validation.append([case.row for case in found if case.case_id in ids])
    assert validation[0] == validation[1]
    return rows[0], rows[1], validation[0]


def test_the_stages_share_no_training_subject() -> None:
    assert split(cases(*[""] * 10), 0.25, 5) == ([4, 9], [1, 2, 3, 6, 7, 8], [0, 5])
    assert split(cases(*[""] * 4), 0.5, 0) == ([1, 3], [0, 2], [])


def test_the_split_of_the_manifest_takes_precedence() -> None:
    manifest = cases("train", "train", "validation", "train", "train")
    assert split(manifest, 0.25, 5) == ([4], [0, 1, 3], [2])


def test_with_fraction_one_both_stages_are_trained_on_all_subjects() -> None:
    assert split(cases(*[""] * 6), 1.0, 3) == ([1, 2, 4, 5], [1, 2, 4, 5], [0, 3])


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_a_fraction_outside_of_its_range_is_refused(fraction: float) -> None:
    with pytest.raises(ManifestError, match="segnet_fraction"):
        cases_of_stage(cases("", ""), TrainingStage.SEGNET, segnet_fraction=fraction, validate_every=0)
