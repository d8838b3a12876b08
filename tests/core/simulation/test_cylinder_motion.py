"""The second class of simulated motion: determinant and inverse in closed form, cines, noise and texture."""

import math

import pytest
import torch

from cmnet_core.function.volumes import volumes_ml
from cmnet_core.labels import Label
from cmnet_core.registration.displacement import jacobian_determinant
from cmnet_core.simulation.cine import SimulatedCine, fit_voxel_axis
from cmnet_core.simulation.cylinder_cine import pull_back, simulate_cylinder_cine, ventricle_shape
from cmnet_core.simulation.cylinder_motion import Contraction, CylinderMotion, Points, VentricleShape
from cmnet_core.simulation.ground_truth import wall_strain
from cmnet_core.types import Spacing
from tests.core.simulation.test_simulated_cine import heart

SPACING = Spacing(z=8.0, y=2.0, x=2.0)
SHAPE = VentricleShape(
    length_mm=72.0,
    slice_mm=8.0,
    endo_mm=torch.linspace(24.0, 10.0, 10),
    epi_mm=torch.linspace(33.0, 20.0, 10),
    rv_mm=torch.linspace(60.0, 25.0, 10),
    rv_rad=-1.2,
)
STATE = Contraction(
    cavity=0.55,
    rv_cavity=0.45,
    descent_mm=11.0,
    basal_rad=math.radians(-5.0),
    apical_rad=math.radians(12.0),
    waves=(0.2, 0.1, 0.2),
    waves_rad=(0.4, 2.0),
    tilt=(0.5, -0.3),
)


def points(count: int = 4000) -> Points:
    """Random positions in and around the heart."""
    drawn = torch.rand(3, count, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Points(90.0 * drawn[0] - 10.0, 160.0 * drawn[1] - 80.0, 160.0 * drawn[2] - 80.0)


def test_determinant_is_that_of_numerical_derivatives_and_nowhere_negative() -> None:
    motion, at, h = CylinderMotion(SHAPE, STATE), points(), 1e-4
    columns = []
    for axis in range(3):
        ahead, behind = (
            torch.stack(motion.forward(Points(*(p + sign * h * (axis == i) for i, p in enumerate(at)))))
            for sign in (1.0, -1.0)
        )
        columns.append((ahead - behind) / (2.0 * h))
    numerical = torch.linalg.det(torch.stack(columns, dim=-1).movedim(1, 0))
    # Radii have a kink where their interpolation between slices ends, at the base and at the apex.
    smooth = (at.s - 0.0).abs().minimum((at.s - SHAPE.length_mm).abs()) > 0.01
    torch.testing.assert_close(motion.determinant(at)[smooth], numerical[smooth], rtol=2e-3, atol=2e-3)
    assert float(numerical.min()) > 0.03


def test_inverse_is_one_and_ed_does_not_move() -> None:
    motion, at = CylinderMotion(SHAPE, STATE), points()
    back = motion.inverse(motion.forward(at))
    assert max(float((a - b).abs().max()) for a, b in zip(back, at, strict=True)) < 0.01
    still = CylinderMotion(SHAPE, Contraction(0.0, 0.0, 0.0, 0.0, 0.0)).forward(at)
    torch.testing.assert_close(torch.stack(still), torch.stack(at))


def test_wall_is_nearly_incompressible_and_the_base_descends() -> None:
    angle = torch.linspace(0.0, 2.0 * math.pi, 50, dtype=torch.float64)[:-1]
    radius = 0.6 * SHAPE.epi_mm[4] + 0.4 * SHAPE.endo_mm[4]
    s = torch.full_like(angle, 32.0)
    at = Points(s, radius * angle.cos(), radius * angle.sin())
    still = Contraction(0.5, 0.0, 10.0, 0.0, 0.0)
    motion = CylinderMotion(SHAPE, still)
    assert float((motion.determinant(at) - 1.0).abs().max()) < 0.05
    base = motion.forward(Points(torch.zeros(1), torch.zeros(1), torch.full((1,), 25.0)))
    assert float(base.s) == pytest.approx(10.0, abs=0.3)
    apex = motion.forward(Points(torch.full((1,), 72.0), torch.zeros(1), torch.full((1,), 12.0)))
    assert float(apex.s) == pytest.approx(72.0, abs=0.6)


@pytest.fixture(scope="module")
def cine() -> SimulatedCine:
    (image, ed), (_, es) = heart(0), heart(1)
    return simulate_cylinder_cine(image, ed, es, SPACING, frames=5, generator=torch.Generator().manual_seed(4))


def test_cine_contracts_without_folds_and_starts_at_ed(cine: SimulatedCine) -> None:
    assert float(cine.to_ed[0].displacement_mm.abs().max()) < 1e-2
    assert torch.equal(cine.labels[0], heart(0)[1])
    assert min(float(jacobian_determinant(field).min()) for field in cine.to_ed) > 0
    lv = volumes_ml(cine.labels, SPACING).lv_ml
    assert int(lv.argmin()) == cine.es
    strain = wall_strain(cine)
    assert float(strain.ecc[cine.es]) < -0.01
    assert float(strain.err[cine.es]) > 0.01


def test_base_leaves_the_most_basal_slice(cine: SimulatedCine) -> None:
    """The descent of the base by most of a slice distance brings what is above the ventricle into its first slice."""
    at_ed, at_es = cine.labels[0], cine.labels[cine.es]
    axis = fit_voxel_axis(at_ed)
    assert int((at_es[axis.base] == Label.LV).sum()) < 0.5 * int((at_ed[axis.base] == Label.LV).sum())
    assert cine.labels.shape[1] == len(heart(0)[1])


def test_frames_are_no_multiples_of_one_velocity() -> None:
    """The displacement of a frame with less contraction is not the same motion at an earlier time."""
    mask = heart(0)[1]
    shape, axis = ventricle_shape(mask, SPACING), fit_voxel_axis(mask)
    state = Contraction(0.5, 0.3, 6.0, 0.0, 0.3)
    half = Contraction(0.25, 0.15, 6.0 * 0.5**1.3, 0.0, 0.3 * 0.5**0.8)
    whole, part = (pull_back(CylinderMotion(shape, one), axis, tuple(mask.shape), SPACING)[0] for one in (state, half))
    wall = mask == Label.MYO
    assert float((whole - 2.0 * part)[:, wall].norm(dim=0).mean()) > 0.1


def test_noise_is_new_in_every_frame_and_texture_is_not_found_in_the_neighbouring_slice() -> None:
    image = 0.5 + 0.1 * torch.randn(5, 48, 48, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(5, 48, 48, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(48) - 24.0, torch.arange(48) - 24.0, indexing="ij")
    mask[:, torch.hypot(y, x) < 14] = Label.MYO
    mask[:, torch.hypot(y, x) < 8] = Label.LV
    made = simulate_cylinder_cine(image, mask, mask, SPACING, frames=4, generator=torch.Generator().manual_seed(2))
    assert float((made.voxels[0] - made.voxels[-1]).std()) > 0.05
    moved = made.to_ed[made.es].displacement_mm[0].abs() / SPACING.z
    assert float(moved.max()) > 0.5
