"""LCC log-demons: it converges, is symmetric, works in mm, and does not depend on the scale of the intensities."""

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cmnet_core.methods.lcc_demons import (
    DEFAULT,
    PATIENCE,
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
SHAPE = (2, 28, 44)
"""A grid of few voxels; the disc reaches its border."""


def pair(spacing: Spacing = textures.SPACING, shape: tuple[int, int, int] = textures.SHAPE) -> tuple[Tensor, Tensor]:
    """The textured disc, and the same after a motion in-plane."""
    at = textures.positions_mm(spacing, shape)
    return textures.texture(at), textures.texture(textures.moved_back(at))


def found(
    fixed: Tensor, moving: Tensor, spacing: Spacing = textures.SPACING, settings: LccDemonsSettings = SHORT
) -> LccDemonsResult:
    return estimate_velocity(fixed, moving, spacing, settings)


@functools.cache
def usual() -> LccDemonsResult:
    """The result for the pair, with which several tests compare."""
    return found(*pair())


def test_similarity_converges_at_each_level_and_the_motion_does_not_fold() -> None:
    result = usual()
    for curve in result.similarity:
        assert max(curve) > curve[0]
        assert curve[-1] > 0.99 * max(curve)
    assert result.similarity[-1][-1] > 0.99
    voxels = result.velocity_mm / torch.tensor(textures.SPACING.zyx).view(3, 1, 1, 1)
    assert float(volume_change(exponential(voxels[None], steps=6)).min()) > 0


def test_level_ends_when_the_similarity_no_longer_increases() -> None:
    image, _ = pair()
    result = found(image, image, settings=replace(SHORT, iterations=(15, 15)))
    assert [len(curve) for curve in result.similarity] == [PATIENCE + 1, PATIENCE + 1]
    assert float(result.velocity_mm.abs().max()) < 1e-3


def test_exchanged_images_have_the_opposite_velocity() -> None:
    fixed, moving = pair()
    there, back = usual().velocity_mm, found(moving, fixed).velocity_mm
    assert torch.allclose(there, -back, atol=1e-3)
    assert float(there.norm(dim=0).max()) > 1.0


def test_velocity_is_in_mm() -> None:
    """The same voxels, twice as far apart: with all lengths doubled, the velocity is doubled."""
    fixed, moving = pair()
    doubled = Spacing(*(2.0 * mm for mm in textures.SPACING.zyx))
    lengths = ("window_mm", "fluid_mm", "elastic_mm", "max_update_mm")
    settings = replace(SHORT, **{name: 2.0 * getattr(SHORT, name) for name in lengths})
    twice = found(fixed, moving, doubled, settings).velocity_mm
    assert torch.allclose(twice, 2.0 * usual().velocity_mm, atol=2e-3)


@pytest.mark.parametrize("along", [1, 2])
def test_same_tissue_on_a_finer_grid_has_the_same_motion(along: int) -> None:
    """Twice as many voxels along one axis, half as far apart: only the spacing says that the motion is the same."""
    spacing, shape = list(textures.SPACING.zyx), list(textures.SHAPE)
    spacing[along], shape[along] = spacing[along] / 2, shape[along] * 2
    finer = Spacing(*spacing)
    # Without a pyramid, whose levels would have other voxels.
    settings = replace(DEFAULT, factors=(1,), iterations=(10,))
    coarse = found(*pair(), settings=settings).velocity_mm
    fine = found(*pair(finer, (shape[0], shape[1], shape[2])), finer, settings).velocity_mm
    pooled = fine.unflatten(along + 1, (-1, 2)).mean(along + 2)
    assert float((pooled - coarse).norm(dim=0).mean()) < 0.1 * float(coarse.norm(dim=0).mean())


def test_scale_of_the_intensities_does_not_matter() -> None:
    fixed, moving = pair()
    darker = found(fixed, 0.5 * moving).velocity_mm
    assert torch.allclose(darker, usual().velocity_mm, atol=0.05)


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
