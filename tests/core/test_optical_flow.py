"""Optical flow finds motion along the wall and through the slices, and little where there is nothing to follow."""

import pytest
import torch
from torch import Tensor

from cmnet_core.errors import ManifestError
from cmnet_core.models.build import MotionSizes, build_motion
from cmnet_core.models.cardiomorphnet import enlarge_displacement
from cmnet_core.models.optical_flow import ROUNDS, elastic, flow_step
from cmnet_core.models.rotation_net import Place
from cmnet_core.motion import exponential, warp
from tests.textures import texture

SIZE, DEPTH = 96, 6
HEART = slice(SIZE // 4 - 10, SIZE // 4 + 10)
PLACE = Place(torch.full((DEPTH, 2), SIZE / 2 - 0.5), torch.full((DEPTH,), 20.0), torch.ones(DEPTH))
STILL = torch.zeros(DEPTH, 3, SIZE // 2, SIZE // 2)


def _texture(seed: int) -> Tensor:
    return texture(DEPTH, SIZE, seed=seed)


def _turn(degrees: float) -> Tensor:
    """The velocity of a turn about the middle, on half the plane and in its voxels."""
    along = torch.arange(SIZE // 2) - (SIZE / 2 - 1) / 2
    y, x = torch.meshgrid(along, along, indexing="ij")
    radians = torch.tensor(degrees).deg2rad()
    return torch.stack([torch.zeros_like(x), radians * x, -radians * y]).expand(DEPTH, 3, -1, -1)


def _brought(image: Tensor, velocity: Tensor) -> Tensor:
    displacement = enlarge_displacement(exponential(velocity.movedim(0, 1)[None], steps=6), factor=2)
    return warp(image.movedim(0, 1)[None], displacement)[0].movedim(0, 1)


def _followed(previous: Tensor, current: Tensor, place: Place = PLACE) -> Tensor:
    found = STILL
    for scale in ROUNDS:
        found = elastic(found + flow_step(_brought(previous, found), current, place, scale))
    return found


def _left(found: Tensor, truth: Tensor) -> float:
    return float((truth - found)[1:-1, :, HEART, HEART].norm(dim=1).mean())


@pytest.mark.parametrize("degrees", [-10.0, 10.0])
def test_a_turn_that_shape_does_not_show_is_found(degrees: float) -> None:
    previous, truth = _texture(1), _turn(degrees)
    found = _followed(previous, _brought(previous, truth))
    assert _left(STILL, truth) > 1.2
    assert _left(found, truth) < 0.1


def test_a_slide_through_the_slices_is_found_where_slices_resemble_each_other() -> None:
    previous, truth = _texture(2), STILL.clone()
    truth[:, 0] = 0.4
    found = _followed(previous, _brought(previous, truth))
    assert _left(found, truth) < 0.5 * _left(STILL, truth)


def test_nothing_is_found_where_nothing_moved_or_there_is_no_texture() -> None:
    assert float(_followed(_texture(3), _texture(3)).abs().max()) < 1e-4
    flat = 1e-3 * _texture(4)
    assert _left(_followed(flat, flat.flip(3)), STILL) < 0.05


def test_noise_moves_nothing_far() -> None:
    noise = 0.05 * torch.randn(2, DEPTH, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    found = _followed(_texture(6) + noise[0], _texture(6) + noise[1])
    assert _left(found, STILL) < 0.05


def test_far_from_the_heart_nothing_is_found() -> None:
    previous, small = _texture(7), Place(PLACE.centre, 0.4 * PLACE.radius, PLACE.presence)
    found = _followed(previous, previous.roll(2, dims=3), small)
    # To where it was: one voxel of half the plane.
    torch.testing.assert_close(found[1:-1, 2, HEART, HEART].mean(), torch.tensor(-1.0), atol=0.05, rtol=0.0)
    assert float(found[..., :4, :4].abs().max()) < 0.05


def test_flow_without_a_look_that_mends_it_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"optical_flow needs .*looks of 2"):
        build_motion(MotionSizes(optical_flow=True, looks=1))
