"""Geometry against motions that are known in closed form, on anisotropic grids."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cmnet_core.errors import GeometryError
from cmnet_core.labels import Label
from cmnet_core.registration.displacement import (
    compose,
    deformation_gradient,
    exponential,
    from_voxels,
    green_lagrange,
    identity_grid,
    invert,
    jacobian_determinant,
    propagate,
    propagate_probabilities,
    surely_unfolded,
    to_voxels,
    volume_change,
    warp,
)
from cmnet_core.types import MotionField, Spacing

SPACING = Spacing(8.0, 1.4, 1.7)


def linear_field(matrix: Tensor, shape: tuple[int, int, int], *, spacing: Spacing) -> MotionField:
    """The field that maps p to ``matrix @ p``, p in mm from the centre of the grid."""
    steps = torch.tensor(spacing.zyx, dtype=torch.float64).view(3, 1, 1, 1)
    centre = (torch.tensor(shape, dtype=torch.float64).view(3, 1, 1, 1) - 1) / 2
    points = (identity_grid(shape, torch.zeros((), dtype=torch.float64)) - centre) * steps
    moved = torch.einsum("ij,jzyx->izyx", matrix, points)
    return MotionField(moved - points, spacing, fixed=0, moving=1)


def eye() -> Tensor:
    return torch.eye(3, dtype=torch.float64)


def rotation(degrees: float) -> Tensor:
    angle = math.radians(degrees)
    matrix = eye()
    matrix[1, 1] = matrix[2, 2] = math.cos(angle)
    matrix[1, 2], matrix[2, 1] = -math.sin(angle), math.sin(angle)
    return matrix


def shear(amount: float) -> Tensor:
    matrix = eye()
    matrix[1, 2] = amount
    return matrix


@pytest.mark.parametrize("matrix", [1.1 * eye(), rotation(20), shear(0.3), shear(0.3) @ rotation(-35)])
def test_linear_motion_has_its_own_gradient_and_strain(matrix: Tensor) -> None:
    field = linear_field(matrix, (5, 9, 11), spacing=SPACING)
    gradient = deformation_gradient(field)
    expected = 0.5 * (matrix.T @ matrix - eye())
    torch.testing.assert_close(gradient, matrix.view(3, 3, 1, 1, 1).expand_as(gradient))
    strain = green_lagrange(gradient)
    torch.testing.assert_close(strain, expected.view(3, 3, 1, 1, 1).expand_as(strain))


def test_uniform_stretch_of_ten_percent_has_determinant_1_331() -> None:
    determinant = jacobian_determinant(linear_field(1.1 * eye(), (4, 6, 6), spacing=SPACING))
    torch.testing.assert_close(determinant, torch.full_like(determinant, 1.331))


def test_mirroring_folds_everywhere() -> None:
    mirror = torch.diag(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))
    assert bool((jacobian_determinant(linear_field(mirror, (3, 5, 5), spacing=SPACING)) < 0).all())


def test_annulus_that_contracts_keeps_its_area() -> None:
    """R² = r² − c is incompressible in the plane; a disc of fluid would keep det F = 1 everywhere."""
    spacing = Spacing(8.0, 0.5, 0.5)
    points = (identity_grid((2, 161, 161), torch.zeros((), dtype=torch.float64)) - 80) * 0.5
    radius = points[1:].square().sum(0).sqrt()
    wall = (radius > 22) & (radius < 34)
    scale = ((radius.square() - 150).clamp_min(1) / radius.square().clamp_min(1)).sqrt() - 1
    displacement = torch.cat([torch.zeros_like(points[:1]), points[1:] * scale])
    determinant = jacobian_determinant(MotionField(displacement, spacing, fixed=0, moving=1))
    assert float((determinant[wall] - 1).abs().max()) < 2e-3


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(2, 9), st.integers(2, 9)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=20, deadline=None)
def test_standing_still_changes_nothing(shape: tuple[int, int, int], seed: int) -> None:
    values = torch.rand((2, *shape), generator=torch.Generator().manual_seed(seed))
    still = MotionField(torch.zeros(3, *shape), SPACING, fixed=0, moving=3)
    torch.testing.assert_close(propagate(values, still), values, atol=1e-5, rtol=0)
    assert bool((jacobian_determinant(still) == 1).all())


def test_pull_back_reads_from_where_the_field_points() -> None:
    image = torch.arange(7.0).view(1, 1, 1, 1, 7).expand(1, 1, 2, 3, 7).contiguous()
    displacement = torch.zeros(1, 3, 2, 3, 7)
    displacement[:, 2] = 2.0
    expected = torch.tensor([2.0, 3, 4, 5, 6, 6, 6])
    torch.testing.assert_close(warp(image, displacement)[0, 0, 0, 0], expected)


def waves(shape: tuple[int, int, int], *, amplitude: float, phase: float) -> Tensor:
    """A smooth displacement in voxels, of one wave over the grid in the plane, a tenth as strong along z."""
    _, y, x = identity_grid(shape, torch.zeros((), dtype=torch.float64)) * (2 * math.pi / shape[1])
    components = [0.1 * torch.sin(x + y + phase), torch.sin(y + phase) * torch.cos(x), torch.cos(x - y + phase)]
    return amplitude * torch.stack(components)


def inner(values: Tensor) -> Tensor:
    """What lies so far inside that no border was touched."""
    return values[..., 2:-2, 10:-10, 10:-10]


def test_exponential_of_the_negative_is_the_inverse() -> None:
    velocity = waves((9, 48, 48), amplitude=2.0, phase=0.4)[None]
    there = from_voxels(exponential(velocity, steps=7)[0], SPACING, fixed=0, moving=4)
    back = from_voxels(exponential(-velocity, steps=7)[0], SPACING, fixed=4, moving=0)
    round_trip = compose(there, back)
    assert (round_trip.fixed, round_trip.moving) == (0, 0)
    assert float(inner(to_voxels(round_trip)).abs().max()) < 0.02


def test_exponential_of_a_rotation_is_the_rotation() -> None:
    angle = math.radians(25)
    points = identity_grid((1, 61, 61), torch.zeros((), dtype=torch.float64)) - 30
    velocity = torch.stack([torch.zeros_like(points[0]), -angle * points[2], angle * points[1]])[None]
    turned = torch.einsum("ij,jzyx->izyx", rotation(25), points * torch.tensor([0.0, 1, 1]).view(3, 1, 1, 1))
    expected = turned - points * torch.tensor([0.0, 1, 1]).view(3, 1, 1, 1)
    disc = (points[1:].square().sum(0) < 18**2).expand(3, -1, -1, -1)
    got = exponential(velocity, steps=8)[0]
    assert float((got - expected)[disc].abs().max()) < 0.02


@pytest.mark.parametrize(("slices", "left"), [(-1.1, [1, 2, 3]), (-0.9, [0, 1, 2, 3]), (1.1, [0, 1, 2])])
def test_what_was_not_imaged_is_not_carried(slices: float, left: list[int]) -> None:
    """All four slices are ventricle; one that shows what lay more than a slice beyond the stack shows none."""
    shape = torch.zeros(len(Label), 4, 3, 3)
    shape[Label.RV] = 1.0
    displacement = torch.zeros(3, 4, 3, 3)
    displacement[0] = slices * SPACING.z
    carried = propagate_probabilities(shape, MotionField(displacement, SPACING, fixed=1, moving=0))
    assert torch.equal(carried.sum(0), torch.ones(4, 3, 3))
    assert [z for z in range(4) if bool((carried[Label.RV, z] > 0.5).all())] == left
    assert [z for z in range(4) if bool((carried[Label.BACKGROUND, z] > 0.5).all())] == sorted({0, 1, 2, 3} - {*left})


def test_rows_and_columns_without_a_heart_are_background() -> None:
    shape = torch.zeros(len(Label), 2, 9, 9)
    shape[Label.BACKGROUND] = 1.0
    shape[:, :, 4, 4] = torch.nn.functional.one_hot(torch.tensor(int(Label.LV)), len(Label)).float()[:, None]
    carried = propagate_probabilities(shape, MotionField(torch.zeros(3, 2, 9, 9), SPACING, fixed=1, moving=0))
    assert torch.equal(carried, shape)


def test_inverse_undoes_a_field() -> None:
    field = from_voxels(waves((9, 48, 48), amplitude=2.0, phase=1.1), SPACING, fixed=2, moving=5)
    undone = compose(field, invert(field))
    assert float(inner(to_voxels(undone)).abs().max()) < 0.02


def test_fields_that_do_not_meet_are_refused() -> None:
    a = MotionField(torch.zeros(3, 2, 4, 4), SPACING, fixed=3, moving=2)
    b = MotionField(torch.zeros(3, 2, 4, 4), SPACING, fixed=1, moving=0)
    with pytest.raises(GeometryError, match="frame 2"):
        compose(a, b)
    with pytest.raises(GeometryError, match="do not fit"):
        propagate(torch.zeros(1, 2, 5, 5), a)


def test_small_differences_prove_the_absence_of_folds() -> None:
    generator = torch.Generator().manual_seed(5)
    proved = 0
    for scale in (0.02, 0.05, 0.1, 0.2, 0.5, 1.5):
        velocity = scale * torch.randn(3, 3, 12, 12, generator=generator)
        folds = bool((volume_change(exponential(velocity[None], steps=5)) <= 0).any())
        sure = surely_unfolded(velocity, steps=5)
        proved += sure
        assert not (sure and folds)
    assert 1 <= proved < 6
    assert surely_unfolded(torch.full((3, 1, 4, 4), 7.0), steps=0)


@pytest.mark.parametrize(("steps", "slope"), [(5, math.log(2.0)), (0, 1.0)])
def test_slope_up_to_which_a_motion_is_surely_unfolded(steps: int, slope: float) -> None:
    ramp = torch.zeros(3, 2, 4, 6)
    ramp[1] = torch.arange(4.0)[:, None]
    assert surely_unfolded(0.98 * slope * ramp, steps=steps)
    assert not surely_unfolded(1.02 * slope * ramp, steps=steps)
