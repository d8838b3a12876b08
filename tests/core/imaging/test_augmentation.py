"""Views: an image and its motion seen through one stay true to each other, and looks stay in range."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from cmnet_core.imaging.appearance import NO_VARIATION, AppearanceRanges, vary_appearance
from cmnet_core.imaging.augmentation import AugmentationRanges, draw_view, view_image, view_motion
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
    ranges = AugmentationRanges(random_orientation_probability=0.5, shift_voxels=3.0, breath_hold_probability=0.5)
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
    assert torch.allclose(view_image(image, view, (32, 32)), image, atol=1e-5)
    for _ in range(20):
        assert torch.allclose(vary_appearance(image, NO_VARIATION, generator), image, atol=1e-5)


def test_slices_shift_against_each_other_and_not_over_time() -> None:
    generator = torch.Generator().manual_seed(1)
    ranges = AugmentationRanges(0.0, 0.0, 0.0, 0.0, 0.0, slice_shift_voxels=3.0, breath_hold_probability=1.0)
    view = draw_view((15.5, 15.5), 4, ranges, generator)
    assert float((view.centre - view.centre[0]).abs().max()) > 0.5
    frame = torch.rand(1, 4, 32, 32, generator=generator)
    seen = view_image(frame.expand(2, -1, -1, -1), view, (32, 32))
    assert torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("seed", range(20))
def test_appearance_varies_in_every_draw_and_stays_finite(seed: int) -> None:
    cine = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    varied, again = (vary_appearance(cine, AppearanceRanges(), torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(varied, again)
    assert bool(varied.isfinite().all())
    assert 0.01 < float((varied - cine).abs().mean()) < 0.6


def test_appearance_is_the_same_in_all_frames_but_for_noise() -> None:
    frame = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ranges = replace(AppearanceRanges(), noise=0.0, artefact_probability=1.0)
    for seed in range(10):
        varied = vary_appearance(frame.repeat(2, 1, 1, 1), ranges, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(varied[0], varied[1])


def test_intensity_curve_keeps_the_order_of_intensities() -> None:
    ramp = torch.linspace(0.0, 1.0, 64).expand(1, 1, 64, 64)
    ranges = replace(NO_VARIATION, curve=1.0, gamma=0.5, contrast=0.3, brightness=0.2)
    for seed in range(10):
        varied = vary_appearance(ramp, ranges, torch.Generator().manual_seed(seed))
        assert bool((varied.diff(dim=3) > 0).all())
