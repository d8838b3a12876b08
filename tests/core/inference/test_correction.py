"""Corrections are propagated by the motion, by half to distant frames, and leave edited frames as given."""

import torch

from cmnet_core.imaging.preprocess import Window
from cmnet_core.inference.correction import (
    COMMON_ERROR,
    correct_probabilities,
    correction_weights,
    propagate_correction,
)
from cmnet_core.labels import Label
from cmnet_core.types import MotionField, Spacing

SPACING = Spacing(z=8.0, y=1.0, x=1.0)


def _disc(centre: float, radius: float) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(64) - 32.0, torch.arange(64) - centre, indexing="ij")
    return (y.hypot(x) < radius).to(torch.uint8)[None] * int(Label.LV)


def test_weights_are_those_of_a_prediction() -> None:
    weights = correction_weights([0, 8], frames=20)
    torch.testing.assert_close(weights[[0, 8]], torch.eye(2, dtype=torch.float64))
    assert bool((weights.sum(1) <= 1.0 + 1e-9).all())
    assert 0.5 < float(weights[4].sum()) < 1.0
    alone = correction_weights([0], frames=20)[:, 0]
    assert abs(float(alone[10]) - COMMON_ERROR) < 0.01
    torch.testing.assert_close(alone[1:], alone[1:].flip(0))


def test_correction_moves_with_the_tissue() -> None:
    """The disc of radius 10 moves by 12 voxels; at ED it is edited to a radius of 16."""
    frames = 8
    centres = [26.0 + (12.0 if frame else 0.0) for frame in range(frames)]
    automatic = torch.stack([_disc(centre, 10.0) for centre in centres])
    edited = {0: _disc(centres[0], 16.0)}

    def field(moving: int, fixed: int) -> MotionField:
        displacement = torch.zeros(3, 1, 64, 64)
        displacement[2] = centres[moving] - centres[fixed]
        return MotionField(displacement, SPACING, fixed=fixed, moving=moving)

    corrected = propagate_correction(automatic, edited, field, SPACING)
    assert torch.equal(corrected[0], edited[0])
    radii = [float(maps.sum()) ** 0.5 / torch.pi**0.5 for maps in corrected]
    expected = 10.0 + 6.0 * correction_weights([0], frames=frames)[:, 0]
    for frame in range(1, frames):
        assert abs(radii[frame] - float(expected[frame])) < 0.6, frame
        columns = corrected[frame, 0].any(0).nonzero()[:, 0].float()
        assert abs(float(columns.mean()) - centres[frame]) < 0.6


def test_unchanged_masks_change_nothing() -> None:
    automatic = torch.stack([_disc(30.0, 9.0), _disc(30.0, 7.0), _disc(30.0, 8.0)])

    def field(moving: int, fixed: int) -> MotionField:
        return MotionField(torch.zeros(3, 1, 64, 64), SPACING, fixed=fixed, moving=moving)

    assert torch.equal(propagate_correction(automatic, {0: automatic[0]}, field, SPACING), automatic)


def test_probabilities_change_where_labels_do() -> None:
    window = Window((1, 64, 64), SPACING, SPACING, (0.0, 0.0), (64, 64))
    sure = torch.stack([(_disc(30.0, 9.0) == label).float() for label in Label])[None]
    probabilities = 0.9 * sure + 0.025
    before = probabilities.clone()
    corrected = _disc(30.0, 12.0)[None]
    correct_probabilities(probabilities, corrected, window)
    ring = (corrected[0] != before[0].argmax(0)) & True
    assert torch.equal(probabilities[0][:, ~ring], before[0][:, ~ring])
    assert bool((probabilities[0][Label.LV, ring] == 1.0).all())
