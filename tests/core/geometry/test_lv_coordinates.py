"""The LV's coordinates against closed forms: annuli, and phantoms whose every point has a place in its heart."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cmnet_core.geometry.lv_coordinates import LVCoordinates, aha_segment, lv_coordinates
from cmnet_core.geometry.wall_thickness import maximum_thickness, thickening_pct, wall_thickness
from cmnet_core.labels import Label
from cmnet_core.phantom.draw import draw_spec
from cmnet_core.phantom.scan_grid import affine_of, grid_points, heart_axes, slice_depths, spacing_of
from cmnet_core.phantom.shape import Points, labels_at
from cmnet_core.phantom.spec import PhantomSpec
from cmnet_core.types import Spacing

SPACING = Spacing(z=8.0, y=1.5, x=1.5)


def heart_of(spec: PhantomSpec) -> tuple[Points, Tensor]:
    """Every voxel in the heart's own frame, and its label at ED."""
    points = grid_points(spec.scan, slice_depths(spec.scan))
    return points, labels_at(spec.heart, points)


def drawn(seed: int) -> PhantomSpec:
    return draw_spec(torch.Generator().manual_seed(seed), frames=10, defect=False)


def found_in(spec: PhantomSpec) -> LVCoordinates:
    return lv_coordinates(heart_of(spec)[1], spacing_of(spec.scan), affine_of(spec.scan))


def annulus(
    *, inner: float = 24.0, outer: float = 33.0, shift: float = 0.0, slices: int = 6, rv: bool = True
) -> Tensor:
    """Slices of a ring that grows narrower towards the last; the RV to its left, whose upper insertion is at 60°."""
    z, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (slices, 72, 72)), indexing="ij")
    y, x = (y - 35.5) * 1.5 - shift, (x - 35.5) * 1.5 + shift / 2
    taper = 1.0 - 0.1 * z / slices
    radius, angle = torch.hypot(y, x), torch.rad2deg(torch.atan2(-y, -x))
    labels = torch.zeros(z.shape, dtype=torch.uint8)
    if rv:
        labels[(radius < outer + 12.0) & (angle.abs() < 60.0)] = Label.RV
    labels[radius < outer * taper] = Label.MYO
    labels[radius < inner * taper] = Label.LV
    return labels


def lying(directions: str) -> Tensor:
    """An affine whose axes (z, y, x) point where the letters say, R, A or S, or the other way, L, P or I."""
    affine = torch.zeros(4, 4, dtype=torch.float64)
    for axis, (letter, mm) in enumerate(zip(directions, SPACING.zyx, strict=True)):
        row = "RAS".find(letter) if letter in "RAS" else "LPI".find(letter)
        affine[row, axis] = mm if letter in "RAS" else -mm
    affine[3, 3] = 1.0
    return affine


# Slices from base to apex run to the left, rows downwards, columns to the back: the septum is on the left of the image.
NORMAL = lying("LIP")


def degrees_between(found: Tensor, true: Tensor) -> Tensor:
    return (found - true + 180.0) % 360.0 - 180.0


def test_coordinates_of_phantoms_are_their_closed_form() -> None:
    """Angles, and with them AHA's boundaries, within 15° of the truth, but where the cavity ends in a point."""
    for seed in range(20):
        spec = drawn(seed)
        points, labels = heart_of(spec)
        found = lv_coordinates(labels, spacing_of(spec.scan), affine_of(spec.scan))
        past = 60.0 - torch.rad2deg(torch.atan2(points.y, points.x))
        along = -points.s / spec.heart.cavity_length_mm
        error = degrees_between(found.circumferential_deg, past)[found.wall].abs()
        assert found.flags == ()
        assert float(error[along[found.wall] < 0.95].max()) < 15.0
        assert float((found.longitudinal - along)[found.wall].abs().max()) < 0.04
        axis = found.longitudinal_unit[:, 0, 0, 0].double()
        assert float(axis @ -heart_axes(spec.scan)[0]) > math.cos(math.radians(2.5))
        depth = found.transmural[found.wall]
        assert 0.0 <= float(depth.min()) < 0.2 < 0.8 < float(depth.max()) <= 1.0


def test_wall_thickness_of_a_ring() -> None:
    for inner, outer, shift in ((24.0, 33.0, 0.0), (20.0, 26.5, 0.37), (12.0, 25.0, 0.71), (30.0, 34.6, 1.1)):
        found = lv_coordinates(annulus(inner=inner, outer=outer, shift=shift), SPACING, NORMAL)
        taper = 1.0 - 0.1 * torch.arange(6) / 6
        for z in range(6):
            true = (outer - inner) * float(taper[z])
            assert float(found.thickness_mm[z][found.wall[z]].mean()) == pytest.approx(true, abs=0.3)
        thickness = wall_thickness(found)
        assert thickness.whole_mm == pytest.approx((outer - inner) * float(taper.mean()), abs=0.15)
        assert all(mm == pytest.approx(thickness.whole_mm, abs=0.75) for mm in thickness.segments_mm)


def test_circumferential_angle_of_a_ring() -> None:
    """Zero at the insertion at 60° above the septum's middle, and on from there over the septum."""
    found = lv_coordinates(annulus(), SPACING, NORMAL)
    y, x = torch.meshgrid((torch.arange(72) - 35.5) * 1.5, (torch.arange(72) - 35.5) * 1.5, indexing="ij")
    true = 60.0 - torch.rad2deg(torch.atan2(-y, -x))
    for z in range(6):
        assert float(degrees_between(found.circumferential_deg[z], true)[found.wall[z]].abs().max()) < 3.0
    middle = found.wall[3]
    assert float((found.radial_unit[1:, 3][:, middle] * torch.stack([y, x])[:, middle]).sum(0).min()) > 0
    turned = found.circumferential_unit[1, 3] * x - found.circumferential_unit[2, 3] * y
    # Rows count downwards: on the display this is counter-clockwise, left to bottom to right.
    assert float(turned[middle].max()) < 0


@pytest.mark.parametrize("flips", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_slice_order_and_handedness_do_not_change_coordinates(flips: tuple[int, ...]) -> None:
    labels = annulus(shift=0.7)
    plain = lv_coordinates(labels, SPACING, NORMAL)
    affine = NORMAL.clone()
    for axis in flips:
        affine[:, 3] += affine[:, axis] * (labels.shape[axis] - 1)
        affine[:, axis] *= -1
    other = lv_coordinates(labels.flip(flips), SPACING, affine)
    assert torch.equal(other.wall.flip(flips), plain.wall)
    assert torch.equal(other.segment.flip(flips), plain.segment)
    for name in ("longitudinal", "circumferential_deg", "transmural", "thickness_mm"):
        torch.testing.assert_close(
            getattr(other, name).flip(flips), getattr(plain, name), equal_nan=True, atol=2e-3, rtol=0
        )
    sign = torch.tensor([-1.0 if axis in flips else 1.0 for axis in range(3)]).view(3, 1, 1, 1)
    back = tuple(axis + 1 for axis in flips)
    for name in ("radial_unit", "circumferential_unit", "longitudinal_unit"):
        torch.testing.assert_close(sign * getattr(other, name).flip(back), getattr(plain, name), atol=1e-4, rtol=0)
    assert other.flags == plain.flags == ()


def test_affine_that_contradicts_the_anatomy_is_flagged() -> None:
    """The grid says that it is a mirror image, as one does whose axes were made up."""
    mirrored = lv_coordinates(annulus(), SPACING, lying("RIP"))
    assert mirrored.flags == ("orientation-ambiguous",)
    assert torch.equal(mirrored.segment, lv_coordinates(annulus(), SPACING, NORMAL).segment)


def test_wall_thickness_of_segments_does_not_depend_on_voxel_spacing() -> None:
    spec = drawn(11)
    finer = replace(spec.scan, pixel_mm=spec.scan.pixel_mm / 1.5, rows=360, columns=360)
    coarse, fine = (wall_thickness(found_in(replace(spec, scan=scan))) for scan in (spec.scan, finer))
    assert coarse.whole_mm == pytest.approx(fine.whole_mm, abs=0.1)
    assert coarse.segments_mm == pytest.approx(fine.segments_mm, abs=0.4)


def test_rigid_motion_does_not_change_wall_thickness() -> None:
    spec = drawn(3)
    moved = replace(spec.scan, rv_deg=spec.scan.rv_deg + 17.0, centre_x_mm=spec.scan.centre_x_mm + 4.3)
    before, after = (wall_thickness(found_in(replace(spec, scan=scan))) for scan in (spec.scan, moved))
    assert thickening_pct(before.whole_mm, after.whole_mm) == pytest.approx(0.0, abs=0.5)
    for one, other in zip(before.segments_mm, after.segments_mm, strict=True):
        assert thickening_pct(one, other) == pytest.approx(0.0, abs=4.0)


def test_basal_slice_open_to_the_outflow_tract_is_ventricular_if_half_closed() -> None:
    labels = annulus()
    open_side = torch.zeros(72, 72, dtype=torch.bool)
    open_side[:, 24:46][:36] = True
    horseshoe = labels.clone()
    horseshoe[0][open_side & (labels[0] == Label.MYO)] = Label.BACKGROUND
    plain, found = (lv_coordinates(item, SPACING, NORMAL) for item in (labels, horseshoe))
    assert bool(found.wall[0].any())
    assert int((found.segment != plain.segment)[1:].sum()) < 20
    above = labels.clone()
    above[0][labels[0] == Label.MYO] = Label.BACKGROUND
    tract = lv_coordinates(above, SPACING, NORMAL)
    assert not bool(tract.wall[0].any())
    assert float(tract.longitudinal[1][tract.wall[1]].mean()) == pytest.approx(0.5 / 6, abs=0.03)


def test_missing_rv_slices_or_wall_are_flagged() -> None:
    without_rv = lv_coordinates(annulus(rv=False), SPACING, NORMAL)
    assert without_rv.flags == ("rv-insertion-not-found",)
    assert (int(without_rv.segment.max()), bool(without_rv.circumferential_deg.isnan().all())) == (0, True)
    assert wall_thickness(without_rv).whole_mm == pytest.approx(8.6, abs=0.2)
    # The sense of the turn follows from the handedness of the grid.
    torch.testing.assert_close(
        without_rv.circumferential_unit, lv_coordinates(annulus(), SPACING, NORMAL).circumferential_unit
    )
    single = lv_coordinates(annulus(slices=1), SPACING, NORMAL)
    assert (single.flags, int(single.segment.max())) == (("too-few-slices-for-segments",), 0)
    nothing = lv_coordinates(torch.zeros(4, 8, 8, dtype=torch.uint8), SPACING, NORMAL)
    assert (nothing.flags, bool(nothing.wall.any())) == (("no-lv-wall",), False)
    assert wall_thickness(nothing).whole_mm is None


def test_gap_in_the_stack_does_not_change_segments_of_other_slices() -> None:
    labels = annulus(slices=9)
    gap = labels.clone()
    gap[4] = 0
    plain, found = (lv_coordinates(item, SPACING, NORMAL) for item in (labels, gap))
    kept = [0, 1, 2, 3, 5, 6, 7, 8]
    assert torch.equal(found.segment[kept], plain.segment[kept])


def test_aha_segment_of_positions() -> None:
    """Cerqueira 2002: anterior, anteroseptal, inferoseptal, inferior, inferolateral, anterolateral; then four."""
    degrees = torch.arange(30.0, 360.0, 60.0)
    assert aha_segment(torch.full((6,), 0.1), degrees).tolist() == [2, 3, 4, 5, 6, 1]
    assert aha_segment(torch.full((6,), 0.5), degrees).tolist() == [8, 9, 10, 11, 12, 7]
    assert aha_segment(torch.full((4,), 0.9), torch.tensor([60.0, 150.0, 240.0, 330.0])).tolist() == [14, 15, 16, 13]
    edges = torch.tensor([14.9, 15.1, 104.9, 105.1, 359.999, 0.0])
    assert aha_segment(torch.full((6,), 0.7), edges).tolist() == [13, 14, 14, 15, 13, 13]
    outside = aha_segment(torch.tensor([-0.01, 1.0, math.nan, 0.5]), torch.tensor([0.0, 0.0, 0.0, math.nan]))
    assert outside.tolist() == [0, 0, 0, 0]


def test_segments_are_centred_between_both_insertions() -> None:
    """A septum of 90° instead of 120°: 2 and 3 still meet in its middle, and the origin is before its anterior end."""
    z, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (6, 72, 72)), indexing="ij")
    y, x = (y - 35.5) * 1.5, (x - 35.5) * 1.5
    radius, angle = torch.hypot(y, x), torch.rad2deg(torch.atan2(-y, -x))
    labels = torch.zeros(z.shape, dtype=torch.uint8)
    labels[(radius < 45.0) & (angle < 60.0) & (angle > -30.0)] = Label.RV
    labels[radius < 33.0 * (1.0 - 0.02 * z)] = Label.MYO
    labels[radius < 24.0 * (1.0 - 0.02 * z)] = Label.LV
    found = lv_coordinates(labels, SPACING, NORMAL)
    true = 60.0 + 15.0 - angle
    assert float(degrees_between(found.circumferential_deg, true)[found.wall].abs().max()) < 3.0


def test_maximum_thickness_is_that_of_the_thickest_sector() -> None:
    """A ring of 9 mm with 15 mm over 60° of two of its slices, in the middle of segment 10."""
    labels = annulus()
    y, x = torch.meshgrid((torch.arange(72) - 35.5) * 1.5, (torch.arange(72) - 35.5) * 1.5, indexing="ij")
    past = (60.0 - torch.rad2deg(torch.atan2(-y, -x))) % 360.0
    thick = (past > 120.0) & (past < 180.0) & (torch.hypot(y, x) < 38.0) & (torch.hypot(y, x) > 23.0)
    for z in (2, 3):
        labels[z][thick] = Label.MYO
    found = maximum_thickness(lv_coordinates(labels, SPACING, NORMAL))
    assert found is not None
    assert found.mm == pytest.approx(15.0, abs=1.5)
    assert found.segment == 10
    plain = maximum_thickness(lv_coordinates(annulus(), SPACING, NORMAL))
    assert plain is not None
    assert plain.mm == pytest.approx(9.0, abs=0.8)
    assert maximum_thickness(lv_coordinates(torch.zeros_like(labels), SPACING, NORMAL)) is None
