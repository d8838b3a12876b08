"""Simulated label maps: the motion is invertible, keeps the volume of the wall, and connects the two label maps."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cmnet_core.models.shape_motion_net import PIXEL_MM
from cmnet_core.phantom.shape import Points
from cmnet_core.registration.displacement import volume_change, warp
from cmnet_core.simulation.label_maps.anatomy import Anatomy, draw_anatomy, surfaces
from cmnet_core.simulation.label_maps.beat import MAX_DESCENT_MM, Beat, draw_beat
from cmnet_core.simulation.label_maps.kinematics import HeartMotion
from cmnet_core.simulation.label_maps.pair import LVEF_RANGE_PCT, SimulatedPair, draw_pair, simulate_pair
from cmnet_core.simulation.label_maps.random_draws import RandomDraws
from cmnet_core.simulation.label_maps.stack import draw_stack

SEEDS = (1, 2, 3)


def draw_motion(seed: int, *, lvef_pct: float = 60.0) -> tuple[RandomDraws, Anatomy, Beat]:
    draws = RandomDraws(torch.Generator().manual_seed(seed))
    anatomy = draw_anatomy(draws, lvef_pct=lvef_pct)
    return draws, anatomy, draw_beat(draws, anatomy, lvef_pct=lvef_pct)


def points_around(anatomy: Anatomy) -> Points:
    """Points in the ventricles, in the atria and around them."""
    s = torch.linspace(-1.2 * anatomy.length_mm, 40.0, 15, dtype=torch.float64)
    across = torch.linspace(-80.0, 80.0, 18, dtype=torch.float64)
    return Points(*torch.meshgrid(s, across, across, indexing="ij"))


def fine_pair(seed: int, *, lvef_pct: float = 60.0) -> tuple[SimulatedPair, Beat]:
    """A pair whose slices are as close as its in-plane voxels, contoured at ES without rigid motion of the slices."""
    draws, anatomy, beat = draw_motion(seed, lvef_pct=lvef_pct)
    stack = draw_stack(draws, anatomy, size=48)
    slices = int(1.4 * anatomy.length_mm / PIXEL_MM)
    stack = replace(
        stack, slice_mm=PIXEL_MM, base_slice=slices - 6.0, tilt_rad=(0.0, 0.0), slice_shift_mm=torch.zeros(slices, 2)
    )
    return simulate_pair(draws, anatomy, beat, stack), beat


def dice(first: Tensor, second: Tensor) -> float:
    return float(2.0 * (first * second).sum() / (first.sum() + second.sum()))


@pytest.mark.parametrize("seed", SEEDS)
def test_inverse_motion_returns_every_point(seed: int) -> None:
    _, anatomy, beat = draw_motion(seed)
    beat = replace(beat, descent_profile=beat.descent_profile.double())
    points = points_around(anatomy)
    motion = HeartMotion(anatomy, beat)
    back, _, _ = motion.inverse(motion.forward(points))
    assert float((torch.stack(back) - torch.stack(points)).abs().max()) < 1e-3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("tilted", [False, True])
def test_volume_of_the_wall_is_kept(seed: int, *, tilted: bool) -> None:
    """By automatic differentiation: det F in the wall is the volume factor, and on average also with a tilted base."""
    _, anatomy, beat = draw_motion(seed)
    beat = replace(beat, descent_profile=beat.descent_profile.double())
    beat = beat if tilted else replace(beat, descent_tilt=(0.0, 0.0))
    s = torch.linspace(-0.8 * anatomy.cavity_length_mm, -8.0, 9, dtype=torch.float64)
    angle = torch.linspace(0.0, 2 * math.pi, 13, dtype=torch.float64)[:-1]
    s, angle = torch.meshgrid(s, angle, indexing="ij")
    wall = surfaces(anatomy, Points(s, angle.sin(), angle.cos()))
    radius = (wall.endo + 0.4 * (wall.epi - wall.endo)).sqrt()
    start = torch.stack([s, radius * angle.sin(), radius * angle.cos()]).flatten(1).T.requires_grad_()
    end = torch.stack(HeartMotion(anatomy, beat).forward(Points(*start.unbind(1))), dim=1)
    rows = [torch.autograd.grad(end[:, axis].sum(), start, retain_graph=True)[0] for axis in range(3)]
    determinant = torch.linalg.det(torch.stack(rows, dim=1))
    if tilted:
        weight = (wall.epi - wall.endo).flatten()
        assert float((determinant * weight).sum() / weight.sum()) == pytest.approx(beat.wall_volume, abs=0.02)
    else:
        assert float((determinant - beat.wall_volume).abs().max()) < 1e-6


@pytest.mark.parametrize("seed", SEEDS)
def test_displacements_warp_the_tissue_of_one_frame_onto_the_other(seed: int) -> None:
    pair, _ = fine_pair(seed)
    size = torch.tensor([pair.slice_mm, PIXEL_MM, PIXEL_MM]).view(3, 1, 1, 1)
    at_ed, at_frame = pair.tissue.float()
    for moving, fixed, displacement in ((at_ed, at_frame, pair.to_ed_mm), (at_frame, at_ed, pair.from_ed_mm)):
        warped = (warp(moving[None], (displacement / size)[None])[0] > 0.5).float()
        # Slices at the ends of the stack contain material from beyond it.
        scores = [dice(warped[k, 4:-4], fixed[k, 4:-4]) for k in range(3)]
        before = [dice(moving[k, 4:-4], fixed[k, 4:-4]) for k in range(3)]
        assert min(scores) > 0.9, scores
        assert all(after >= without for after, without in zip(scores, before, strict=True))


def test_contours_agree_with_the_tissue_within_the_habits_of_readers() -> None:
    scores = []
    for seed in SEEDS:
        pair, _ = fine_pair(seed)
        wall, rv, blood = pair.tissue.float().unbind(1)
        scores += [dice(pair.shapes[:, 0], blood), dice(pair.shapes[:, 1], wall), dice(pair.shapes[:, 2], rv)]
        assert float(pair.shapes.sum(1).max()) <= 1.0 + 1e-5
        assert float(pair.shapes.min()) >= 0.0
    assert min(scores) > 0.6
    assert 0.8 < sum(scores) / len(scores) < 0.97


def test_equal_seeds_give_equal_pairs_and_other_seeds_others() -> None:
    first, again, other = (draw_pair(torch.Generator().manual_seed(seed), size=48) for seed in (3, 3, 4))
    assert torch.equal(first.shapes, again.shapes)
    assert torch.equal(first.to_ed_mm, again.to_ed_mm)
    assert first.slice_mm == again.slice_mm
    assert first.shapes.shape != other.shapes.shape or not torch.equal(first.shapes, other.shapes)


@pytest.mark.parametrize("seed", SEEDS)
def test_motion_has_no_folds(seed: int) -> None:
    pair = draw_pair(torch.Generator().manual_seed(seed), size=48)
    size = torch.tensor([pair.slice_mm, PIXEL_MM, PIXEL_MM]).view(3, 1, 1, 1)
    for displacement in (pair.to_ed_mm, pair.from_ed_mm):
        assert float(volume_change((displacement / size)[None]).min()) > 0.0


@pytest.mark.parametrize("lvef_pct", [30.0, 65.0])
def test_cavity_ejects_the_prescribed_fraction_at_es(lvef_pct: float) -> None:
    ejected = []
    for seed in (1, 2, 3, 4):
        pair, _ = fine_pair(seed, lvef_pct=lvef_pct)
        ed, frame = pair.tissue[:, 2].sum((1, 2, 3)).tolist()
        ejected.append(100.0 * (1.0 - frame / ed))
    # Some of the frames are before ES.
    assert max(ejected) == pytest.approx(lvef_pct, abs=2.5)
    assert min(ejected) > 0.0


def test_population_has_plausible_anatomy_and_descent() -> None:
    draws = RandomDraws(torch.Generator().manual_seed(1))
    drawn = []
    for _ in range(150):
        lvef_pct = draws.uniform(*LVEF_RANGE_PCT)
        anatomy = draw_anatomy(draws, lvef_pct=lvef_pct)
        drawn.append((lvef_pct, anatomy, draw_beat(draws, anatomy, lvef_pct=lvef_pct)))
    normal = [beat.descent_mm for lvef, _, beat in drawn if lvef > 55.0]
    low = [beat.descent_mm for lvef, _, beat in drawn if lvef < 30.0]
    assert 8.0 < sum(normal) / len(normal) < 15.0
    assert sum(low) / len(low) < 0.6 * sum(normal) / len(normal)
    assert max(normal) <= MAX_DESCENT_MM
    walls = [anatomy.wall_mm for _, anatomy, _ in drawn]
    lengths = [anatomy.length_mm for _, anatomy, _ in drawn]
    assert (min(walls) > 3.5, max(walls) < 22.0) == (True, True)
    assert (min(lengths) > 50.0, max(lengths) < 170.0) == (True, True)
    assert all(abs(beat.wall_volume - 1.0) < 0.06 for _, _, beat in drawn)
    dilated = [anatomy.cavity_radius_mm for lvef, anatomy, _ in drawn if lvef < 30.0]
    others = [anatomy.cavity_radius_mm for lvef, anatomy, _ in drawn if lvef > 55.0]
    assert sum(dilated) / len(dilated) > 1.1 * sum(others) / len(others)
