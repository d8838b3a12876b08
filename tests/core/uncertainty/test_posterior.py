"""Samples of the posterior have its covariance, and pooling keeps its size."""

import math

import pytest
import torch

from cmnet_core.labels import Label
from cmnet_core.models.gaussian import MotionPosterior
from cmnet_core.types import Spacing
from cmnet_core.uncertainty.posterior import (
    POOLING_FACTOR,
    NoiseCorrelation,
    Posterior,
    draw_shapes,
    draw_velocities,
    indices_of_shapes,
    pool_posterior,
    smooth_noise,
)

SPACING = Spacing(z=10.0, y=3.0, x=3.0)


CORRELATION = NoiseCorrelation(in_plane_mm=20.0, through_plane_mm=15.0, in_time=0.9)


def test_smooth_noise_has_unit_variance_and_its_correlation() -> None:
    noise = smooth_noise((4000, 7, 1, 30), SPACING, CORRELATION, torch.Generator().manual_seed(1))
    assert float(noise.var(dim=0).mean()) == pytest.approx(1, abs=0.02)
    at, beside, above = noise[:, 3, 0, 13], noise[:, 3, 0, 17], noise[:, 4, 0, 13]
    assert float((at * beside).mean()) == pytest.approx(math.exp(-((4 * 3 / 20) ** 2) / 2), abs=0.05)
    assert float((at * above).mean()) == pytest.approx(math.exp(-((10 / 15) ** 2) / 2), abs=0.08)


def _posterior(steps: int = 3, *, sd: float = 0.5, factor: tuple[float, float, float] = (0.0, 0.0, 2.0)) -> Posterior:
    shapes = torch.full((2, 4, 2, 8, 8), 0.25)
    log_sd = torch.full((steps, 2, 4, 4), math.log(sd))
    return Posterior(shapes, log_sd, torch.tensor(factor).view(1, 3, 1, 1, 1, 1).expand(steps, 3, 1, 2, 4, 4))


def test_sampled_velocities_have_the_posterior_covariance_and_correlation_in_time() -> None:
    generator = torch.Generator().manual_seed(2)
    mean = torch.ones(3, 3, 2, 16, 16)
    draws = torch.stack([draw_velocities(mean, _posterior(), SPACING, generator, CORRELATION) for _ in range(1500)])
    centre = draws[:, :, :, 1, 9, 9] - 1
    variance = centre.var(dim=0)[0]
    # The voxel is an eighth of a pooled voxel from its centre, where interpolation reduces the variance only slightly.
    torch.testing.assert_close(variance, torch.tensor([0.25, 0.25, 4.25]), rtol=0.12, atol=0)
    remembered = (centre[:, 0, 2] * centre[:, 1, 2]).mean() / variance[2]
    assert float(remembered) == pytest.approx(0.9, abs=0.05)


def test_pooling_keeps_the_length_of_a_factor_of_changing_direction() -> None:
    factor = torch.zeros(2, 3, 1, 8, 8)
    factor[:, 2] = 2.0
    factor[:, 2, :, ::2] = -1.0
    log_sd, pooled = pool_posterior(MotionPosterior(torch.zeros(2, 3, 8, 8), torch.full((2, 1, 8, 8), -4.0), factor))
    assert pooled.shape == (3, 1, 2, 8 // POOLING_FACTOR, 8 // POOLING_FACTOR)
    torch.testing.assert_close(log_sd, torch.full((2, 2, 2), -2.0))
    torch.testing.assert_close(pooled[2], torch.full((1, 2, 2, 2), math.sqrt(2.5)))


def _shapes(*, slope: float) -> Posterior:
    """Return an LV with its wall at both phases; the logits change by ``slope`` per voxel across its boundary."""
    axis = torch.arange(32) - 15.5
    radius = axis[:, None].hypot(axis)
    planes = []
    for inner in (9.0, 6.0):
        lv, wall = slope * (inner - radius), slope * (inner + 4 - radius)
        planes.append(torch.stack([torch.zeros(32, 32), 2 * lv + slope, wall, torch.full((32, 32), -9.0)]).softmax(0))
    shapes = torch.stack(planes)[:, :, None].expand(2, 4, 3, 32, 32)
    return Posterior(shapes, torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 1, 3, 2, 2))


def test_a_blurred_boundary_gives_a_larger_volume_uncertainty() -> None:
    widths = []
    for slope in (4.0, 1.0):
        draws = draw_shapes(_shapes(slope=slope), SPACING, torch.Generator().manual_seed(3))
        indices = [indices_of_shapes(next(draws), SPACING) for _ in range(30)]
        volumes = torch.tensor([draw.lvedv_ml for draw in indices])
        counted = float((_shapes(slope=slope).shapes[0].argmax(0) == Label.LV).sum()) * SPACING.voxel_ml
        assert float(volumes.mean()) == pytest.approx(counted, rel=0.15)
        widths.append(float(volumes.std()))
    assert widths[1] > 2 * widths[0] > 0
