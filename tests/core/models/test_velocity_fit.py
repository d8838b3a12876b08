"""The velocity fit estimates tangential and through-plane motion, and keeps its initial velocity without texture."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cmnet_core.errors import ManifestError
from cmnet_core.imaging.filters import smooth_in_plane
from cmnet_core.labels import Label
from cmnet_core.models.build import MotionSizes, build_motion
from cmnet_core.models.cardiomorphnet import iterate_cycle
from cmnet_core.models.layers import Stacks, upsample_displacement
from cmnet_core.models.rotation_net import LVLocation, rotation_velocity
from cmnet_core.models.velocity_fit import fit_velocity
from cmnet_core.registration.displacement import exponential, warp
from tests.textures import texture
from tests.tiny_model import MOTION

SIZE, DEPTH, STEPS = 96, 6, 6
CAVITY, HEART = 10.0, 20.0
MIDDLE = slice(SIZE // 4 - 8, SIZE // 4 + 8)
ZERO = torch.zeros(DEPTH, 3, SIZE // 2, SIZE // 2)


def _texture(seed: int) -> Tensor:
    return texture(DEPTH, SIZE, seed=seed)


def _frame(image: Tensor, *, fraction: float = 1.0) -> Tensor:
    """Return an image and the segmentation of a round ventricle, whose radius is a fraction of that at ED."""
    along = torch.arange(SIZE) - (SIZE - 1) / 2
    distance = torch.hypot(*torch.meshgrid(along, along, indexing="ij")) / fraction
    cavity, heart = (torch.sigmoid(edge - distance).expand(DEPTH, -1, -1) for edge in (CAVITY, HEART))
    shapes = torch.stack([cavity, heart - cavity, torch.zeros_like(heart)], dim=1)
    return torch.cat([image, shapes], dim=1)


def _linear_velocity(*, degrees: float = 0.0, stretch: float = 0.0) -> Tensor:
    """Return the velocity of a rotation and homogeneous stretch about the centre, at half the in-plane resolution."""
    along = torch.arange(SIZE // 2) - (SIZE / 2 - 1) / 2
    y, x = torch.meshgrid(along, along, indexing="ij")
    radians = torch.tensor(degrees).deg2rad()
    return torch.stack([torch.zeros_like(x), radians * x + stretch * y, stretch * x - radians * y]).expand(
        DEPTH, 3, -1, -1
    )


def _rotation(degrees: float) -> Tensor:
    """Return the velocity of a rotation of the heart alone about its centre."""
    place = LVLocation(torch.full((DEPTH, 2), (SIZE - 1) / 2), torch.full((DEPTH,), HEART), torch.ones(DEPTH))
    return rotation_velocity(torch.full((DEPTH,), degrees).deg2rad(), place, (SIZE // 2, SIZE // 2), scale=2)


def _warped(frame: Tensor, velocity: Tensor) -> Tensor:
    displacement = upsample_displacement(exponential(velocity.movedim(0, 1)[None], steps=STEPS), factor=2)
    return warp(frame.movedim(0, 1)[None], displacement)[0].movedim(0, 1)


def _fitted(moving: Tensor, fixed: Tensor, initial: Tensor = ZERO) -> Tensor:
    return fit_velocity(moving, fixed, initial, Stacks((DEPTH,)), integration_steps=STEPS)


def _mean_error(fitted: Tensor, truth: Tensor) -> float:
    """Return the mean distance in the heart, in voxels of half the in-plane resolution."""
    return float((truth - fitted)[1:-1, :, MIDDLE, MIDDLE].norm(dim=1).mean())


@pytest.mark.parametrize("degrees", [-10.0, 10.0])
def test_fit_estimates_a_rotation_that_segmentations_do_not_show(degrees: float) -> None:
    moving, truth = _frame(_texture(1)), _rotation(degrees)
    fitted = _fitted(moving, _warped(moving, truth))
    assert _mean_error(ZERO, truth) > 1.0
    assert _mean_error(fitted, truth) < 0.1


def test_fit_estimates_through_plane_motion_where_slices_are_similar() -> None:
    moving, truth = _frame(_texture(2)), ZERO.clone()
    truth[:, 0] = 0.4
    fitted = _fitted(moving, _warped(moving, truth))
    assert _mean_error(fitted, truth) < 0.5 * _mean_error(ZERO, truth)


def test_fit_of_equal_frames_is_zero() -> None:
    frame = _frame(_texture(3))
    assert float(_fitted(frame, frame).abs().max()) < 1e-4


def test_fit_is_robust_against_noise() -> None:
    noise = 0.05 * torch.randn(2, DEPTH, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    fitted = _fitted(_frame(_texture(6) + noise[0]), _frame(_texture(6) + noise[1]))
    assert _mean_error(fitted, ZERO) < 0.05


def test_fit_follows_the_segmentations_without_texture() -> None:
    flat = torch.zeros(DEPTH, 1, SIZE, SIZE)
    ed, es = _frame(flat), _frame(flat, fraction=0.8)
    warped = _warped(ed, _fitted(ed, es))
    differences = [(frame[:, Label.LV] - es[:, Label.LV]).abs().sum() for frame in (ed, warped)]
    assert differences[1] < 0.1 * differences[0]


def test_fit_does_not_penalise_rotation_and_homogeneous_stretch() -> None:
    flat, initial = torch.zeros(DEPTH, 1, SIZE, SIZE), _linear_velocity(degrees=5.0, stretch=-0.1)
    fitted = _fitted(_frame(flat), _warped(_frame(flat), initial), initial)
    assert _mean_error(fitted, initial) < 0.05


def test_texture_without_a_counterpart_hardly_changes_the_initial_velocity() -> None:
    initial = _rotation(6.0)
    fitted = _fitted(_frame(_texture(7)), _frame(_texture(8)), initial)
    assert _mean_error(fitted, initial) < 0.5 * _mean_error(ZERO, initial)


def test_fit_removes_in_plane_gradients_of_through_plane_motion_in_the_ventricle() -> None:
    flat, initial = _frame(torch.zeros(DEPTH, 1, SIZE, SIZE)), ZERO.clone()
    initial[:, 0] = 0.3 * _texture(4)[:, 0, ::2, ::2]
    fitted = _fitted(flat, flat, initial)
    steep_before, steep = (
        velocity[:, 0, MIDDLE, MIDDLE].diff(dim=1).square().mean().sqrt() for velocity in (initial, fitted)
    )
    assert steep < 0.01 * steep_before


def test_fit_uses_texture_at_full_in_plane_resolution() -> None:
    generator = torch.Generator().manual_seed(11)
    fine = smooth_in_plane(torch.randn(DEPTH, 1, SIZE, SIZE, generator=generator), 1.0)
    moving, truth = _frame(fine / fine.std()), _rotation(3.0)
    assert _mean_error(_fitted(moving, _warped(moving, truth)), truth) < 0.01


def test_fit_of_a_batch_equals_that_of_its_stacks() -> None:
    moving = _frame(_texture(9))
    fixed = _warped(moving, _rotation(4.0))
    two = fit_velocity(
        torch.cat([fixed, moving]), torch.cat([moving, fixed]), torch.cat([ZERO, ZERO]),
        Stacks((DEPTH, DEPTH)), integration_steps=STEPS,
    )  # fmt: skip
    torch.testing.assert_close(two[DEPTH:], _fitted(moving, fixed), atol=1e-4, rtol=0.0)


def test_fit_without_segmentation_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"fit needs .*use_segmentation"):
        build_motion(MotionSizes(fit=True, use_segmentation=False))


def test_fit_is_skipped_while_the_mean_requires_a_gradient() -> None:
    model, stacks = build_motion(replace(MOTION, fit=True, cascade_iterations=1)), Stacks((DEPTH,))
    moving = _frame(_texture(1))
    fixed = _warped(moving, _rotation(10.0))
    without_fit = next(iterate_cycle(model, [moving, fixed], stacks, None)).output.motion.mean
    with torch.no_grad():
        with_fit = next(iterate_cycle(model, [moving, fixed], stacks, None)).output.motion.mean
    assert without_fit.requires_grad
    assert _mean_error(without_fit.detach(), ZERO) < 0.1
    assert _mean_error(with_fit, _rotation(10.0)) < 0.1
