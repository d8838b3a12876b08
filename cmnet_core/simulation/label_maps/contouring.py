"""Contouring habits: how a reader draws label maps of the simulated anatomy.

Readers differ in where they see the endocardium (papillary muscles in or out), in how much muscle they draw at ED and
at ES, in the slices that they contour at the base and at the apex, and in the smoothness of their contours. Most
readers of cines contour the same slices at ED and at ES, although the base moves down by about one slice. What a reader
draws changes the label maps and not the motion.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.models.shape_motion_net import MIN_AREA_VOXELS, PIXEL_MM
from cmnet_core.phantom.shape import Points, Surfaces, direction
from cmnet_core.simulation.label_maps.anatomy import Anatomy
from cmnet_core.simulation.label_maps.random_draws import RandomDraws

_ORDERS = 5
"""Number of orders around the axis of a contour's error."""

_MIN_WALL_MM = 1.5
_MIN_RV_SLICE_VOXELS = 4.0
_NEAR_AXIS_MM = 40.0


@dataclass(frozen=True, slots=True)
class ContouringHabit:
    """How one reader contours one frame.

    Attributes:
        muscle: Area of the wall as drawn, relative to the true one.
        inner_fraction: Fraction of the difference that moves the endocardium; the remainder moves the epicardium.
        rv: Area of the RV as drawn, relative to the true one.
        base_mm: Distance above the valve plane up to which the LV is contoured.
        rv_base_mm: Distance above the RV's base up to which the RV is contoured.
        whole_slices: Whether a slice is contoured completely or not at all.
        tip_mm: Distance above the apex of the cavity from which the cavity is contoured.
        noise_mm: Standard deviation of the contours' smooth error.
        omits_basal_slice: Whether the last slice at the base is left out.
        omits_apical_slice: Whether the first slice at the apex is left out.
        same_slices_as_ed: Whether the LV is contoured in the same slices as at ED.
        same_rv_slices_as_ed: The same for the RV.
    """

    muscle: float
    inner_fraction: float
    rv: float
    base_mm: float
    rv_base_mm: float
    whole_slices: bool
    tip_mm: float
    noise_mm: float
    omits_basal_slice: bool
    omits_apical_slice: bool
    same_slices_as_ed: bool
    same_rv_slices_as_ed: bool


def draw_habits(draws: RandomDraws) -> tuple[ContouringHabit, ContouringHabit]:
    """Draw how a reader contours ED and the later frame: with the same style, and with some difference."""
    base, rv_base, tip = draws.normal(0.0, 2.5), draws.normal(0.0, 5.0), draws.normal(1.0, 3.0)
    inner, noise, whole = draws.uniform(0.5, 1.0), draws.uniform(0.2, 0.9), draws.happens(0.8)
    muscle, same, same_rv = draws.uniform(0.92, 1.08), draws.happens(0.85), draws.happens(0.8)
    habits = []
    for later in (False, True):
        # At ES some readers include more of the papillary muscles.
        extra = draws.normal(0.04, 0.06) if later else 0.0
        habits.append(
            ContouringHabit(
                muscle=min(max(muscle * draws.uniform(0.96, 1.04) + extra, 0.85), 1.2),
                inner_fraction=inner,
                rv=draws.uniform(0.93, 1.07),
                base_mm=base + draws.normal(0.0, 1.5),
                rv_base_mm=rv_base + draws.normal(0.0, 3.0),
                whole_slices=whole,
                tip_mm=tip + draws.normal(0.0, 2.0),
                noise_mm=noise,
                omits_basal_slice=draws.happens(0.15),
                omits_apical_slice=draws.happens(0.12),
                same_slices_as_ed=later and same,
                same_rv_slices_as_ed=later and same_rv,
            )
        )
    return habits[0], habits[1]


def contour(
    draws: RandomDraws,
    habit: ContouringHabit,
    anatomy: Anatomy,
    material: Points,
    radius: Float[Tensor, "z y x"],
    surfaces: Surfaces,
    at_ed: Float[Tensor, "3 z y x"] | None,
) -> Float[Tensor, "3 z y x"]:
    """Contour a frame and return the fraction of each voxel that is LV, myocardium and RV.

    Args:
        draws: Source of randomness.
        habit: How the reader contours.
        anatomy: The anatomy at ED.
        material: Position at ED of the material in each voxel, in mm.
        radius: Distance of each voxel from the axis at the frame, in mm.
        surfaces: The surfaces at the frame on the half-line through each voxel.
        at_ed: The label map of ED where the frame is a later one, otherwise None.
    """
    c, n = direction(material)
    bias = (habit.muscle - 1.0) * (surfaces.epi - surfaces.endo)
    inner = (surfaces.endo - habit.inner_fraction * bias).clamp_min(4.0).sqrt()
    inner = inner + _contour_error(draws, c, n, habit.noise_mm)
    outer = (surfaces.epi + (1.0 - habit.inner_fraction) * bias).sqrt() + _contour_error(draws, c, n, habit.noise_mm)
    outer = torch.maximum(outer, inner + _MIN_WALL_MM)
    right = (surfaces.epi + (surfaces.rv - surfaces.epi) * habit.rv).sqrt()
    right = torch.maximum(right + 1.5 * _contour_error(draws, c, n, habit.noise_mm), outer)
    blood, heart, both = (_fraction_inside(radius, edge) for edge in (inner, outer, right))
    in_cavity, in_wall, in_rv = _contoured_slices(habit, anatomy, material, radius, surfaces, at_ed)
    labels = torch.stack(
        [blood * in_cavity, heart * in_wall - blood * in_cavity, (both - heart).clamp_min(0.0) * in_rv]
    )
    return _without_end_slices(labels.clamp_min(0.0), habit)


def _contour_error(
    draws: RandomDraws, c: Float[Tensor, "z y x"], n: Float[Tensor, "z y x"], sd_mm: float
) -> Float[Tensor, "z y x"]:
    """Draw the smooth error of a contour in mm, independently for each slice, as a Fourier series in the angle."""
    weight = torch.tensor([0.7, 0.5, 0.5, 0.4, 0.3])
    amplitudes = draws.normals(2, c.shape[0], _ORDERS) * weight * sd_mm
    cosines, sines = [torch.ones_like(c), c], [torch.zeros_like(c), n]
    for _ in range(_ORDERS - 2):
        cosines.append(2 * c * cosines[-1] - cosines[-2])
        sines.append(2 * c * sines[-1] - sines[-2])
    waves = torch.stack(cosines + sines)
    return torch.einsum("kz,kzyx->zyx", torch.cat([amplitudes[0].T, amplitudes[1].T]), waves)


def _fraction_inside(radius: Float[Tensor, "z y x"], edge: Float[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """Return the fraction of a voxel's radial extent that is inside an edge."""
    return (0.5 + (edge - radius) / PIXEL_MM).clamp(0.0, 1.0)


def _contoured_slices(
    habit: ContouringHabit,
    anatomy: Anatomy,
    material: Points,
    radius: Float[Tensor, "z y x"],
    surfaces: Surfaces,
    at_ed: Float[Tensor, "3 z y x"] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return where the LV's cavity, its wall and the RV are contoured."""
    s = position = material.s
    if habit.whole_slices:
        near = (radius < _NEAR_AXIS_MM).float()
        mean = (s * near).sum((1, 2)) / near.sum((1, 2)).clamp_min(1.0)
        position = mean[:, None, None].expand_as(s)
    below_base, below_rv_base = position < habit.base_mm, position < anatomy.rv_base_mm + habit.rv_base_mm
    if at_ed is not None and habit.same_slices_as_ed:
        below_base = (at_ed[1].sum((1, 2)) > MIN_AREA_VOXELS)[:, None, None].expand_as(s)
    if at_ed is not None and habit.same_rv_slices_as_ed:
        below_rv_base = (at_ed[2].sum((1, 2)) > _MIN_RV_SLICE_VOXELS)[:, None, None].expand_as(s)
    in_cavity = below_base & (s > -anatomy.cavity_length_mm + habit.tip_mm) & (surfaces.endo > 6.0)
    in_wall = below_base & (s > -anatomy.length_mm + 0.5 * habit.tip_mm)
    in_rv = (surfaces.rv_gap > 0) & below_rv_base & (s > -anatomy.rv_length_mm)
    return in_cavity.float(), in_wall.float(), in_rv.float()


def _without_end_slices(labels: Float[Tensor, "3 z y x"], habit: ContouringHabit) -> Float[Tensor, "3 z y x"]:
    """Return the label map without the last slices at the base and at the apex that the reader leaves out."""
    full = torch.where(labels[1].sum((1, 2)) > MIN_AREA_VOXELS)[0]
    kept = torch.ones(3, labels.shape[1], 1, 1)
    if len(full) > 4 and habit.omits_basal_slice:
        kept[:2, int(full[-1]) :] = 0.0
    if len(full) > 4 and habit.omits_apical_slice:
        kept[:, : int(full[0]) + 1] = 0.0
    return labels * kept
