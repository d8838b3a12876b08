"""LCC log-demons: it converges, is symmetric, works in mm, and does not depend on the scale of the intensities."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cmnet_core.methods.lcc_demons import (
    DEFAULT,
    LccDemonsResult,
    LccDemonsSettings,
    estimate_velocity,
    lcc_force,
    smooth,
)
from cmnet_core.registration.displacement import exponential, volume_change
from cmnet_core.types import Spacing
from tests.core.methods import textures

SHORT = replace(DEFAULT, factors=(2, 1), iterations=(15, 8))


def pair() -> tuple[Tensor, Tensor]:
    """The textured disc, and the same after an in-plane stretch."""
    at = textures.positions_mm()
    return textures.texture(at), textures.texture(textures.contracted(at))


def found(
    fixed: Tensor, moving: Tensor, spacing: Spacing = textures.SPACING, settings: LccDemonsSettings = SHORT
) -> LccDemonsResult:
    return estimate_velocity(fixed, moving, spacing, settings)


def test_similarity_converges_at_each_level_and_the_motion_does_not_fold() -> None:
    result = found(*pair())
    for curve in result.similarity:
        assert max(curve) > curve[0]
        assert curve[-1] > 0.99 * max(curve)
    assert result.similarity[-1][-1] > 0.98
    voxels = result.velocity_mm / torch.tensor(textures.SPACING.zyx).view(3, 1, 1, 1)
    assert float(volume_change(exponential(voxels[None], steps=6)).min()) > 0


def test_level_ends_when_the_similarity_no_longer_increases() -> None:
    image, _ = pair()
    result = found(image, image)
    assert [len(curve) for curve in result.similarity] == [6, 6]
    assert float(result.velocity_mm.abs().max()) < 1e-3


def test_exchanged_images_have_the_opposite_velocity() -> None:
    fixed, moving = pair()
    there, back = found(fixed, moving).velocity_mm, found(moving, fixed).velocity_mm
    assert torch.allclose(there, -back, atol=1e-3)
    assert float(there.norm(dim=0).max()) > 1.0


def test_velocity_is_in_mm() -> None:
    """The same voxels, twice as far apart: with all lengths doubled, the velocity is doubled."""
    fixed, moving = pair()
    doubled = Spacing(*(2.0 * mm for mm in textures.SPACING.zyx))
    lengths = ("window_mm", "fluid_mm", "elastic_mm", "max_update_mm")
    settings = replace(SHORT, **{name: 2.0 * getattr(SHORT, name) for name in lengths})
    twice = found(fixed, moving, doubled, settings).velocity_mm
    assert torch.allclose(twice, 2.0 * found(fixed, moving).velocity_mm, atol=2e-3)


def test_scale_of_the_intensities_does_not_matter() -> None:
    fixed, moving = pair()
    darker = found(fixed, 0.5 * moving).velocity_mm
    assert torch.allclose(darker, found(fixed, moving).velocity_mm, atol=0.05)


def test_force_is_the_derivative_of_the_log_correlation_for_a_common_displacement() -> None:
    """Within a window of constant displacement d, log ρ changes by ½ Λ · d, with F displaced by -d/2 and M by d/2."""
    at = textures.positions_mm()
    shift = torch.tensor([0.0, 0.0, 0.02]).view(3, 1, 1, 1)
    moved = textures.texture(at + 1.0)

    def log_rho(d: Tensor) -> Tensor:
        images = textures.texture(at - 0.5 * d)[None], textures.texture(at + 1.0 + 0.5 * d)[None]
        return lcc_force(*images, textures.SPACING, window_mm=40.0)[1].log()

    force, _ = lcc_force(textures.texture(at)[None], moved[None], textures.SPACING, window_mm=40.0)
    expected = 0.5 * smooth(force, textures.SPACING, 40.0)[2, 2, 16, 20] * 0.02
    change = (log_rho(shift) - log_rho(-shift))[0, 2, 16, 20] / 2.0
    assert float(change) == pytest.approx(float(expected), rel=0.15)
