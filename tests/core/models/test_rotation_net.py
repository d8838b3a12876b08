"""RotationNet: rotations are estimated, applied and measured with the same sign."""

import math

import pytest
import torch

from cmnet_core.models.layers import Stacks
from cmnet_core.models.rotation_net import RotationNet, locate_lv, mean_rotation, rotation_velocity
from cmnet_core.registration.displacement import exponential, warp

STACKS = Stacks((3,))


def _frame(depth: int = 3, size: int = 64) -> torch.Tensor:
    """Return an eccentric wall and cavity with two papillary muscles, and a right ventricle beside them."""
    y, x = torch.meshgrid(torch.arange(size).float(), torch.arange(size).float(), indexing="ij")
    y, x = y - 30.0, x - 36.0
    radius, angle = torch.hypot(y, x), torch.atan2(y, x)
    cavity, wall = torch.sigmoid(2 * (9 - radius)), torch.sigmoid(2 * (15 - radius))
    right = torch.sigmoid(20 * (angle.cos() - 0.8)) * torch.sigmoid(2 * (24 - radius)) * (1 - wall)
    muscles = sum(torch.exp(-((y - a) ** 2 + (x - b) ** 2) / 6) for a, b in ((5.0, 2.0), (-3.0, -5.0)))
    image = cavity + right - 0.7 * muscles * cavity + 0.2 * torch.sin(3 * angle) * (wall - cavity)
    return torch.stack([image, cavity, wall - cavity, right]).expand(depth, -1, -1, -1).contiguous()


def test_rotation_velocity_rotates_by_its_angle_about_the_ventricle():
    frame = _frame()
    angle = torch.tensor([0.3, -0.2, 0.0])
    lv = locate_lv(frame, STACKS)
    (volume,) = STACKS.volumes(rotation_velocity(angle, lv, (64, 64), scale=1))
    displacement = exponential(volume, steps=7)[0]
    heart = frame[:, 1] + frame[:, 2]
    assert torch.allclose(mean_rotation(displacement, heart), angle * lv.presence, atol=2e-3)


def test_mean_rotation_is_independent_of_scaling_and_translation():
    heart = _frame(1)[:, 1] + _frame(1)[:, 2]
    y, x = torch.meshgrid(torch.arange(64).float() - 20.0, torch.arange(64).float() - 50.0, indexing="ij")
    angle_rad, scale = 0.25, 1.3
    to_y = scale * (math.cos(angle_rad) * y + math.sin(angle_rad) * x) + 2.0
    to_x = scale * (math.cos(angle_rad) * x - math.sin(angle_rad) * y) - 1.0
    displacement = torch.stack([torch.zeros_like(y), to_y - y, to_x - x])[:, None]
    assert float(mean_rotation(displacement, heart)) == pytest.approx(angle_rad, abs=1e-4)


@pytest.mark.parametrize("degrees", [-20.0, 0.0, 10.0, 25.0])
def test_untrained_rotation_net_estimates_a_rotation_of_the_image(degrees):
    torch.manual_seed(0)
    frame = _frame()
    lv = locate_lv(frame, STACKS)
    angle = torch.full((3,), math.radians(degrees))
    (velocity,) = STACKS.volumes(rotation_velocity(angle, lv, (64, 64), scale=1))
    (volume,) = STACKS.volumes(frame)
    # rotated(p) = frame(p + u(p)): the network estimates the rotation of this u.
    rotated = STACKS.slices([warp(volume, exponential(velocity, steps=7))])
    network = RotationNet(channels_in=4)
    torch.nn.init.zeros_(network.shifts.weight)
    torch.nn.init.constant_(network.sharpness, 60.0)
    estimated = network(frame, rotated, locate_lv(rotated, STACKS), STACKS)
    assert torch.allclose(estimated, angle, atol=math.radians(4.0))


def test_a_stack_without_a_ventricle_has_no_rotation():
    frame = torch.zeros(3, 4, 32, 32)
    lv = locate_lv(frame, STACKS)
    estimated = RotationNet(channels_in=4)(frame, frame, lv, STACKS)
    assert bool(estimated.isfinite().all())
    assert float(rotation_velocity(estimated.detach(), lv, (16, 16), scale=2).abs().max()) == 0.0
