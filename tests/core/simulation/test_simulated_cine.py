"""Simulated cines: their motion is known, cyclic and free of folds, and images, masks and strain agree with it."""

from dataclasses import replace

import pytest
import torch

from cmnet_core.errors import LabelError
from cmnet_core.function.volumes import volumes_ml
from cmnet_core.labels import Label
from cmnet_core.registration.displacement import jacobian_determinant, propagate
from cmnet_core.simulation import cine as cine_module
from cmnet_core.simulation.cine import SimulatedCine, TangentialMotion, fit_motion, fit_voxel_axis, simulate_cine
from cmnet_core.simulation.ground_truth import wall_strain
from cmnet_core.simulation.mask_registration import exponential_in_plane, upsample_field, warp_slices
from cmnet_core.stats.metrics import dice_pct
from cmnet_core.types import Spacing
from tests.phantoms import beating_circles

SPACING = Spacing(z=8.0, y=2.0, x=2.0)
FRAMES = 8
TANGENTIAL = TangentialMotion(basal_deg=-5.0, apical_deg=11.0, descent_mm=5.0)


def heart(frame: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return image and mask of circles whose radii decrease by 6 % per slice, between two slices without a heart."""
    slices = [
        beating_circles(frames=2, slices=1, size=64, spacing=SPACING, lv_mm=20.0 * (1.0 - 0.06 * z)) for z in range(4)
    ]
    image = torch.cat([cine.voxels[frame] for cine, _ in slices]) / 1000
    mask = torch.cat([labels.labels[frame] for _, labels in slices])
    empty = torch.zeros_like(mask[:1])
    return torch.cat([empty.float(), image, empty.float()]), torch.cat([empty, mask, empty])


@pytest.fixture(scope="module")
def velocity() -> torch.Tensor:
    return fit_motion(heart(0)[1], heart(1)[1], SPACING)


def make(velocity: torch.Tensor, seed: int = 3) -> SimulatedCine:
    return simulate_cine(*heart(0), velocity, SPACING, frames=FRAMES, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def simulated(velocity: torch.Tensor) -> SimulatedCine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cine_module, "draw_tangential_motion", lambda *_, **__: TANGENTIAL)
        return make(velocity)


def test_motion_of_ed_is_zero_and_the_cycle_returns_to_it(simulated: SimulatedCine) -> None:
    assert float(simulated.to_ed[0].displacement_mm.abs().max()) < 1e-4
    assert torch.equal(simulated.labels[0], heart(0)[1])
    course, es = cine_module.volume_course(50)
    assert course[0] == 0.0
    assert course[es] == max(course) == 1.0
    assert course[-1] < 0.05


def test_simulated_es_matches_the_es_mask(velocity: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cine_module, "draw_tangential_motion", lambda *_, **__: TangentialMotion(0.0, 0.0, 0.0))
    simulated, es_mask = make(velocity), heart(1)[1]
    for label in (Label.LV, Label.MYO, Label.RV):
        unmoved, warped = (
            dice_pct(labels, es_mask, label) for labels in (simulated.labels[0], simulated.labels[simulated.es])
        )
        assert unmoved is not None
        assert warped is not None
        assert warped > max(unmoved, 85.0)
    assert int(volumes_ml(simulated.labels, SPACING).lv_ml.argmin()) == simulated.es


def test_simulated_motion_does_not_fold(simulated: SimulatedCine) -> None:
    assert min(float(jacobian_determinant(field).min()) for field in simulated.to_ed) > 0


def test_images_and_masks_are_warped_by_the_same_motion(simulated: SimulatedCine) -> None:
    image, mask = heart(0)
    for field, voxels, labels in zip(simulated.to_ed, simulated.voxels, simulated.labels, strict=True):
        assert float((propagate(image[None], field)[0] - voxels).abs().max()) < 1e-4
        one_hot = torch.stack([mask == label for label in Label]).float()
        assert torch.equal(propagate(one_hot, field).argmax(0).to(torch.uint8), labels)


def test_exponential_of_the_negated_velocity_is_the_inverse(velocity: torch.Tensor) -> None:
    """The error of two interpolated exponentials is below 0.1 voxels in the mean and below 0.5 voxels everywhere."""
    fine = upsample_field(velocity[1:].movedim(1, 0))
    there, back = exponential_in_plane(fine), exponential_in_plane(-fine)
    round_trip = there + warp_slices(back, there)
    error = round_trip.norm(dim=1)[heart(0)[1] != Label.BACKGROUND]
    assert float(error.mean()) < 0.1
    assert float(error.max()) < 0.5
    assert float(there.abs().max()) > 1.0


def test_twist_is_in_the_motion_field(
    simulated: SimulatedCine, velocity: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The apex rotates counter-clockwise on the display, from the bottom to the right."""
    monkeypatch.setattr(cine_module, "draw_tangential_motion", lambda *_, **__: TangentialMotion(0.0, 0.0, 0.0))
    untwisted = make(velocity)
    axis = fit_voxel_axis(simulated.labels[0])
    for z, expected in ((axis.base + 1, -5.0 + 16.0 / 3), (axis.apex, 11.0)):
        rotation = rotation_deg(simulated, z) - rotation_deg(untwisted, z)
        assert rotation == pytest.approx(expected, abs=1.0)


def rotation_deg(simulated: SimulatedCine, z: int) -> float:
    """Return the mean rotation of the wall of one slice from ED to ES, from y towards x."""
    wall = (simulated.labels[simulated.es][z] == Label.MYO).nonzero().float()
    u = simulated.to_ed[simulated.es].displacement_mm[1:, z, wall[:, 0].long(), wall[:, 1].long()].T / 2.0
    centre = fit_voxel_axis(simulated.labels[0]).centres(simulated.labels.shape[1])[z]
    now, at_ed = wall - centre, wall + u - centre
    cross = at_ed[:, 0] * now[:, 1] - at_ed[:, 1] * now[:, 0]
    return float(torch.rad2deg(torch.atan2(cross, (at_ed * now).sum(1))).mean())


def test_base_moves_towards_the_apex_in_either_slice_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cine_module, "draw_tangential_motion", lambda *_, **__: TANGENTIAL)
    image, mask = heart(0)
    unmoved = torch.zeros(3, 6, 32, 32)
    for flipped, sign in ((False, 1.0), (True, -1.0)):
        stack = mask.flip(0) if flipped else mask
        axis = fit_voxel_axis(stack)
        assert (axis.base, axis.apex) == ((4, 1) if flipped else (1, 4))
        simulated = simulate_cine(
            image, stack, unmoved, SPACING, frames=FRAMES, generator=torch.Generator().manual_seed(0)
        )
        field = simulated.to_ed[simulated.es].displacement_mm[0]
        y, x = (round(float(c)) for c in axis.centres(6)[axis.base])
        assert float(field[axis.base, y, x]) == pytest.approx(-sign * 5.0, abs=0.01)
        assert float(field[axis.apex, y, x]) == pytest.approx(0.0, abs=1e-6)


def test_wall_strain_of_a_known_stretch(simulated: SimulatedCine) -> None:
    """In-plane contraction by a tenth about the axis gives equal radial and circumferential strain."""
    axis, mask = fit_voxel_axis(simulated.labels[0]), simulated.labels[0]
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    centres = axis.centres(6)
    away = torch.stack([y - centres[:, 0, None, None], x - centres[:, 1, None, None]]) * 2.0
    outward = torch.cat([torch.zeros_like(away[:1]), away * (1 / 0.9 - 1)])
    fields = (replace(simulated.to_ed[0]), replace(simulated.to_ed[1], displacement_mm=outward))
    strain = wall_strain(
        replace(simulated, to_ed=fields, voxels=simulated.voxels[:2], labels=mask.expand(2, *mask.shape))
    )
    assert strain.ecc.tolist() == pytest.approx([0.0, 0.5 * (0.9**2 - 1)], abs=1e-4)
    assert strain.err.tolist() == pytest.approx([0.0, 0.5 * (0.9**2 - 1)], abs=1e-4)
    assert strain.ell.tolist() == pytest.approx([0.0, 0.0], abs=1e-4)


def test_wall_strain_of_contraction_has_the_expected_signs(simulated: SimulatedCine) -> None:
    strain = wall_strain(simulated)
    assert float(strain.ecc[simulated.es]) < -0.05
    assert float(strain.err[simulated.es]) > 0.05
    assert abs(float(strain.ecc[0])) < 1e-4


def test_simulation_depends_only_on_the_seed(velocity: torch.Tensor) -> None:
    one, again, other = make(velocity, 7), make(velocity, 7), make(velocity, 8)
    assert torch.equal(one.voxels, again.voxels)
    assert one.tangential == again.tangential != other.tangential


def test_a_mask_without_a_left_ventricle_is_refused() -> None:
    mask = heart(0)[1]
    with pytest.raises(LabelError, match="ES mask contains no left ventricle"):
        fit_motion(mask, torch.zeros_like(mask), SPACING)


def test_a_slice_that_the_ventricle_leaves_follows_its_neighbours() -> None:
    _, ed = heart(0)
    _, es = heart(1)
    es = es.clone()
    es[0] = torch.where(es[0] == Label.RV, es[0], torch.zeros_like(es[0]))
    velocity = fit_motion(ed, es, SPACING)
    whole = fit_motion(ed, heart(1)[1], SPACING)
    # The motion of the neighbouring slices is similar to that of the slice's own masks.
    assert float((velocity[:, 0] - whole[:, 0]).norm(dim=0).mean()) < 0.5 * float(whole[:, 0].norm(dim=0).mean())
