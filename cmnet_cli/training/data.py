"""The cases that a training learns from, and those that it is judged by."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cmnet_cli.cohort.case import Case
from cmnet_cli.console import Messages, progress
from cmnet_cli.engines.select import map_cases
from cmnet_cli.stages.evaluate import has_reference
from cmnet_cli.stages.training_case import LoadStage
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.training.training_case import TrainingCase

FEWEST = 2
"""Fewer subjects teach a network nothing but themselves."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData:
    """Cases to train on, and cases kept back to validate with.

    Attributes:
        training: To train on.
        validation: To validate with.
        left_out: How many could not be used.
        digest: Tells whether another training had the same cases.
    """

    training: tuple[TrainingCase, ...]
    validation: tuple[TrainingCase, ...]
    left_out: int
    digest: str


def load_training_data(
    cases: Sequence[Case], validate_every: int, *, spacing_mm: float, messages: Messages
) -> TrainingData:
    """Load all cases; those that cannot be used are named and left out.

    Raises:
        ManifestError: No case names reference masks, or too few can be used.
    """
    _refuse_without_masks(cases)
    kept_back = _kept_back(cases, validate_every)
    found: dict[str, TrainingCase] = {}
    rows = {case.case_id: case.row for case in cases}
    codes: Counter[str] = Counter()
    with progress(messages, "load", total=len(cases)) as ticker:
        for outcome in map_cases(LoadStage(spacing_mm), cases, workers=0):
            ticker.tick(failed=outcome.failure is not None)
            if outcome.failure:
                codes[outcome.failure.code] += 1
                told = f"row {rows[outcome.case_id]} left out ({outcome.failure.code})"
                messages.failure(told, outcome.failure.message, outcome.failure.hint)
            elif outcome.receipt:
                found[outcome.case_id] = outcome.receipt
    training = tuple(case for case_id, case in found.items() if case_id not in kept_back)
    validation = tuple(case for case_id, case in found.items() if case_id in kept_back)
    if len(found) < FEWEST or not training or (kept_back and not validation):
        raise _too_few(len(training), len(validation), codes)
    return TrainingData(training, validation, len(cases) - len(found), _digest(found, kept_back))


def _refuse_without_masks(cases: Sequence[Case]) -> None:
    if not any(has_reference(case) for case in cases):
        raise ManifestError(
            f"None of the {len(cases)} subjects of the manifest has reference masks of both phases.",
            hint="Training learns from masks: name them in labels_ed and labels_es, or a 4-D mask in labels.",
            code=ErrorCode.MANIFEST_COLUMN,
        )


def _too_few(training: int, validation: int, codes: Counter[str]) -> ManifestError:
    left_out = ", ".join(f"{number} ({code})" for code, number in codes.most_common())
    return ManifestError(
        f"{training} subjects to train on and {validation} to validate with are not enough"
        f"{f'; left out: {left_out}' if left_out else ''}.",
        hint=f"Give at least {FEWEST} subjects with masks at ED and ES, one of them to train on; "
        "with validate_every = 0 none validates.",
        code=ErrorCode.TRAINING_CASES,
    )


def _kept_back(cases: Sequence[Case], validate_every: int) -> set[str]:
    """Ids of the cases to validate with: as the manifest splits them, else every so manieth."""
    splits = {case.case_id: case.extra.get("split", "") for case in cases}
    if any(splits.values()):
        return {case_id for case_id, split in splits.items() if split == "validation"}
    return {case.case_id for case in cases[::validate_every]} if validate_every else set()


def _digest(cases: dict[str, TrainingCase], kept_back: set[str]) -> str:
    """Of ids, split, phases and masks: images resampled elsewhere may differ in their last bit."""
    digest = hashlib.sha256()
    for case_id, case in cases.items():
        told = (case_id, case_id in kept_back, case.ed, case.es, tuple(case.voxels.shape), case.labelled)
        digest.update(repr(told).encode())
        digest.update(case.labels.numpy().tobytes())
    return digest.hexdigest()
