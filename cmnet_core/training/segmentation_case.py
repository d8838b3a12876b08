"""Subjects in the form in which SegNet is trained on them: images, and soft targets from masks and from a teacher."""

from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Bool, Float, Float16, UInt8
from torch import Tensor
from torch.nn import functional

from cmnet_core.imaging.preprocess import Window, extract, extract_labels, wide_window
from cmnet_core.labels import Label
from cmnet_core.training.training_case import CLASSES, STRUCTURES
from cmnet_core.types import CineSequence, LabelSequence

END_SLICE_WEIGHT = 0.5
"""Weight of a reader's contour in the first and last slice that has one, because contours are least certain there."""

SMALLEST_PROBABILITY = 1e-4
"""Added to every probability before what a reader excluded is distributed over the other classes."""


class ReferenceMasks(StrEnum):
    """What the reference masks of a collection contain."""

    COMPLETE = "complete"
    POOLS = "pools"
    NONE = "none"


@dataclass(frozen=True, slots=True, eq=False)
class SegmentationCase:
    """One subject with the class probabilities that SegNet shall reproduce.

    The background is not stored: its probability is what the structures leave, and it is 1 outside of the targets' box.

    Attributes:
        collection: Name of the collection to which the subject belongs; empty for the main one.
        voxels: Normalised intensities of the frames that have a target, the whole field of view at the network's
            in-plane spacing.
        targets: Probability of LV, myocardium and RV in a box around the heart.
        centre: Centre (y, x) of the box in voxels of ``voxels``.
    """

    collection: str
    voxels: Float16[Tensor, "t z y x"]
    targets: Float16[Tensor, "t 3 z yb xb"]
    centre: tuple[float, float]


def segmentation_case(
    cine: CineSequence,
    targets: Float[Tensor, "t 3 z yb xb"],
    box: Window,
    *,
    frames: tuple[int, ...],
    collection: str,
) -> SegmentationCase:
    """Resample the frames that have a target to the network's in-plane spacing.

    Args:
        cine: A cine of normalised intensities.
        targets: Probability of LV, myocardium and RV in each of the frames.
        box: The window of the targets.
        frames: The frames.
        collection: Name of the subject's collection.
    """
    field = wide_window(cine, spacing_mm=box.spacing.y)
    first = [(box.origin_mm[axis] - field.origin_mm[axis]) / box.spacing.y for axis in range(2)]
    centre = (first[0] + (box.size[0] - 1) / 2, first[1] + (box.size[1] - 1) / 2)
    return SegmentationCase(collection, extract(cine.voxels[list(frames)], field).half(), targets.half(), centre)


def mask_targets(labels: LabelSequence, box: Window) -> Float[Tensor, "t 3 z yb xb"]:
    """Return the fraction of each structure in every voxel of the box, by linear interpolation of reference masks."""
    structures = [torch.stack([frame == label for label in STRUCTURES]).float() for frame in labels.labels]
    return torch.stack([extract(frame, box) for frame in structures])


def distilled_targets(
    teacher: Float[Tensor, "t 4 z yb xb"], masks: Float[Tensor, "t 3 z yb xb"] | None, *, teacher_weight: float
) -> Float[Tensor, "t 3 z yb xb"]:
    """Return the weighted mean of the teacher's probabilities and of complete masks; the former alone without masks.

    This is distillation with soft targets (Hinton et al., arXiv 1503.02531, 2015).
    """
    return teacher[:, 1:] if masks is None else torch.lerp(masks, teacher[:, 1:], teacher_weight)


def pool_targets(
    teacher: Float[Tensor, "t 4 z yb xb"], labels: LabelSequence, box: Window
) -> Float[Tensor, "t 3 z yb xb"]:
    """Return the teacher's probabilities, corrected by the blood pools that a reader has drawn.

    In a slice with a contour of a pool, the reader decides which voxels belong to it. Elsewhere in that slice, the
    probability of the pool is distributed over the other classes. In the first and in the last slice with a contour the
    result is averaged with the teacher's probabilities. A structure that was not drawn remains the teacher's.
    """
    maps = extract_labels(labels.labels, box)
    corrected = [_corrected(frame, drawn) for frame, drawn in zip(teacher, maps, strict=True)]
    return torch.stack(corrected)[:, 1:]


def _corrected(probabilities: Float[Tensor, "4 z y x"], drawn: UInt8[Tensor, "z y x"]) -> Float[Tensor, "4 z y x"]:
    for label in STRUCTURES:
        inside = drawn == label
        slices = inside.flatten(1).any(1).nonzero()[:, 0]
        if len(slices):
            weight = torch.zeros(len(drawn))
            weight[slices] = 1.0
            weight[slices[[0, -1]]] = END_SLICE_WEIGHT
            certain = _with_structure(probabilities, label, inside)
            probabilities = torch.lerp(probabilities, certain, weight.view(1, -1, 1, 1))
    return probabilities


def _with_structure(
    probabilities: Float[Tensor, "4 z y x"], label: Label, inside: Bool[Tensor, "z y x"]
) -> Float[Tensor, "4 z y x"]:
    """Return probabilities by which exactly the voxels inside belong to a structure."""
    others = probabilities.clone() + SMALLEST_PROBABILITY
    others[label] = 0.0
    one_hot = functional.one_hot(torch.tensor(int(label)), CLASSES).to(others)
    return torch.where(inside, one_hot.view(-1, 1, 1, 1), others / others.sum(0, keepdim=True))
