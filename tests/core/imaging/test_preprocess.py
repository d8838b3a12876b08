"""The way to the network's window and back, and the heart that is found without a mask."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmnet_core.errors import ErrorCode, GeometryError, ImageError
from cmnet_core.imaging.preprocess import (
    FADE_MM,
    Window,
    centre_of_probability,
    extract,
    extract_labels,
    heart_centre_from_motion,
    normalise,
    restore,
    restore_labels,
    restore_motion,
    wide_window,
    window_affine,
    window_around,
)
from cmnet_core.types import CineSequence, MotionField, Spacing

Shape = tuple[int, int, int]
Pair = tuple[float, float]


def simulate_cine(voxels: torch.Tensor, spacing: Spacing) -> CineSequence:
    affine = torch.diag(torch.tensor([*spacing.zyx, 1.0], dtype=torch.float64))
    return CineSequence(voxels, spacing, affine, frame_ms=None, ed=None, es=None)


def blank_cine(shape: Shape, spacing: Spacing) -> CineSequence:
    return simulate_cine(torch.zeros(1, *shape), spacing)


def in_plane_mm(rows: int, columns: int, spacing: Spacing, origin_mm: Pair = (0.0, 0.0)) -> tuple[torch.Tensor, ...]:
    y = origin_mm[0] + spacing.y * torch.arange(rows)
    x = origin_mm[1] + spacing.x * torch.arange(columns)
    return y[:, None].expand(rows, columns), x[None].expand(rows, columns)


def rings(shape: Shape, spacing: Spacing, centre_mm: Pair, radius_mm: float = 20.0) -> torch.Tensor:
    """LV, myocardium around it and an RV disc beside it, the same in every slice."""
    y, x = in_plane_mm(shape[1], shape[2], spacing)
    radius = torch.hypot(y - centre_mm[0], x - centre_mm[1])
    beside = torch.hypot(y - centre_mm[0], x - centre_mm[1] + 2.3 * radius_mm)
    labels = torch.where(beside < radius_mm, 3, 0)
    labels = torch.where(radius < 1.6 * radius_mm, 2, labels)
    labels = torch.where(radius < radius_mm, 1, labels)
    return labels.to(torch.uint8).expand(1, *shape).clone()


def dice(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    """One channel a class, as a network's probabilities."""
    return torch.stack([labels == k for k in range(4)], dim=1).float()


@pytest.mark.parametrize("in_plane", [(1.0, 1.0), (1.5, 1.5), (1.25, 1.9)])
@pytest.mark.parametrize("offset_mm", [(0.0, 0.0), (-17.3, 21.9)])
def test_labels_survive_the_way_to_the_window_and_back(in_plane: Pair, offset_mm: Pair) -> None:
    spacing = Spacing(8.0, *in_plane)
    shape = (2, round(230 / in_plane[0]), round(250 / in_plane[1]))
    labels = rings(shape, spacing, (110.0, 125.0))
    window = window_around(
        blank_cine(shape, spacing), (110 + offset_mm[0], 125 + offset_mm[1]), spacing_mm=1.5, size=(128, 128)
    )
    hard = restore_labels(one_hot(extract_labels(labels, window)), window)
    soft = restore_labels(extract(one_hot(labels)[0], window)[None], window)
    for label in (1, 2, 3):
        assert dice(hard == label, labels == label) > 0.96  # voxels of 1.5 mm cannot hold those of 1 mm
        assert dice(soft == label, labels == label) > 0.995


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(8, 60), st.integers(8, 60)),
    in_plane=st.tuples(st.floats(0.5, 3.0), st.floats(0.5, 3.0)),
    spacing_mm=st.floats(0.8, 3.0),
    centre=st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)),
)
def test_a_linear_ramp_is_exact_in_millimetres_at_any_shape_and_spacing(
    shape: Shape, in_plane: Pair, spacing_mm: float, centre: Pair
) -> None:
    spacing = Spacing(8.0, *in_plane)
    y, x = in_plane_mm(shape[1], shape[2], spacing)
    ramp = (3.0 + 0.5 * y - 0.25 * x).double().expand(1, *shape)
    centre_mm = (centre[0] * shape[1] * spacing.y, centre[1] * shape[2] * spacing.x)
    window = window_around(simulate_cine(ramp.float(), spacing), centre_mm, spacing_mm=spacing_mm, size=(9, 7))
    found = extract(ramp, window)
    y, x = in_plane_mm(9, 7, window.spacing, window.origin_mm)
    reach = 1.5 * spacing_mm  # of the averaging of a coarse voxel
    inside = (y >= reach) & (y <= (shape[1] - 1) * spacing.y - reach)
    inside &= (x >= reach) & (x <= (shape[2] - 1) * spacing.x - reach)
    expected = (3.0 + 0.5 * y - 0.25 * x).double()
    assert found.shape == (1, shape[0], 9, 7)
    torch.testing.assert_close(found[0, :, inside], expected[inside].expand(shape[0], -1), rtol=0, atol=1e-4)


def test_beyond_the_image_is_zero_and_the_outer_half_voxel_is_image() -> None:
    spacing = Spacing(10.0, 2.0, 2.0)
    cine = simulate_cine(torch.ones(1, 1, 4, 4), spacing)
    window = window_around(cine, (3.0, 3.0), spacing_mm=0.5, size=(32, 32))
    y, x = in_plane_mm(32, 32, window.spacing, window.origin_mm)
    expected = (y >= -1) & (y <= 7) & (x >= -1) & (x <= 7)
    torch.testing.assert_close(extract(cine.voxels, window)[0, 0], expected.float())


def test_a_coarse_window_does_not_alias() -> None:
    stripes = (torch.arange(96) % 2).float().expand(1, 1, 96, 96)
    window = window_around(simulate_cine(stripes, Spacing(8.0, 0.5, 0.5)), (24.0, 24.0), spacing_mm=2.0, size=(12, 12))
    torch.testing.assert_close(extract(stripes, window), torch.full((1, 1, 12, 12), 0.5))


def test_a_batch_equals_its_elements() -> None:
    voxels = torch.rand(4, 3, 20, 24, generator=torch.Generator().manual_seed(1))
    window = window_around(simulate_cine(voxels, Spacing(8.0, 1.2, 1.8)), (12.0, 20.0), spacing_mm=1.5, size=(16, 16))
    together = extract(voxels, window)
    torch.testing.assert_close(together, torch.cat([extract(frame[None], window) for frame in voxels]))
    back = restore(together, window, outside=0.0)
    torch.testing.assert_close(back, torch.cat([restore(frame[None], window, outside=0.0) for frame in together]))


@pytest.mark.parametrize("depth", [1, 2, 11, 30])
def test_the_wide_window_holds_the_whole_field_at_any_depth(depth: int) -> None:
    cine = blank_cine((depth, 101, 64), Spacing(9.0, 1.7, 1.5))
    window = wide_window(cine, spacing_mm=1.5)
    assert window.size == (128, 64)
    assert window.shape == (depth, 128, 64)
    middle = [window.origin_mm[i] + (window.size[i] - 1) / 2 * 1.5 for i in (0, 1)]
    assert middle == pytest.approx([50 * 1.7, 31.5 * 1.5])


def test_the_affine_of_a_window_leads_to_the_same_place() -> None:
    generator = torch.Generator().manual_seed(2)
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3] = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    window = window_around(blank_cine((5, 40, 50), Spacing(8.0, 1.3, 1.9)), (20.0, 31.0), spacing_mm=1.5, size=(16, 32))
    index = torch.tensor([3.0, 4.0, 7.0, 1.0], dtype=torch.float64)
    y_mm, x_mm = window.origin_mm[0] + 4 * 1.5, window.origin_mm[1] + 7 * 1.5
    source = torch.tensor([3.0, y_mm / 1.3, x_mm / 1.9, 1.0], dtype=torch.float64)
    torch.testing.assert_close(window_affine(affine, window) @ index, affine @ source)


def test_values_beyond_the_window_are_what_the_caller_says() -> None:
    window = window_around(
        blank_cine((1, 40, 40), Spacing(8.0, 1.5, 1.5)), (30.75, 30.75), spacing_mm=1.5, size=(16, 16)
    )
    restored = restore(torch.full((2, 1, 16, 16), 5.0), window, outside=-3.0)
    assert set(restored.unique().tolist()) == {5.0, -3.0}
    assert int((restored == 5).sum()) == 2 * 16 * 16


def test_motion_keeps_its_millimetres_and_fades_to_zero_beyond_the_window() -> None:
    spacing = Spacing(8.0, 1.2, 1.8)
    window = window_around(blank_cine((2, 120, 90), spacing), (70.0, 80.0), spacing_mm=1.5, size=(32, 32))
    step = torch.tensor([4.0, -2.0, 3.0])
    field = MotionField(step[:, None, None, None].expand(3, 2, 32, 32), window.spacing, fixed=5, moving=0)
    found = restore_motion(field, window)
    y, x = in_plane_mm(120, 90, spacing)
    beyond = torch.maximum((y - 70).abs(), (x - 80).abs()) - 15.5 * 1.5
    assert (found.fixed, found.moving, found.spacing) == (5, 0, spacing)
    inside = found.displacement_mm[:, :, beyond < 0]
    torch.testing.assert_close(inside, step[:, None, None].expand_as(inside))
    assert float(found.displacement_mm[:, :, beyond > FADE_MM].abs().max()) < 1e-6
    jumps = found.displacement_mm.diff(dim=2).abs().max() / spacing.y
    assert float(jumps) < 4 * math.pi / 2 / FADE_MM + 1e-4


def test_a_motion_ramp_in_millimetres_is_the_same_ramp_on_the_subjects_grid() -> None:
    spacing = Spacing(8.0, 1.1, 1.7)
    window = window_around(blank_cine((1, 60, 40), spacing), (30.0, 30.0), spacing_mm=1.5, size=(64, 64))
    y, x = in_plane_mm(64, 64, window.spacing, window.origin_mm)
    ramp = torch.stack([0.1 * y, 0.2 * x - 0.1 * y, -0.3 * x])[:, None].float()
    found = restore_motion(MotionField(ramp, window.spacing, fixed=1, moving=0), window).displacement_mm
    y, x = in_plane_mm(60, 40, spacing)
    torch.testing.assert_close(found, torch.stack([0.1 * y, 0.2 * x - 0.1 * y, -0.3 * x])[:, None], rtol=0, atol=1e-4)


def test_intensities_are_scaled_once_for_the_whole_cine() -> None:
    voxels = torch.arange(1001.0).reshape(7, 1, 11, 13) * 3 - 500
    scaled = normalise(voxels)
    assert (float(scaled.min()), float(scaled.max())) == (0.0, 1.0)
    expected = ((voxels + 500) / 3 - 10) / 980
    torch.testing.assert_close(scaled, expected.clamp(0, 1))


def test_an_image_without_contrast_is_refused() -> None:
    with pytest.raises(ImageError, match="contrast") as error:
        normalise(torch.full((2, 3, 4, 4), 7.0))
    assert error.value.code == ErrorCode.IMAGE_VALUES


def beating_cine(frames: int, shape: Shape, spacing: Spacing, centre_mm: Pair) -> CineSequence:
    """A bright disc that shrinks and grows once a cycle, in front of noise and a bright still body."""
    y, x = in_plane_mm(shape[1], shape[2], spacing)
    radius = torch.hypot(y - centre_mm[0], x - centre_mm[1])
    phase = 2 * math.pi * torch.arange(frames) / frames
    size = 30 + 8 * phase.cos()
    disc = (radius[None, None] < size[:, None, None, None]).float().expand(frames, *shape)
    noise = 0.1 * torch.randn(frames, *shape, generator=torch.Generator().manual_seed(3))
    return simulate_cine(disc + noise + (x < 60).float(), spacing)


@pytest.mark.parametrize("frames", [2, 3, 12])
@pytest.mark.parametrize("depth", [1, 6])
def test_the_heart_is_found_by_its_motion(frames: int, depth: int) -> None:
    centre_mm = (140.0, 190.0)
    cine = beating_cine(frames, (depth, 200, 170), Spacing(8.0, 1.4, 1.9), centre_mm)
    assert math.dist(heart_centre_from_motion(cine), centre_mm) < 10


@pytest.mark.parametrize("frames", [1, 4])
def test_a_still_image_has_no_heart(frames: int) -> None:
    still = torch.rand(1, 2, 16, 16, generator=torch.Generator().manual_seed(4)).expand(frames, -1, -1, -1)
    with pytest.raises(ImageError) as error:
        heart_centre_from_motion(simulate_cine(still, Spacing(8.0, 1.5, 1.5)))
    assert error.value.code == ErrorCode.HEART_NOT_FOUND


def test_the_centre_of_a_segmentation_is_given_on_the_subjects_ruler() -> None:
    spacing = Spacing(8.0, 1.3, 1.9)
    cine = blank_cine((3, 160, 120), spacing)
    window = wide_window(cine, spacing_mm=1.5)
    heart = extract((rings((3, 160, 120), spacing, (90.0, 120.0)) == 1).float(), window)[0]
    assert centre_of_probability(heart, window) == pytest.approx((90.0, 120.0), abs=0.5)
    with pytest.raises(ImageError) as error:
        centre_of_probability(torch.zeros_like(heart), window)
    assert error.value.code == ErrorCode.HEART_NOT_FOUND


def test_a_window_refuses_what_it_was_not_made_for() -> None:
    window = window_around(blank_cine((3, 20, 20), Spacing(8.0, 1.5, 1.5)), (15.0, 15.0), spacing_mm=1.5, size=(16, 16))
    with pytest.raises(GeometryError, match=r"\(3, 20, 20\)"):
        extract(torch.zeros(1, 3, 20, 21), window)
    with pytest.raises(GeometryError, match=r"\(3, 16, 16\)"):
        restore(torch.zeros(1, 3, 16, 17), window, outside=0.0)
    with pytest.raises(GeometryError, match="slices"):
        Window((3, 20, 20), Spacing(8.0, 1.5, 1.5), Spacing(9.0, 1.5, 1.5), (0.0, 0.0), (16, 16))
