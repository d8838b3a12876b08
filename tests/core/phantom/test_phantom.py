"""The phantom's motion is what it says it is: invertible, volume-keeping, cyclic, and the same in images and truth."""

import functools
import json
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
import torch

from cmnet_core.function.volumes import clinical_indices, volumes_ml
from cmnet_core.labels import Label
from cmnet_core.phantom import Defect, Phantom, PhantomSpec, draw_spec, make_phantom, spec_from_values, truth_of
from cmnet_core.phantom.ground_truth import Truth, aha_segment, deformation_gradient
from cmnet_core.phantom.kinematics import activation, pull_back, push_forward
from cmnet_core.phantom.scan_grid import affine_of, grid_points, heart_axes, slice_depths, to_heart, to_image
from cmnet_core.phantom.shape import Points, labels_at
from cmnet_core.registration.displacement import deformation_gradient as differences
from cmnet_core.registration.displacement import green_lagrange

SEEDS = (0, 1, 2, 3, 4, 5)


@functools.cache
def drawn(seed: int, *, frames: int = 10, defect: bool = False) -> PhantomSpec:
    return draw_spec(torch.Generator().manual_seed(seed), frames=frames, defect=defect)


def with_beat(spec: PhantomSpec, **changes: object) -> PhantomSpec:
    return replace(spec, beat=replace(spec.beat, **changes))  # type: ignore[arg-type]


def es_of(truth: Truth) -> int:
    return int(truth.volumes().lv_ml.argmin())


def cloud(count: int = 40_000) -> Points:
    """Random points in and far around the heart."""
    chance = torch.rand(3, count, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return Points(chance[0] * 260 - 160, chance[1] * 200 - 100, chance[2] * 220 - 90)


LATTICE_ML = 0.75 * 2.0 * 2.0 / 1000


def lattice() -> Points:
    """A regular grid over the heart, fine along the axis because the valve plane cuts across it."""
    along, y, x = (
        torch.arange(low, high, step, dtype=torch.float64)
        for low, high, step in ((-130, 25, 0.75), (-60, 60, 2.0), (-50, 90, 2.0))
    )
    return Points(*torch.meshgrid(along, y, x, indexing="ij"))


def determinant(gradient: torch.Tensor) -> torch.Tensor:
    return torch.linalg.det(gradient.flatten(2).permute(2, 0, 1))


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    spec = drawn(4, frames=8)
    small = replace(spec.scan, rows=110, columns=104, pixel_mm=1.9, ed=2)
    return make_phantom(replace(spec, scan=small), torch.Generator().manual_seed(4))


@pytest.mark.parametrize("seed", SEEDS)
def test_pull_back_undoes_carry_everywhere(seed: int) -> None:
    truth, points = truth_of(drawn(seed)), cloud()
    now = truth.at(es_of(truth))
    back = pull_back(truth.beat, now, push_forward(truth.beat, now, points))
    assert max(float((a - b).abs().max()) for a, b in zip(back, points, strict=True)) < 1e-6


@pytest.mark.parametrize("ef", [20.0, 75.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_folds(seed: int, ef: float) -> None:
    truth = truth_of(with_beat(drawn(seed), lvef_pct=min(ef, drawn(seed).beat.lvef_pct + 12)))
    assert float(determinant(deformation_gradient(truth.beat, truth.at(es_of(truth)), cloud())).min()) > 0.002


@pytest.mark.parametrize("seed", SEEDS)
def test_muscle_keeps_its_volume_in_every_point(seed: int) -> None:
    truth, points = truth_of(drawn(seed, defect=seed % 2 == 0)), cloud()
    wall = labels_at(truth.spec.heart, points) == Label.MYO
    muscle = Points(*(p[wall] for p in points))
    for frame in (1, 3, 6):
        d = determinant(deformation_gradient(truth.beat, truth.at(frame), muscle))
        torch.testing.assert_close(d, torch.ones_like(d), rtol=0, atol=1e-6)


def test_the_gradient_is_the_derivative_of_the_motion() -> None:
    truth, points = truth_of(drawn(2, defect=True)), cloud(4000)
    now, h = truth.at(3), 1e-5
    gradient = deformation_gradient(truth.beat, now, points)
    for axis, name in enumerate(Points._fields):
        ahead, behind = (
            push_forward(truth.beat, now, points._replace(**{name: getattr(points, name) + step})) for step in (h, -h)
        )
        numeric = torch.stack([(a - b) / (2 * h) for a, b in zip(ahead, behind, strict=True)])
        assert float((numeric - gradient[:, axis]).abs().quantile(0.999)) < 1e-4


def test_strain_is_that_of_the_deformation_gradient_in_image_axes(phantom: Phantom) -> None:
    truth, frame = phantom.truth, phantom.cine.es
    assert frame is not None
    strain = truth.strain(frame)
    tensor = green_lagrange(truth.deformation_gradient(frame))
    along = heart_axes(truth.spec.scan)[0].float()
    wall = phantom.labels.at(truth.spec.scan.ed) == Label.MYO
    ell = torch.einsum("a,abzyx,b->zyx", along, tensor, along)
    torch.testing.assert_close(strain.ell[wall], ell[wall], rtol=0, atol=1e-4)
    trace = torch.einsum("aazyx->zyx", tensor)
    torch.testing.assert_close((strain.err + strain.ecc + strain.ell)[wall], trace[wall], rtol=0, atol=1e-4)
    assert not strain.err[~wall].any()


def test_the_field_on_a_fine_grid_has_the_same_gradient() -> None:
    spec = drawn(3)
    fine = replace(
        spec.scan, slices=6, thickness_mm=1.0, gap_mm=0.0, pixel_mm=1.0, rows=90, columns=90, base_mm=-30.0,
        centre_x_mm=0.0, centre_y_mm=0.0, apex_first=False,
    )  # fmt: skip
    truth = truth_of(replace(spec, scan=fine))
    numeric, exact = differences(truth.from_ed(3)), truth.deformation_gradient(3)
    error = (numeric - exact)[:, :, 1:-1, 1:-1, 1:-1].abs()
    assert float(error.mean()) < 0.005
    assert float(error.flatten().quantile(0.99)) < 0.1


def test_masks_are_the_ed_shape_at_the_pull_back(phantom: Phantom) -> None:
    scan = phantom.spec.scan
    for frame in (0, 5):
        u = phantom.to_ed(frame).displacement_mm.double()
        z, y, x = (p.expand(u.shape[1:]) for p in to_image(scan, grid_points(scan, slice_depths(scan))))
        pulled = labels_at(phantom.spec.heart, to_heart(scan, z + u[0], y + u[1], x + u[2]))
        # Single and double precision may differ on the surfaces themselves.
        assert float((pulled != phantom.labels.at(frame)).float().mean()) < 1e-4


def test_both_fields_are_each_others_inverse(phantom: Phantom) -> None:
    scan, truth = phantom.spec.scan, phantom.truth
    u = phantom.to_ed(5).displacement_mm.double()
    here = [p.expand(u.shape[1:]) for p in to_image(scan, grid_points(scan, slice_depths(scan)))]
    at_ed = to_heart(scan, *(p + component for p, component in zip(here, u, strict=True)))
    there = to_image(scan, push_forward(truth.beat, truth.at(5), at_ed))
    assert max(float((a - b).abs().max()) for a, b in zip(there, here, strict=True)) < 0.05


def test_fields_name_their_frames(phantom: Phantom) -> None:
    ahead, back = phantom.from_ed(5), phantom.to_ed(5)
    assert (ahead.fixed, ahead.moving, back.fixed, back.moving) == (2, 5, 5, 2)


def test_the_cycle_closes_and_ed_may_be_any_frame(phantom: Phantom) -> None:
    truth = phantom.truth
    assert float(phantom.from_ed(2).displacement_mm.abs().max()) < 1e-5
    assert truth.at(2 + truth.spec.scan.frames) == truth.at(2)
    assert int(truth.volumes().lv_ml.argmax()) == 2 == phantom.cine.ed


@pytest.mark.parametrize("systole", [0.33, 0.42])
def test_the_volume_curve_is_smooth_and_has_one_minimum(systole: float) -> None:
    curve = torch.tensor([activation(i / 1000, systole_fraction=systole, early_fraction=0.75) for i in range(1001)])
    assert curve[0] == curve[-1] == 0
    assert float(curve.diff().abs().max()) < 0.008
    assert int(curve.argmax()) == pytest.approx(1000 * systole, abs=1)
    turns = (curve.diff().sign().diff() != 0) & (curve[1:-1] > 0.99)
    assert int(turns.sum()) <= 2


@pytest.mark.parametrize("seed", SEEDS)
def test_volumes_of_the_moving_shape_are_as_specified(seed: int) -> None:
    spec = drawn(seed, defect=seed % 2 == 1)
    truth, points = truth_of(spec), lattice()
    volumes = truth.volumes()
    for frame in (0, es_of(truth)):
        labels = labels_at(spec.heart, pull_back(truth.beat, truth.at(frame), points))
        lv, myo, rv = (float((labels == k).sum()) * LATTICE_ML for k in (Label.LV, Label.MYO, Label.RV))
        assert lv == pytest.approx(float(volumes.lv_ml[frame]), rel=0.015)
        assert myo == pytest.approx(float(volumes.myo_ml[frame]), rel=0.02)
        assert rv == pytest.approx(float(volumes.rv_ml[frame]), rel=0.025)


@pytest.mark.parametrize("seed", SEEDS)
def test_both_ventricles_pump_what_the_spec_says(seed: int) -> None:
    spec = drawn(seed, frames=50)
    truth = truth_of(spec)
    indices = clinical_indices(truth.volumes(), ed=0, es=es_of(truth))
    assert indices.lvef_pct == pytest.approx(spec.beat.lvef_pct, abs=0.5)
    assert indices.lvsv_ml is not None
    assert indices.rvsv_ml == pytest.approx(indices.lvsv_ml * spec.beat.rv_to_lv_stroke, rel=0.01)


def test_masks_on_the_stack_come_near(phantom: Phantom) -> None:
    es = phantom.cine.es
    assert es is not None
    sampled = clinical_indices(volumes_ml(phantom.labels.labels, phantom.cine.spacing), ed=2, es=es)
    exact = clinical_indices(phantom.truth.volumes(), ed=2, es=es)
    assert sampled.lvef_pct == pytest.approx(exact.lvef_pct, abs=6)
    assert sampled.lvedv_ml == pytest.approx(exact.lvedv_ml, rel=0.1)


@pytest.mark.parametrize("segment", [2, 5, 8, 11, 14, 16])
def test_a_defect_moves_less_than_the_same_segment_without(segment: int) -> None:
    healthy = with_beat(drawn(1), defect=None, lvef_pct=55.0)
    ill = with_beat(healthy, defect=Defect(segment=segment, severity=0.8))
    es = es_of(truth_of(healthy))
    before, after = (truth_of(spec).segment_strain() for spec in (healthy, ill))
    column = segment - 1
    assert after.ecc[es, column].abs() < 0.7 * before.ecc[es, column].abs()
    assert after.err[es, column] < 0.7 * before.err[es, column]
    away = (segment + 2) % 6 if segment <= 12 else (segment - 13 + 2) % 4 + 12
    assert after.ecc[es, away] < before.ecc[es, away] * 0.95


def test_strain_has_the_signs_and_sizes_of_a_healthy_heart() -> None:
    spec = with_beat(drawn(2), lvef_pct=60.0, defect=None)
    truth = truth_of(replace(spec, heart=replace(spec.heart, wall_mm=8.0)))
    strain, es = truth.segment_strain(), es_of(truth)
    assert strain.ecc.shape == (10, 16)
    assert -0.32 < float(strain.ecc[es].mean()) < -0.12
    assert 0.3 < float(strain.err[es].mean()) < 1.3
    assert -0.25 < float(strain.ell[es].mean()) < -0.08
    torch.testing.assert_close(strain.ecc[0], torch.zeros(16), rtol=0, atol=1e-6)


def test_segments_are_centred_on_the_septum() -> None:
    heart = replace(drawn(0).heart, rv_insertion_deg=65.0)
    angles = torch.deg2rad(torch.tensor([59.0, -1.0, -61.0, -121.0, 179.0, 61.0], dtype=torch.float64))
    ring = [Points(torch.full_like(angles, -s), 30 * angles.sin(), 30 * angles.cos()) for s in (5.0, 40.0)]
    assert aha_segment(heart, ring[0]).tolist() == [2, 3, 4, 5, 6, 1]
    assert aha_segment(heart, ring[1]).tolist() == [8, 9, 10, 11, 12, 7]
    quarters = torch.deg2rad(torch.tensor([0.0, -90.0, -180.0, 90.0], dtype=torch.float64))
    low = Points(torch.full_like(quarters, -0.8 * heart.cavity_length_mm), quarters.sin(), quarters.cos())
    assert aha_segment(heart, low).tolist() == [14, 15, 16, 13]


@pytest.mark.parametrize("apex_first", [True, False])
def test_the_apex_turns_counter_clockwise_on_the_display(apex_first: bool) -> None:  # noqa: FBT001
    spec = drawn(0)
    scan = replace(spec.scan, apex_first=apex_first, tilt_x_deg=0.0, tilt_y_deg=0.0)
    truth = truth_of(with_beat(replace(spec, scan=scan), apical_rotation_deg=10.0, basal_rotation_deg=-4.0))
    now = truth.at(3)
    for s, up in ((-0.9 * spec.heart.cavity_length_mm, -1.0), (-3.0, 1.0)):
        start = Points(*torch.tensor([s, 0.0, -12.0], dtype=torch.float64))
        before, after = to_image(scan, start), to_image(scan, push_forward(truth.beat, now, start))
        right, down = before[2] - to_image(scan, start._replace(x=-start.x))[2], after[1] - before[1]
        assert float(right) * float(down) * up > 0


@pytest.mark.parametrize("apex_first", [True, False])
def test_the_affine_puts_the_apex_left_forward_and_down(apex_first: bool) -> None:  # noqa: FBT001
    scan = replace(drawn(0).scan, apex_first=apex_first)
    affine = affine_of(scan)
    widths = affine[:3, :3].norm(dim=0)
    torch.testing.assert_close(widths, torch.tensor([scan.slice_mm, scan.pixel_mm, scan.pixel_mm], dtype=torch.float64))
    to_apex = affine[:3, 0] / widths[0] * (-1 if apex_first else 1)
    assert bool((to_apex * torch.tensor([-1.0, 1.0, -1.0]) > 0.2).all())
    # Columns are (z, y, x): a stack that runs from base to apex has the handedness of x, y and the view's depth.
    assert (float(torch.linalg.det(affine)) > 0) is (not apex_first)


def test_a_seed_decides_everything() -> None:
    def made(seed: int) -> Phantom:
        spec = draw_spec(torch.Generator().manual_seed(seed), frames=2, defect=True)
        spec = replace(spec, scan=replace(spec.scan, rows=96, columns=80, slices=4))
        return make_phantom(spec, torch.Generator().manual_seed(seed))

    first, again = made(8), made(8)
    assert first.spec == again.spec
    assert torch.equal(first.cine.voxels, again.cine.voxels)
    assert torch.equal(first.labels.labels, again.labels.labels)
    assert made(9).spec != first.spec


def test_a_spec_survives_json() -> None:
    for defect in (True, False):
        spec = drawn(3, defect=defect)
        assert spec_from_values(json.loads(json.dumps(asdict(spec)))) == spec


def test_images_show_blood_bright_muscle_dark_and_lung_black(phantom: Phantom) -> None:
    for frame in range(phantom.cine.frames):
        image, labels = phantom.cine.voxels[frame], phantom.labels.at(frame)
        lv, myo, rv = (float(image[labels == k].median()) for k in (Label.LV, Label.MYO, Label.RV))
        assert lv > 1.6 * myo
        assert rv > 1.4 * myo
    assert float(phantom.cine.voxels.min()) >= 0


def _every(seed_of: Callable[[PhantomSpec], float]) -> list[float]:
    return [seed_of(drawn(seed)) for seed in range(40)]


def test_subjects_differ_as_people_do() -> None:
    assert min(_every(lambda s: s.beat.lvef_pct)) < 30 < 65 < max(_every(lambda s: s.beat.lvef_pct))
    assert all(20 <= ef <= 75 for ef in _every(lambda s: s.beat.lvef_pct))
    assert all(5 <= mm <= 10.01 for mm in _every(lambda s: s.scan.slice_mm))
    assert all(1.2 <= mm <= 1.9 for mm in _every(lambda s: s.scan.pixel_mm))
    assert all(299 <= s <= 381 for s in _every(lambda s: s.scan.rows * s.scan.pixel_mm))
    assert all(18 < mm < 36 for mm in _every(lambda s: s.heart.cavity_radius_mm))
    assert len({drawn(seed).scan.apex_first for seed in range(40)}) == 2
