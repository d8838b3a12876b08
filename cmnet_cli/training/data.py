"""The cases of a manifest that train a network, and those that validate it."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import nn

from cmnet_cli.cohort.case import Case
from cmnet_cli.console import Messages, progress
from cmnet_cli.engines.base import Outcome, Stage
from cmnet_cli.engines.select import map_cases
from cmnet_cli.stages.reference_pair import LoadReferencePairStage
from cmnet_cli.stages.segmentation_case import LoadSegmentationStage
from cmnet_cli.stages.training_case import LoadTrainingStage
from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.models.segnet import SegNet
from cmnet_core.training.segmentation_case import ReferenceMasks, SegmentationCase
from cmnet_core.training.segnet_stage import SegNetTraining, missing_collection
from cmnet_core.training.shape_motion.reference_pair import ReferencePair
from cmnet_core.training.training_case import TrainingCase

MIN_CASES = 2
"""Minimum number of usable cases."""

LIKELY = 0.5
"""Probability above which a target counts in the digest of the cases."""

CaseT = TypeVar("CaseT", TrainingCase, SegmentationCase, ReferencePair)
ValidationT = TypeVar("ValidationT", TrainingCase, ReferencePair)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingData(Generic[CaseT, ValidationT]):
    """The cases for training and for validation.

    Attributes:
        training: The cases for training.
        validation: The cases for validation.
        left_out: Number of cases that could not be used.
        digest: Digest of all cases; two trainings with the same cases have the same digest.
    """

    training: tuple[CaseT, ...]
    validation: tuple[ValidationT, ...]
    left_out: int
    digest: str


def load_motion_data(
    cases: Sequence[Case], validate_every: int, *, spacing_mm: float, messages: Messages
) -> TrainingData[TrainingCase, TrainingCase]:
    """Load all cases for the motion network; those that cannot be used are reported and left out.

    Args:
        cases: The cases of the manifest.
        validate_every: Every n-th case validates, starting with the first; 0 for none. A column ``split`` of the
            manifest takes precedence.
        spacing_mm: In-plane voxel size to which the cases are resampled.
        messages: Where to print.

    Raises:
        ManifestError: No case names reference masks, or too few cases can be used.
    """
    validation_ids = ids_for_validation(cases, validate_every)
    training = [case for case in cases if case.case_id not in validation_ids]
    stage = LoadTrainingStage(spacing_mm)
    return _load(stage, stage, training, cases, validation_ids, messages)


def load_reference_pairs(
    cases: Sequence[Case], validate_every: int, *, window: int, segnet: SegNet, messages: Messages
) -> TrainingData[ReferencePair, ReferencePair]:
    """Load all cases at ED and ES and segment them; cases that cannot be used are reported and left out.

    Args:
        cases: The cases of the manifest.
        validate_every: Every n-th case validates, starting with the first; 0 for none. A column ``split`` of the
            manifest takes precedence.
        window: Size of the window around the heart along y and x, in voxels of 3 mm.
        segnet: A trained SegNet.
        messages: Where to print.

    Raises:
        ManifestError: No case names reference masks, or too few cases can be used.
    """
    validation_ids = ids_for_validation(cases, validate_every)
    training = [case for case in cases if case.case_id not in validation_ids]
    stage = LoadReferencePairStage(window, segnet.eval())
    return _load(stage, stage, training, cases, validation_ids, messages)


def load_segnet_data(
    cases: Sequence[Case],
    validate_every: int,
    *,
    settings: SegNetTraining,
    spacing_mm: float,
    teacher: nn.Module | None,
    messages: Messages,
) -> TrainingData[SegmentationCase, TrainingCase]:
    """Load all cases for SegNet and compute their targets; those that cannot be used are reported and left out.

    Args:
        cases: The cases of the manifest, of all collections.
        validate_every: Every n-th case of the main collection validates, starting with the first; 0 for none. A column
            ``split`` of the manifest takes precedence.
        settings: Settings of the training.
        spacing_mm: In-plane voxel size to which the cases are resampled.
        teacher: A network that returns class probabilities, or None.
        messages: Where to print.

    Raises:
        ManifestError: No case names reference masks, too few cases can be used, a collection of the settings has no
            cases, or one needs a teacher and there is none.
    """
    for collection in settings.collections:
        if not any(case.extra.get("collection") == collection.name for case in cases):
            raise missing_collection(collection.name)
        if teacher is None and collection.masks is not ReferenceMasks.COMPLETE:
            raise ManifestError(
                f"The collection '{collection.name}' of segnet.collections has no complete masks and needs a teacher.",
                hint="Give the weights of one or more trained SegNets with --teacher, or remove the collection.",
                code=ErrorCode.CONFIG,
            )
    names = {collection.name for collection in settings.collections}
    main = [case for case in cases if case.extra.get("collection", "") not in names]
    validation_ids = ids_for_validation(main, validate_every)
    training = [case for case in cases if case.case_id not in validation_ids]
    stage = LoadSegmentationStage(settings, spacing_mm, teacher)
    return _load(stage, LoadTrainingStage(spacing_mm), training, cases, validation_ids, messages)


def _load(
    stage: Stage[Case, CaseT],
    validation_stage: Stage[Case, ValidationT],
    training: Sequence[Case],
    cases: Sequence[Case],
    validation_ids: set[str],
    messages: Messages,
) -> TrainingData[CaseT, ValidationT]:
    """Load the cases for training by one stage, and those for validation by another."""
    if not any(case.has_masks for case in cases):
        raise ManifestError(
            f"None of the {len(cases)} subjects of the manifest has reference masks of ED and ES.",
            hint="Networks are trained on masks: name them in labels_ed and labels_es, or a 4-D mask in labels.",
            code=ErrorCode.MANIFEST_COLUMN,
        )
    digest = hashlib.sha256()
    codes: Counter[str] = Counter()
    trained: list[CaseT] = []
    validated: list[ValidationT] = []
    validation = [case for case in cases if case.case_id in validation_ids]
    with progress(messages, "load", total=len(cases)) as ticker:
        for outcome in map_cases(stage, training, workers=0):
            ticker.tick(failed=outcome.failure is not None)
            if outcome.receipt is not None:
                trained.append(outcome.receipt)
                _add(digest, outcome.case_id, outcome.receipt)
            _report(outcome, cases, codes, messages)
        for checked in map_cases(validation_stage, validation, workers=0):
            ticker.tick(failed=checked.failure is not None)
            if checked.receipt is not None:
                validated.append(checked.receipt)
                _add(digest, f"validation {checked.case_id}", checked.receipt)
            _report(checked, cases, codes, messages)
    found = len(trained) + len(validated)
    if found < MIN_CASES or not trained or (validation and not validated):
        raise _too_few(len(trained), len(validated), codes)
    return TrainingData(tuple(trained), tuple(validated), len(cases) - found, digest.hexdigest())


def _report(outcome: Outcome[Any], cases: Sequence[Case], codes: Counter[str], messages: Messages) -> None:
    """Print why a case was left out, if it was."""
    if outcome.failure is not None:
        codes[outcome.failure.code] += 1
        row = next(case.row for case in cases if case.case_id == outcome.case_id)
        text = f"row {row} left out ({outcome.failure.code})"
        messages.failure(text, outcome.failure.message, outcome.failure.hint)


def _too_few(training: int, validation: int, codes: Counter[str]) -> ManifestError:
    left_out = ", ".join(f"{number} ({code})" for code, number in codes.most_common())
    return ManifestError(
        f"{training} subjects for training and {validation} for validation are not enough"
        f"{f'; left out: {left_out}' if left_out else ''}.",
        hint=f"Give at least {MIN_CASES} subjects with masks at ED and ES, one of them for training; "
        "with validate_every = 0 there is no validation.",
        code=ErrorCode.TRAINING_CASES,
    )


def ids_for_validation(cases: Sequence[Case], validate_every: int) -> set[str]:
    """Return the ids of the cases for validation: those of the manifest's split, or else every n-th case."""
    splits = {case.case_id: case.extra.get("split", "") for case in cases}
    if any(splits.values()):
        return {case_id for case_id, split in splits.items() if split == "validation"}
    return {case.case_id for case in cases[::validate_every]} if validate_every else set()


def _add(digest: "hashlib._Hash", name: str, case: TrainingCase | SegmentationCase | ReferencePair) -> None:
    """Add a case to a digest; resampled images are left out, because they may differ in the last bit by machine."""
    if isinstance(case, ReferencePair):
        digest.update(repr((name, tuple(case.labels.shape), case.slice_mm)).encode())
        digest.update(case.labels.numpy().tobytes())
        return
    digest.update(repr((name, tuple(case.voxels.shape))).encode())
    if isinstance(case, TrainingCase):
        digest.update(repr((case.ed, case.es, case.labelled)).encode())
        digest.update(case.labels.numpy().tobytes())
    else:
        digest.update((case.targets > LIKELY).numpy().tobytes())
