"""Endpoint error, strain error and regularity of fields in closed form."""

import math

import pytest
import torch
from torch import Tensor

from cmnet_core.labels import Label
from cmnet_core.stats.motion_errors import (
    in_plane_strain,
    in_plane_strain_errors_pct,
    mean_endpoint_error_mm,
    sd_log_jacobian,
)
from cmnet_core.types import MotionField, Spacing

SPACING = Spacing(8.0, 1.5, 2.0)
SHAPE = (2, 40, 30)


def from_centre_mm() -> Tensor:
    y, x = ((torch.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE[1:], SPACING.zyx[1:], strict=True))
    return torch.stack(torch.meshgrid(y, x, indexing="ij"))[:, None].expand(2, *SHAPE)


def annulus() -> Tensor:
    radius = from_centre_mm().norm(dim=0)
    return torch.where(radius < 12, Label.LV, torch.where(radius < 20, Label.MYO, Label.BACKGROUND)).to(torch.uint8)


def field(displacement: Tensor) -> MotionField:
    return MotionField(displacement, SPACING, fixed=0, moving=1)


def stretched(factor: float) -> MotionField:
    """An in-plane stretch about the centre."""
    return field(torch.cat([torch.zeros(1, *SHAPE), (factor - 1.0) * from_centre_mm()]))


def test_endpoint_error_is_the_mean_length_in_mm() -> None:
    shifted = field(torch.tensor([0.0, 3.0, 4.0]).view(3, 1, 1, 1).expand(3, *SHAPE))
    still, within = field(torch.zeros(3, *SHAPE)), annulus() > 0
    assert mean_endpoint_error_mm(shifted, still, within) == pytest.approx(5.0)
    assert mean_endpoint_error_mm(shifted, still, torch.zeros(SHAPE, dtype=torch.bool)) is None


def test_strain_of_a_stretch_is_that_of_green_and_lagrange_in_both_directions() -> None:
    radial, circumferential = in_plane_strain(stretched(0.8), annulus())
    assert torch.allclose(radial, torch.full_like(radial, 0.5 * (0.8**2 - 1.0)), atol=1e-4)
    assert torch.allclose(circumferential, torch.full_like(circumferential, -0.18), atol=1e-4)


def test_strain_distinguishes_the_directions() -> None:
    """A radial displacement that decreases with the radius shortens the radius and stretches the circumference."""
    at = from_centre_mm()
    outward = at / at.norm(dim=0).clamp_min(1.0)
    radial, circumferential = in_plane_strain(field(torch.cat([torch.zeros(1, *SHAPE), 2.0 * outward])), annulus())
    assert float(radial.abs().mean()) < 0.01
    assert float(circumferential.mean()) == pytest.approx(2.0 / 16.0, rel=0.15)


def test_strain_errors_are_percentage_points() -> None:
    err, ecc = in_plane_strain_errors_pct(stretched(1.0), stretched(0.8), annulus())
    assert (err, ecc) == (pytest.approx(18.0, abs=0.05), pytest.approx(18.0, abs=0.05))
    assert in_plane_strain_errors_pct(stretched(1.0), stretched(0.8), torch.zeros(SHAPE, dtype=torch.uint8)) == (
        None,
        None,
    )


def test_regularity_is_the_spread_of_the_logarithm() -> None:
    assert sd_log_jacobian(torch.full((2, 3, 3), 1.3)) == pytest.approx(0.0, abs=1e-6)
    assert sd_log_jacobian(torch.tensor([[[1.0, math.e**2]]])) == pytest.approx(math.sqrt(2.0))
    assert math.isfinite(sd_log_jacobian(torch.tensor([[[1.0, -2.0]]])))
