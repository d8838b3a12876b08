"""Strain against closed forms: homogeneous deformations, a contracting ring, turning, and random phantoms."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks import strain as benchmark
from cmnet_core.errors import GeometryError
from cmnet_core.geometry.lv_coordinates import LVCoordinates, lv_coordinates
from cmnet_core.inference.composition import fields_to_ed
from cmnet_core.labels import Label
from cmnet_core.mechanics.lagrangian import MaterialMotion, flow_points, follow_material
from cmnet_core.mechanics.line_strain import LineStrain, is_closed, line_strain
from cmnet_core.mechanics.rotation import rotation
from cmnet_core.mechanics.strain import (
    Direction,
    WallVoxels,
    deform,
    engineering_strain,
    mean_strain,
    regional_strain,
    wall_voxels,
)
from cmnet_core.mechanics.strain_operator import strain_operator
from cmnet_core.mechanics.ukb_strain import peak_of, ukb_strain
from cmnet_core.models.build import MotionSizes
from cmnet_core.types import MotionField, Spacing

FINE, COARSE = Spacing(8.0, 0.8, 0.9), Spacing(5.0, 1.6, 1.5)
INNER_MM, OUTER_MM, HEIGHT_MM = 22.0, 31.0, 48.0


def tube(spacing: Spacing, *, axis_first: bool = True) -> tuple[Tensor, LVCoordinates, Tensor]:
    """A straight LV with an RV beside it: labels, coordinates, and places in mm from a point of its axis."""
    shape = (round(HEIGHT_MM / spacing.z), *(2 * round(40.0 / mm) for mm in spacing.zyx[1:]))
    axes = [torch.arange(n, dtype=torch.float64) * mm for n, mm in zip(shape, spacing.zyx, strict=True)]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    places = places - torch.tensor([0.0, 40.3, 39.6], dtype=torch.float64)[:, None, None, None]
    radius = torch.hypot(places[1], places[2])
    labels = torch.zeros(shape, dtype=torch.uint8)
    # The RV is larger at the base, so that base and apex can be distinguished.
    labels[(places[2] < -5.0) & (torch.hypot(places[1], places[2] + 14.0) < 28.0 - 0.1 * places[0])] = Label.RV
    labels[radius < OUTER_MM] = Label.MYO
    labels[radius < INNER_MM] = Label.LV
    affine = torch.diag(torch.tensor([*spacing.zyx, 1.0], dtype=torch.float64))[[2, 1, 0, 3]]
    return labels, lv_coordinates(labels, spacing, affine), places


def pushed_forward(field: MotionField, mask: Tensor) -> MaterialMotion:
    """The mask's material moved by one field that is fixed at ED, whose displacement is that of the material."""
    displacement = field.displacement_mm[:, mask].T.double()
    frames = (field.fixed, field.moving)
    return MaterialMotion(
        torch.stack([torch.zeros_like(displacement), displacement]), frames, mask, field.spacing, field.fixed
    )


def moved(spacing: Spacing, motion: Callable[[Tensor], Tensor]) -> tuple[WallVoxels, MaterialMotion, Tensor]:
    """The tube's wall, its motion by a map of positions, and the wall's positions from the axis."""
    labels, coordinates, places = tube(spacing)
    field = MotionField((motion(places) - places).float(), spacing, fixed=0, moving=1)
    material = pushed_forward(field, labels == Label.MYO)
    return wall_voxels(coordinates, material.mask, spacing), material, places[:, material.mask].T


def homogeneous(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda places: torch.einsum("ij,j...->i...", matrix, places)


def contracting(area_mm2: float) -> Callable[[Tensor], Tensor]:
    """A ring that keeps its volume: r² = R² - c."""

    def contracted(places: Tensor) -> Tensor:
        squared = (places[1] ** 2 + places[2] ** 2).clamp_min(1.2 * area_mm2)
        scale = (1.0 - area_mm2 / squared).sqrt()
        return torch.stack([places[0], scale * places[1], scale * places[2]])

    return contracted


STRETCH = torch.diag(torch.tensor([0.85, 1.2, 0.9], dtype=torch.float64))
SHEAR = torch.tensor([[1.0, 0.0, 0.0], [0.3, 1.0, 0.2], [0.0, 0.0, 1.0]], dtype=torch.float64)
TURN = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.8, -0.6], [0.0, 0.6, 0.8]], dtype=torch.float64)
TIP = torch.tensor([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    "matrix",
    [STRETCH, SHEAR, TURN, TURN @ TIP, SHEAR @ STRETCH],
    ids=["stretch", "shear", "turn", "turned twice", "stretch and shear"],
)
def test_strain_of_homogeneous_deformations_has_its_closed_form(matrix: Tensor) -> None:
    wall, material, _ = moved(COARSE, homogeneous(matrix))
    found = deform(wall, material)
    tensor = 0.5 * (matrix.T @ matrix - torch.eye(3, dtype=torch.float64))
    expected = torch.einsum("ndi,ij,ndj->dn", wall.directions, tensor, wall.directions)
    torch.testing.assert_close(found.gradient[1], matrix.expand_as(found.gradient[1]), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.strain[:, 1], expected, rtol=0, atol=1e-4)
    assert float(found.strain[:, 0].abs().max()) < 1e-6


def test_mean_strain_of_a_contracting_ring_has_its_closed_form() -> None:
    area = 220.0
    wall, material, places = moved(FINE, contracting(area))
    squared = places[:, 1].square() + places[:, 2].square()
    expected = torch.stack([0.5 * (squared / (squared - area) - 1.0), -0.5 * area / squared])
    found = deform(wall, material).strain[:, 1]
    ventricular = wall.ventricular
    torch.testing.assert_close(found[:2, ventricular].mean(1), expected[:, ventricular].mean(1), rtol=0, atol=1e-4)
    assert float((found[:2] - expected).abs().max()) < 4e-3  # of a single voxel at the edge; the strain there is 0.4
    assert float(found[Direction.LONGITUDINAL].abs().max()) < 1e-6
    strain = regional_strain(wall, deform(wall, material))
    radial, circumferential = strain.layers[: Direction.LONGITUDINAL, 1]
    assert radial[0] > radial[1] > radial[2] > 0 > circumferential[2] > circumferential[1] > circumferential[0]
    assert float((strain.segments[Direction.CIRCUMFERENTIAL, 1] - strain.whole[1, 1]).abs().max()) < 0.5


def test_displacement_outside_the_wall_does_not_change_strain() -> None:
    labels, coordinates, places = tube(COARSE)
    mask = labels == Label.MYO
    displacement = homogeneous(STRETCH)(places) - places
    displacement[:, ~mask] = 500.0
    material = pushed_forward(MotionField(displacement.float(), COARSE, fixed=0, moving=1), mask)
    found = deform(wall_voxels(coordinates, mask, COARSE), material)
    torch.testing.assert_close(found.gradient[1], STRETCH.expand_as(found.gradient[1]), rtol=0, atol=1e-4)


def test_strain_does_not_depend_on_voxel_spacing() -> None:
    found = []
    for spacing in (FINE, COARSE):
        wall, material, _ = moved(spacing, lambda p: homogeneous(SHEAR)(contracting(180.0)(p)))
        found.append(regional_strain(wall, deform(wall, material)))
    assert (
        float((found[0].whole - found[1].whole).abs().max()) < 0.6
    )  # percentage points; the edge voxels are not the same
    assert float((found[0].segments - found[1].segments)[:, 1].abs().max()) < 2.0


def test_rigid_motion_has_no_strain_and_its_own_rotation() -> None:
    wall, material, _ = moved(COARSE, lambda p: homogeneous(TURN)(p) + 3.0)
    assert float(deform(wall, material).strain.abs().max()) < 1e-4
    found = rotation(wall, material)
    turned = math.degrees(math.atan2(0.6, 0.8))
    assert abs(float(found.basal_deg[1])) == pytest.approx(turned, abs=1e-3)
    assert float(found.apical_deg[1]) == pytest.approx(float(found.basal_deg[1]), abs=1e-3)
    assert float(found.twist_deg.abs().max()) < 1e-3
    lines = line_strain(wall, material, deform(wall, material))
    assert max(float(line.abs().max()) for line in (lines.endo_pct, lines.midwall_pct, lines.epi_pct)) < 1e-2


def twisted(places: Tensor, *, deg_cm: float) -> Tensor:
    angle = torch.deg2rad(deg_cm * places[0] / 10.0)
    y, x = places[1], places[2]
    return torch.stack([places[0], y * angle.cos() - x * angle.sin(), y * angle.sin() + x * angle.cos()])


def test_torsion_is_the_slope_of_the_rotation_along_the_axis() -> None:
    wall, material, _ = moved(COARSE, lambda p: twisted(p, deg_cm=1.5))
    found = rotation(wall, material)
    assert abs(float(found.torsion_deg_cm[1])) == pytest.approx(1.5, abs=1e-3)
    # The circumferential direction says which sense is positive: tissue that moves along it has turned that way.
    apical = wall.longitudinal > 0.8
    along = (material.displacement_mm[1] * wall.directions[:, Direction.CIRCUMFERENTIAL]).sum(-1)[apical].mean()
    assert float(along) * float(found.apical_deg[1]) > 0
    assert float(found.twist_deg[1]) == pytest.approx(float(found.apical_deg[1] - found.basal_deg[1]))
    # A line along the wall's middle that was longitudinal leans by γ, tan γ = radius times angle per length.
    leaning = math.degrees(math.atan(0.5 * (INNER_MM + OUTER_MM) * math.radians(1.5) / 10.0))
    assert abs(float(found.shear_deg[1])) == pytest.approx(leaning, abs=0.03)
    assert float(found.shear_deg[1] * found.torsion_deg_cm[1]) > 0


def test_one_voxel_in_every_direction_closes_a_ring() -> None:
    labels, coordinates, places = tube(FINE)
    mask = labels == Label.MYO
    wall = wall_voxels(coordinates, mask, FINE)
    y, x = places[1:, mask]
    # The voxel next to the middle of each of 24 directions, at half the wall.
    middle = torch.arange(24, dtype=torch.float64)[:, None] * (math.pi / 12) + math.pi / 24
    radius = 0.5 * (INNER_MM + OUTER_MM)
    distance = torch.hypot(y - radius * middle.sin(), x - radius * middle.cos()) + 1e3 * (wall.slice_index != 2)
    ring = torch.zeros_like(wall.ventricular)
    ring[distance.argmin(1)] = True
    assert int(ring.sum()) == 24
    assert is_closed(wall, ring)
    ring[distance.argmin(1)[5]] = False
    assert not is_closed(wall, ring)


def test_line_strain_of_contours_is_their_change_of_length() -> None:
    shrunk = torch.diag(torch.tensor([1.0, 0.8, 0.8], dtype=torch.float64))
    wall, material, _ = moved(COARSE, homogeneous(shrunk))
    lines = line_strain(wall, material, deform(wall, material))
    for line in (lines.endo_pct, lines.midwall_pct, lines.epi_pct):
        assert line.tolist() == pytest.approx([0.0, -20.0], abs=1e-3)
    area = 220.0
    wall, material, _ = moved(FINE, contracting(area))
    lines = line_strain(wall, material, deform(wall, material))
    for line, radius in ((lines.endo_pct, INNER_MM), (lines.midwall_pct, 26.5), (lines.epi_pct, OUTER_MM)):
        assert float(line[1]) == pytest.approx(100.0 * (math.sqrt(radius**2 - area) / radius - 1.0), abs=0.3)


def leaning(places: Tensor) -> Tensor:
    """Contraction of the ring, a shear in its plane, and a displacement through the plane that varies around it."""
    y, x = contracting(220.0)(places)[1:]
    return torch.stack([places[0] + 0.2 * places[1], y + 0.1 * x + 4.0, x - 0.05 * y])


@pytest.mark.parametrize("motion", [contracting(220.0), leaning], ids=["contraction", "contraction and shear"])
def test_ukb_strain_is_that_of_the_published_definition(motion: Callable[[Tensor], Tensor]) -> None:
    """Line elements of both circles, and 36 chords between them, each weighted alike; lengths in the plane."""
    radii = (INNER_MM, OUTER_MM)
    around = [torch.arange(4 * round(r), dtype=torch.float64) * (2 * math.pi / (4 * round(r))) for r in radii]
    circles = [torch.stack([torch.zeros_like(a), r * a.sin(), r * a.cos()]) for r, a in zip(radii, around, strict=True)]
    chord = torch.arange(36, dtype=torch.float64) * (2 * math.pi / 36)
    ends = [torch.stack([torch.zeros_like(chord), r * chord.sin(), r * chord.cos()]) for r in radii]

    def changes(start: Tensor, end: Tensor) -> Tensor:
        before, after = ((b - a)[1:].norm(dim=0) for a, b in ((start, end), (motion(start), motion(end))))
        return 100.0 * (after / before - 1.0)

    expected = float(torch.cat([changes(c, c.roll(-1, 1)) for c in circles]).mean()), float(changes(*ends).mean())
    wall, material, _ = moved(FINE, motion)
    found = ukb_strain(wall, material, deform(wall, material))
    assert float(found.circumferential_pct[0]) == float(found.radial_pct[0]) == 0.0
    assert float(found.circumferential_pct[1]) == pytest.approx(expected[0], abs=0.3)
    assert float(found.radial_pct[1]) == pytest.approx(expected[1], abs=0.3)
    assert bool(found.circumferential_segments_pct.isfinite().all())
    assert bool(found.radial_segments_pct.isfinite().all())


def test_ukb_strain_of_a_segment_is_that_of_its_sector_and_level() -> None:
    """Only the sector that shrinks has strain, and the peak is the extreme over all frames, without smoothing."""
    wall, material, _ = moved(FINE, contracting(220.0))
    weaker = torch.where((wall.segment == 9)[:, None], 0.0, 1.0) * material.displacement_mm
    found = ukb_strain(wall, replace(material, displacement_mm=weaker), deform(wall, material))
    segments = found.circumferential_segments_pct[1]
    assert int(segments.argmax()) + 1 == 9
    assert peak_of(torch.tensor([0.0, -3.0, -21.0, -5.0]), sign=-1.0) == -21.0
    assert peak_of(torch.tensor([0.0, torch.nan]), sign=1.0) is None


def test_lagrangian_motion_inverts_consecutive_pull_backs() -> None:
    """Two steps of different stretches: ED material ends where the inverse of both pull-backs leads."""
    labels, _, places = tube(COARSE)
    mask = labels == Label.MYO
    first, second = torch.linalg.inv(STRETCH), torch.linalg.inv(SHEAR)
    steps = [
        MotionField((homogeneous(back)(places) - places).float(), COARSE, fixed=fixed, moving=fixed - 1)
        for fixed, back in ((3, first), (4, second))
    ]
    found = follow_material(steps, mask)
    inner = (places[0] > 15.0) & (places[0] < 30.0)  # nothing is known beyond the stack's ends
    expected = (homogeneous(SHEAR @ STRETCH)(places) - places)[:, mask].T
    kept = inner[mask]
    assert (found.frames, found.ed) == ((2, 3, 4), 2)
    assert not found.displacement_mm[0].any()
    torch.testing.assert_close(found.displacement_mm[2][kept], expected[kept], rtol=0, atol=0.02)


def test_lagrangian_motion_converges_where_a_cavity_nearly_closes_in_one_step() -> None:
    """The pull-back stretches fourfold around the endocardium and presses to a quarter across it."""
    labels, _, places = tube(COARSE)
    mask = labels == Label.MYO
    shrunk = torch.diag(torch.tensor([1.0, 0.25, 0.9], dtype=torch.float64))
    back = MotionField((homogeneous(torch.linalg.inv(shrunk))(places) - places).float(), COARSE, fixed=1, moving=0)
    found = follow_material([back], mask).displacement_mm[1]
    torch.testing.assert_close(found, (homogeneous(shrunk)(places) - places)[:, mask].T, rtol=0, atol=0.01)


def half_resolution(places: Tensor) -> Tensor:
    """Positions in mm of a grid of half the in-plane resolution with the same outer edges."""
    return torch.nn.functional.avg_pool2d(places.movedim(1, 0), 2).movedim(0, 1)


def linear_velocities(matrix: Tensor, places: Tensor) -> Tensor:
    """A velocity that is linear in the position, in voxels of half the in-plane resolution, and then zero for ED."""
    size = torch.tensor([COARSE.z, 2.0 * COARSE.y, 2.0 * COARSE.x], dtype=torch.float64)[:, None, None, None]
    velocity = homogeneous(matrix)(half_resolution(places)) / size
    return torch.stack([velocity, 0.0 * velocity]).float()


def test_paths_along_a_velocity_end_where_its_integrated_field_leads() -> None:
    """A velocity at half the in-plane resolution, the same in all slices, whose exponential is accurate on the grid."""
    labels, _, places = tube(COARSE)
    mask = labels == Label.MYO
    inward = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.15, 0.1], [0.0, -0.1, 0.15]], dtype=torch.float64)
    velocities = linear_velocities(inward, places)
    sizes = MotionSizes(integration_steps=7, output_level=1)
    expected = follow_material(fields_to_ed(velocities, COARSE, ed=1, sizes=sizes), mask).displacement_mm[0]
    factor = torch.tensor([1.0, 2.0, 2.0])
    points = (mask.nonzero() + 0.5) / factor - 0.5
    found = flow_points(velocities[:1], points, path_steps=4)[0] * factor * torch.tensor(COARSE.zyx)
    assert float(expected.norm(dim=-1).mean()) > 3.0
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.05)


def test_the_strain_operator_of_velocities_gives_the_strain_of_their_exponential() -> None:
    """A linear velocity v = Ax in another frame moves material by exp(-A), so that F is known."""
    labels, coordinates, places = tube(COARSE)
    mask = labels == Label.MYO
    wall = wall_voxels(coordinates, mask, COARSE)
    rates = torch.tensor([[0.0, 0.02, 0.01], [0.0, 0.12, 0.1], [0.0, -0.06, 0.04]], dtype=torch.float64)
    velocities = linear_velocities(rates, places)
    operator = strain_operator(wall, mask, COARSE, size=(int(velocities.shape[3]), int(velocities.shape[4])))
    found = operator.strains(velocities, ed=1)

    field = MotionField(
        (homogeneous(torch.linalg.matrix_exp(-rates))(places) - places).float(), COARSE, fixed=1, moving=0
    )
    motion = pushed_forward(field, mask)
    motion = replace(motion, displacement_mm=motion.displacement_mm.flip(0), frames=(0, 1))
    deformation = deform(wall, motion)
    green, lines = regional_strain(wall, deformation), line_strain(wall, motion, deformation)
    engineering = mean_strain(wall, engineering_strain(deformation.strain))
    assert float(green.whole[Direction.CIRCUMFERENTIAL, 0]) < -5.0
    for one, expected in ((found.green, green), (found.engineering, engineering)):
        for part in ("whole", "layers", "levels", "segments"):
            values, true = getattr(one, part), getattr(expected, part)
            torch.testing.assert_close(values[:2].double(), true[:2], rtol=0, atol=0.15)
            assert bool(values[Direction.LONGITUDINAL].isnan().all())
    for name in ("endo_pct", "midwall_pct", "epi_pct"):
        torch.testing.assert_close(getattr(found.lines, name).double(), getattr(lines, name), rtol=0, atol=0.15)


def test_fields_that_do_not_meet_are_refused() -> None:
    labels, coordinates, _ = tube(COARSE)
    mask = labels == Label.MYO
    still = torch.zeros(3, *mask.shape)
    to_1, to_3 = (MotionField(still, COARSE, fixed=fixed, moving=fixed - 1) for fixed in (1, 3))
    with pytest.raises(GeometryError, match="does not continue"):
        follow_material([to_1, to_3], mask)
    with pytest.raises(GeometryError, match="do not fit"):
        follow_material([to_1], mask[:-1])
    with pytest.raises(GeometryError, match="do not fit"):
        wall_voxels(coordinates, mask[:-1], COARSE)
    other = follow_material([to_1], labels == Label.LV)
    with pytest.raises(GeometryError, match="cannot be moved"):
        deform(wall_voxels(coordinates, mask, COARSE), other)
    with pytest.raises(GeometryError, match="ED included"):
        MaterialMotion(torch.zeros(1, 4, 3).double(), (0,), mask, COARSE, 0)


def test_one_slice_has_no_longitudinal_strain() -> None:
    labels, _, places = tube(COARSE)
    mask, middle = labels[5:6] == Label.MYO, places[:, 5:6]
    affine = torch.diag(torch.tensor([*COARSE.zyx, 1.0], dtype=torch.float64))[[2, 1, 0, 3]]
    field = MotionField((homogeneous(STRETCH)(middle) - middle).float(), COARSE, fixed=0, moving=1)
    material = pushed_forward(field, mask)
    wall = wall_voxels(lv_coordinates(labels[5:6], COARSE, affine), mask, COARSE)
    strain = regional_strain(wall, deform(wall, material))
    assert strain.whole[Direction.LONGITUDINAL].isnan().all()
    assert strain.whole[: Direction.LONGITUDINAL].isfinite().all()
    assert strain.segments.isnan().all()
    assert rotation(wall, material).twist_deg.isnan().all()


def test_empty_wall_has_only_nan() -> None:
    labels, _, _ = tube(COARSE)
    empty = torch.zeros_like(labels)
    affine = torch.eye(4, dtype=torch.float64)
    still = MotionField(torch.zeros(3, *empty.shape), COARSE, fixed=1, moving=0)
    material = follow_material([still], empty == Label.MYO)
    wall = wall_voxels(lv_coordinates(empty, COARSE, affine), material.mask, COARSE)
    deformation = deform(wall, material)
    assert regional_strain(wall, deformation).whole.isnan().all()
    lines: LineStrain = line_strain(wall, material, deformation)
    assert lines.endo_pct.isnan().all()
    assert rotation(wall, material).basal_deg.isnan().all()
    assert ukb_strain(wall, material, deformation).radial_segments_pct.isnan().all()


def test_strain_of_random_phantoms_through_their_true_motion() -> None:
    """Four of the forty of ``benchmarks/strain.py``, which prints what all of them give."""
    for number in range(4):
        one = benchmark.measure(benchmark.draw(4, number, 6))
        assert one.weakest == one.defect
        for name, bar in benchmark.BARS.items():
            assert one.found[name] == pytest.approx(one.true[name], abs=bar)
        assert one.found["torsion"] == pytest.approx(one.true["torsion"], rel=0.1)


def test_engineering_strain_is_the_change_of_length() -> None:
    stretch = torch.tensor([1.0, 1.2, 0.7], dtype=torch.float64)
    torch.testing.assert_close(engineering_strain((stretch.square() - 1) / 2), stretch - 1)
