"""The cases of a manifest that train a network, and those that validate it."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cmnet_cli.cohort.case import Case
from cmnet_cli.console import Messages, progress
from cmnet_cli.engines.select import map_cases
from cmnet_cli.stages.training_case import LoadTrainingStage
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.training.training_case import TrainingCase

MIN_CASES = 2
"""Minimum number of usable cases."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """The cases for training and for validation.

    Attributes:
        training: The cases for training.
        validation: The cases for validation.
        left_out: Number of cases that could not be used.
        digest: Digest of all cases; two trainings with the same cases have the same digest.
    """

    training: tuple[TrainingCase, ...]
    validation: tuple[TrainingCase, ...]
    left_out: int
    digest: str


def load_training_data(
    cases: Sequence[Case], validate_every: int, *, spacing_mm: float, messages: Messages
) -> TrainingData:
    """Load all cases; those that cannot be used are reported and left out.

    Args:
        cases: The cases of the manifest.
        validate_every: Every n-th case validates, starting with the first; 0 for none. A column ``split`` of the
            manifest takes precedence.
        spacing_mm: In-plane voxel size to which the cases are resampled.
        messages: Where to print.

    Raises:
        ManifestError: No case names reference masks, or too few cases can be used.
    """
    if not any(case.has_masks for case in cases):
        raise ManifestError(
            f"None of the {len(cases)} subjects of the manifest has reference masks of ED and ES.",
            hint="Networks are trained on masks: name them in labels_ed and labels_es, or a 4-D mask in labels.",
            code=ErrorCode.MANIFEST_COLUMN,
        )
    validation_ids = _validation_ids(cases, validate_every)
    found: dict[str, TrainingCase] = {}
    rows = {case.case_id: case.row for case in cases}
    codes: Counter[str] = Counter()
    with progress(messages, "load", total=len(cases)) as ticker:
        for outcome in map_cases(LoadTrainingStage(spacing_mm), cases, workers=0):
            ticker.tick(failed=outcome.failure is not None)
            if outcome.failure:
                codes[outcome.failure.code] += 1
                row = f"row {rows[outcome.case_id]} left out ({outcome.failure.code})"
                messages.failure(row, outcome.failure.message, outcome.failure.hint)
            elif outcome.receipt:
                found[outcome.case_id] = outcome.receipt
    training = tuple(case for case_id, case in found.items() if case_id not in validation_ids)
    validation = tuple(case for case_id, case in found.items() if case_id in validation_ids)
    if len(found) < MIN_CASES or not training or (validation_ids and not validation):
        raise _too_few(len(training), len(validation), codes)
    return TrainingData(training, validation, len(cases) - len(found), _digest(found, validation_ids))


def _too_few(training: int, validation: int, codes: Counter[str]) -> ManifestError:
    left_out = ", ".join(f"{number} ({code})" for code, number in codes.most_common())
    return ManifestError(
        f"{training} subjects for training and {validation} for validation are not enough"
        f"{f'; left out: {left_out}' if left_out else ''}.",
        hint=f"Give at least {MIN_CASES} subjects with masks at ED and ES, one of them for training; "
        "with validate_every = 0 there is no validation.",
        code=ErrorCode.TRAINING_CASES,
    )


def _validation_ids(cases: Sequence[Case], validate_every: int) -> set[str]:
    """Return the ids of the cases for validation: those of the manifest's split, or else every n-th case."""
    splits = {case.case_id: case.extra.get("split", "") for case in cases}
    if any(splits.values()):
        return {case_id for case_id, split in splits.items() if split == "validation"}
    return {case.case_id for case in cases[::validate_every]} if validate_every else set()


def _digest(cases: dict[str, TrainingCase], validation_ids: set[str]) -> str:
    """Return the digest of ids, split, phases and masks; resampled images may differ in the last bit by machine."""
    digest = hashlib.sha256()
    for case_id, case in cases.items():
        facts = (case_id, case_id in validation_ids, case.ed, case.es, tuple(case.voxels.shape), case.labelled)
        digest.update(repr(facts).encode())
        digest.update(case.labels.numpy().tobytes())
    return digest.hexdigest()
