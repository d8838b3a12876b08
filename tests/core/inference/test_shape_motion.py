"""The motion of a cycle from label maps: orientation, smoothness in time, rotation."""

import math

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.inference.shape_motion import canonical_orientation, estimate_posteriors, project_to_harmonics
from cmnet_core.models.shape_motion_net import ShapeMotionNet, ShapeMotionSizes
from cmnet_core.types import Spacing

SPACING = Spacing(8.0, 1.5, 1.5)
SMALL = ShapeMotionSizes(fine=8, middle=8, coarse=8, blocks=1, stack=8)


def ventricles(radius: float, *, size: int = 128) -> Float[Tensor, "4 z y x"]:
    """Class probabilities of a contracted or dilated heart: tapered towards slice 0, with the RV at low x."""
    y, x = torch.meshgrid(torch.arange(size) - 60.0, torch.arange(size) - 70.0, indexing="ij")
    slices = []
    for taper in torch.linspace(0.4, 1.0, 7):
        distance = (y.square() + x.square()).sqrt()
        lv = distance < radius * taper
        wall = (distance < (radius + 7.0) * taper) & ~lv
        rv = (((x + 30.0 * taper).square() + y.square()).sqrt() < 18.0 * taper) & ~lv & ~wall
        slices.append(torch.stack([~(lv | wall | rv), lv, wall, rv]).float())
    return torch.stack(slices, dim=1)


def network() -> ShapeMotionNet:
    """A network with random weights whose motion is not small."""
    torch.manual_seed(3)
    model = ShapeMotionNet(SMALL).eval()
    torch.nn.init.normal_(model.residual.head.weight, std=0.1)
    return model


def velocities(model: ShapeMotionNet, frames: list[Tensor]) -> Float[Tensor, "t 3 z y x"]:
    voxels = [frame[1] for frame in frames]
    with torch.no_grad():
        posteriors = estimate_posteriors(model, voxels, frames, SPACING)
    return torch.stack([posterior.mean.movedim(0, 1) for posterior in posteriors])


def turn_back(field: Float[Tensor, "t 3 z y x"], turns: int) -> Float[Tensor, "t 3 z y x"]:
    for _ in range(turns):
        z, y, x = torch.rot90(field, -1, (3, 4)).unbind(1)
        field = torch.stack([z, x, -y], dim=1)
    return field


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("reverse", [False, True])
def test_motion_does_not_depend_on_how_the_stack_is_stored(turns: int, *, reverse: bool) -> None:
    model = network()
    model.rotation.requires_grad_(False)
    # RotationNet samples on a polar grid, which quarter turns map onto itself only up to interpolation.
    torch.nn.init.zeros_(model.rotation.shifts.weight)
    frames = [ventricles(24.0), ventricles(17.0)]
    stored = [torch.rot90(frame, turns, (2, 3)) for frame in frames]
    if reverse:
        stored = [frame.flip(1) for frame in stored]
    found = velocities(model, stored)
    if reverse:
        found = found.flip(2) * torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1, 1)
    expected = velocities(model, frames)
    assert float(expected.abs().max()) > 0.1
    assert torch.allclose(turn_back(found, turns), expected, atol=0.02)


def test_canonical_orientation_has_the_base_last_and_the_right_ventricle_at_low_x() -> None:
    stored = torch.rot90(ventricles(24.0), 1, (2, 3)).flip(1)[1:, :, ::2, ::2]
    orientation = canonical_orientation(stored, stored.sum(0))
    lv, _, rv = orientation.crop(stored)
    columns = torch.arange(lv.shape[2], dtype=torch.float32)
    assert float((rv.sum((0, 1)) * columns).sum() / rv.sum()) < float((lv.sum((0, 1)) * columns).sum() / lv.sum())
    assert float(lv[-1].sum()) > float(lv[0].sum())


def test_what_is_cropped_comes_back_to_its_place() -> None:
    stored = torch.rot90(ventricles(24.0), 3, (2, 3)).flip(1)[1:, :, ::2, ::2]
    orientation = canonical_orientation(stored, stored.sum(0))
    assert orientation.size == 48
    assert torch.equal(orientation.restore(orientation.crop(stored), stored[0, 0]), stored)


def test_a_smooth_cycle_passes_the_projection_and_noise_is_reduced() -> None:
    frames = 24
    phase = 2.0 * math.pi * torch.arange(1, frames) / frames
    smooth = (1.0 - phase.cos() + 0.3 * (2.0 * phase).sin()).view(-1, 1, 1, 1, 1).expand(-1, 3, 2, 4, 4)
    noise = 0.2 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(project_to_harmonics(smooth, count=4), smooth, atol=1e-4)
    left = project_to_harmonics(smooth + noise, count=4) - smooth
    # Of 23 values per voxel, 8 coefficients are left: the variance falls to 8/23.
    assert float(left.square().mean() / noise.square().mean()) == pytest.approx(8 / 23, abs=0.05)


def test_two_frames_are_not_projected() -> None:
    single = torch.randn(1, 3, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(project_to_harmonics(single, count=4), single)
