"""Targets of SegNet: fractions of masks, a teacher's probabilities, and blood pools that overrule it."""

import torch
from torch import Tensor

from cmnet_core.imaging.preprocess import Window, window_around
from cmnet_core.labels import Label
from cmnet_core.training.segmentation_case import (
    END_SLICE_WEIGHT,
    distilled_targets,
    mask_targets,
    pool_targets,
    segmentation_case,
)
from cmnet_core.types import CineSequence, LabelSequence, Spacing

AFFINE = torch.eye(4, dtype=torch.float64)
SPACING = Spacing(8.0, 1.0, 1.0)


def cine_and_labels(labels: Tensor) -> tuple[CineSequence, LabelSequence, Window]:
    """Return a cine whose intensity is that of the label, its label maps, and a box of 32 × 32 voxels of 1.5 mm."""
    cine = CineSequence(labels.float() / 3.0, SPACING, AFFINE, 40.0, None, None)
    sequence = LabelSequence(labels.to(torch.uint8), tuple(range(len(labels))), SPACING, AFFINE)
    return cine, sequence, window_around(cine, (30.0, 36.0), spacing_mm=1.5, size=(32, 32))


def square(label: Label) -> Tensor:
    """Return one frame of four slices with a square of a structure in the three first."""
    labels = torch.zeros(1, 4, 64, 80, dtype=torch.long)
    labels[:, :3, 20:40, 26:46] = label
    return labels


def even_teacher() -> Tensor:
    return torch.full((1, 4, 4, 32, 32), 0.25)


def test_mask_targets_are_fractions_and_belong_to_the_image() -> None:
    cine, labels, box = cine_and_labels(square(Label.RV))
    targets = mask_targets(labels, box)
    assert targets.shape == (1, 3, 4, 32, 32)
    assert abs(float(targets[0, 2].sum()) * 1.5**2 / (3 * 20 * 20) - 1.0) < 0.02
    assert bool(((targets > 0.05) & (targets < 0.95)).any())
    case = segmentation_case(cine, targets, box, frames=(0,), collection="")
    # The centre of the box is where the image of the case shows the centre of the square.
    bright = (case.voxels[0, 0].float() > 0.5).nonzero().float().mean(0)
    expected = torch.tensor(case.centre) + torch.tensor([29.5 - 30.0, 35.5 - 36.0]) / 1.5
    torch.testing.assert_close(bright, expected, atol=0.3, rtol=0.0)


def test_distilled_targets_are_the_weighted_mean_of_mask_and_teacher() -> None:
    _, labels, box = cine_and_labels(square(Label.LV))
    masks = mask_targets(labels, box)
    targets = distilled_targets(even_teacher(), masks, teacher_weight=0.4)
    torch.testing.assert_close(targets, 0.6 * masks + 0.4 * 0.25)
    torch.testing.assert_close(distilled_targets(even_teacher(), None, teacher_weight=0.4), even_teacher()[:, 1:])


def test_a_drawn_pool_overrules_the_teacher_in_its_slices() -> None:
    _, labels, box = cine_and_labels(square(Label.LV))
    targets = pool_targets(even_teacher(), labels, box)[0]
    inside = mask_targets(labels, box)[0, 0, 1] > 0.99
    outside = mask_targets(labels, box)[0, 0, 1] == 0
    lv, myo, rv = targets[:, 1]
    assert bool((lv[inside] == 1).all())
    assert bool((lv[outside] == 0).all())
    torch.testing.assert_close(myo[outside], torch.full_like(myo[outside], 1 / 3), atol=1e-3, rtol=0.0)
    torch.testing.assert_close(rv[outside], myo[outside])
    # The end slices keep half of the teacher, and a slice without a contour all of it.
    assert bool((targets[0, 0][inside] == END_SLICE_WEIGHT + (1 - END_SLICE_WEIGHT) * 0.25).all())
    torch.testing.assert_close(targets[:, 3], even_teacher()[0, 1:, 3])
