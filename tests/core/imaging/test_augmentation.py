"""Views: an image and its motion seen through one stay true to each other, and looks stay in range."""

from dataclasses import fields

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cmnet_core.imaging.augmentation import AugmentationRanges, augment_intensity, draw_view, view_image, view_motion
from cmnet_core.registration.displacement import warp

NOTHING = AugmentationRanges(*(0.0,) * len(fields(AugmentationRanges)))


def smooth(shape: tuple[int, ...], generator: torch.Generator, *, coarse: tuple[int, int, int]) -> Tensor:
    """Noise that changes slowly: linear interpolation reads it almost exactly."""
    knots = torch.randn(1, shape[0], *coarse, generator=generator)
    return functional.interpolate(knots, shape[1:], mode="trilinear", align_corners=True)[0]


@pytest.mark.parametrize("seed", range(8))
def test_motion_seen_through_a_view_moves_the_image_seen_through_it(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = smooth((1, 8, 80, 90), generator, coarse=(3, 3, 3))
    displacement = 2.0 * smooth((3, 8, 80, 90), generator, coarse=(3, 3, 3))
    displacement[0] *= 0.3
    moved = warp(image[None], displacement[None])[0]
    ranges = AugmentationRanges(random_orientation_probability=0.5, shift_voxels=3.0, artefact_probability=0.5)
    view = draw_view((39.5, 44.5), 8, ranges, generator)
    seen = view_motion(functional.avg_pool2d(displacement, 2)[None], view, (40, 40))
    through_view = warp(view_image(image, view, (40, 40))[None], seen)[0]
    expected = view_image(moved, view, (40, 40))
    inner = (slice(None), slice(1, -1), slice(6, -6), slice(6, -6))
    unmoved = (view_image(image, view, (40, 40)) - expected)[inner].abs().mean()
    assert float((through_view - expected)[inner].abs().mean()) < 0.12 * float(unmoved)


def test_nothing_varies_when_every_range_is_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 32, 32, generator=generator)
    view = draw_view((15.5, 15.5), 3, NOTHING, generator)
    assert torch.allclose(augment_intensity(view_image(image, view, (32, 32)), NOTHING, generator), image, atol=1e-5)


def test_slices_shift_against_each_other_and_not_over_time() -> None:
    generator = torch.Generator().manual_seed(1)
    ranges = AugmentationRanges(0.0, 0.0, 0.0, 0.0, 0.0, slice_shift_voxels=3.0, artefact_probability=1.0)
    view = draw_view((15.5, 15.5), 4, ranges, generator)
    assert float((view.centre - view.centre[0]).abs().max()) > 0.5
    frame = torch.rand(1, 4, 32, 32, generator=generator)
    seen = view_image(frame.expand(2, -1, -1, -1), view, (32, 32))
    assert torch.equal(seen[0], seen[1])
