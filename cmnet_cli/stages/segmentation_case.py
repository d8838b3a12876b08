"""Load a case for the training of SegNet, with targets from its reference masks and from a teacher."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from cmnet_cli.cohort.case import Case
from cmnet_cli.stages.read_images import labelled_phases, load_cine, load_labels, load_reference_masks
from cmnet_core.imaging.preprocess import NETWORK_MULTIPLE, Window, extract, normalise, window_around
from cmnet_core.inference.segmentation import find_window, segment
from cmnet_core.training.segmentation_case import (
    ReferenceMasks,
    SegmentationCase,
    distilled_targets,
    mask_targets,
    pool_targets,
    segmentation_case,
)
from cmnet_core.training.segnet_stage import SegNetTraining
from cmnet_core.training.training_case import require_structures
from cmnet_core.types import CineSequence, LabelSequence

BOX_MM = 192.0
"""In-plane size in mm of the box around the heart outside of which every target is background."""


@dataclass(frozen=True, slots=True, eq=False)
class LoadSegmentationStage:
    """Load every case and compute the targets of its frames; nothing is written.

    Attributes:
        settings: Collections, and the weight of the teacher.
        spacing_mm: In-plane voxel size to which the cases are resampled.
        teacher: A network that returns class probabilities, or None.
    """

    settings: SegNetTraining
    spacing_mm: float
    teacher: nn.Module | None
    name: str = "load"

    def open(self) -> Callable[[Case], SegmentationCase]:
        """Return the function that loads a case."""
        return self._load

    def _load(self, case: Case) -> SegmentationCase:
        name = case.extra.get("collection", "")
        for collection in self.settings.collections:
            if collection.name == name:
                return load_supplement(case, name, collection.masks, spacing_mm=self.spacing_mm, teacher=self.teacher)
        return load_main_case(case, self.settings, spacing_mm=self.spacing_mm, teacher=self.teacher)


def load_main_case(
    case: Case, settings: SegNetTraining, *, spacing_mm: float, teacher: nn.Module | None
) -> SegmentationCase:
    """Load a subject with complete masks; the targets are the mean of masks and teacher, if there is one.

    Raises:
        CaseError: The image or the masks cannot be used, or the masks lack a structure or ED or ES.
    """
    cine, labels, box = _labelled(case, spacing_mm)
    targets = mask_targets(labels, box)
    if teacher is not None:
        probabilities = segment(teacher, extract(cine.voxels[list(labels.frames)], box))
        targets = distilled_targets(probabilities, targets, teacher_weight=settings.teacher_weight)
    return segmentation_case(cine, targets, box, frames=labels.frames, collection="")


def load_supplement(
    case: Case, collection: str, masks: ReferenceMasks, *, spacing_mm: float, teacher: nn.Module | None
) -> SegmentationCase:
    """Load a subject of a supplementary collection.

    Args:
        case: The row of the manifest.
        collection: Name of the collection.
        masks: What its reference masks contain.
        spacing_mm: In-plane voxel size to which the case is resampled.
        teacher: A network that returns class probabilities; it is needed unless masks are complete.

    Raises:
        CaseError: The image or the masks cannot be used, or the teacher finds no heart.
    """
    if masks is ReferenceMasks.COMPLETE:
        cine, labels, box = _labelled(case, spacing_mm)
        return segmentation_case(cine, mask_targets(labels, box), box, frames=labels.frames, collection=collection)
    assert teacher is not None, "the settings were checked before"
    cine = _normalised(load_cine(case))
    box = find_window(teacher, cine, spacing_mm=spacing_mm, size=_box_size(spacing_mm))
    drawn = None if masks is ReferenceMasks.NONE else load_labels(case, cine)
    frames = tuple(range(cine.frames)) if drawn is None else drawn.frames
    probabilities = segment(teacher, extract(cine.voxels[list(frames)], box))
    targets = probabilities[:, 1:] if drawn is None else pool_targets(probabilities, drawn, box)
    return segmentation_case(cine, targets, box, frames=frames, collection=collection)


def _labelled(case: Case, spacing_mm: float) -> tuple[CineSequence, LabelSequence, Window]:
    """Load a cine with its complete masks, and the box around these."""
    cine = load_cine(case)
    labels = load_reference_masks(case, cine, purpose="Training")
    require_structures(labels.labels, "The masks lack")
    for phase, frame in zip(("ED", "ES"), labelled_phases(case, labels), strict=True):
        require_structures(labels.at(frame)[None], f"The mask at {phase} lacks")
    rows, columns = (labels.labels > 0).flatten(0, 1).any(0).nonzero().double().mean(0).tolist()
    centre_mm = (rows * cine.spacing.y, columns * cine.spacing.x)
    box = window_around(cine, centre_mm, spacing_mm=spacing_mm, size=_box_size(spacing_mm))
    return _normalised(cine), labels, box


def _normalised(cine: CineSequence) -> CineSequence:
    return replace(cine, voxels=normalise(cine.voxels))


def _box_size(spacing_mm: float) -> tuple[int, int]:
    voxels = NETWORK_MULTIPLE * math.ceil(BOX_MM / spacing_mm / NETWORK_MULTIPLE)
    return voxels, voxels
