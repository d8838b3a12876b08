"""The ventricles at end-diastole in closed form: squared radii of all surfaces around the LV's axis.

A surface is given by its squared radius as a function of the position along the axis and the angle around it, because
volume-preserving motion is simplest in squared radii (see :mod:`cmnet_core.phantom.kinematics`).
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cmnet_core.labels import Label
from cmnet_core.phantom.spec import HeartSpec

_ENDO_SOFT_MM2 = 20.0
_EPI_SOFT_MM2 = 30.0
_RV_SOFT_MM2 = 100.0
_RV_WIDTH_SOFT_MM = 2.0
_FAR_MARGIN_MM = 20.0
_ATRIAL_WALL_FRACTION = 0.25


class Points(NamedTuple):
    """Points in coordinates of the heart, in mm; see :class:`~cmnet_core.phantom.spec.HeartSpec`."""

    s: Float[Tensor, "..."]
    y: Float[Tensor, "..."]
    x: Float[Tensor, "..."]


class Surfaces(NamedTuple):
    """Squared radii in mm² of the surfaces on the half-line from the axis through each point.

    ``far`` is where the radial motion of the heart vanishes; ``rv_gap`` is the squared radius of the RV's outline minus
    that of the LV's epicardium, and negative where there is no RV.
    """

    endo: Float[Tensor, "..."]
    epi: Float[Tensor, "..."]
    rv: Float[Tensor, "..."]
    rv_wall: Float[Tensor, "..."]
    far: Float[Tensor, "..."]
    rv_gap: Float[Tensor, "..."]


def smooth_step(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The cubic step: 0 below 0, 1 above 1, 3x² - 2x³ between."""
    x = x.clamp(0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def soft_positive(x: Float[Tensor, "..."], width: float) -> Float[Tensor, "..."]:
    """A smooth ``max(x, 0)`` with the value ``width / 2`` at 0."""
    return 0.5 * (x + (x * x + width * width).sqrt())


def direction(points: Points) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Cosine and sine of the angle around the axis, from the middle of the RV towards anterior."""
    radius = (points.x * points.x + points.y * points.y).clamp_min(1e-12).sqrt()
    return points.x / radius, points.y / radius


def _profile(heart: HeartSpec, s: Float[Tensor, "..."], length_mm: float) -> Float[Tensor, "..."]:
    """Squared radius relative to its maximum: a bullet from the base to ``-length_mm``, narrower at the base."""
    tau = (s / -length_mm).clamp_min(0.0)
    bullet = 1.0 - tau * tau * (1.0 - heart.bluntness + heart.bluntness * tau)
    return bullet * (1.0 - heart.base_narrowing * smooth_step((s + 0.35 * length_mm) / (0.45 * length_mm)))


def _around(heart: HeartSpec, c: Float[Tensor, "..."], n: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """1 + e·cos 2(θ - θ₀), from the cosine and sine of θ."""
    twice = math.radians(2.0 * heart.ellipse_deg)
    return 1.0 + heart.ellipticity * ((c * c - n * n) * math.cos(twice) + 2.0 * c * n * math.sin(twice))


def _rv_outline(
    heart: HeartSpec, s: Float[Tensor, "..."], outer: Float[Tensor, "..."], c: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """Squared radius of the circle that bounds the RV.

    The circle meets the LV's epicardium (radius ``outer``) at the insertions and is ``width`` outside it in the middle
    of the RV; the law of cosines gives its centre, at ``d`` on the x axis, and its radius.
    """
    down = (s / -heart.rv_length_mm).clamp_min(0.0)
    width = soft_positive(heart.rv_width_mm * (1.0 - down * down), _RV_WIDTH_SOFT_MM)
    reach = outer + width
    d = (reach * reach - outer * outer) / (2.0 * (reach - outer * math.cos(math.radians(heart.rv_insertion_deg))))
    radius = reach - d
    root = (radius * radius - d * d * (1.0 - c * c)).clamp_min(1.0).sqrt()
    return (d * c + root) ** 2


def surfaces(heart: HeartSpec, points: Points) -> Surfaces:
    """Squared radii of all surfaces on the half-line from the axis through each point."""
    c, n = direction(points)
    around = _around(heart, c, n)
    endo = soft_positive(heart.cavity_radius_mm**2 * _profile(heart, points.s, heart.cavity_length_mm), _ENDO_SOFT_MM2)
    outer = soft_positive(heart.outer_radius_mm**2 * _profile(heart, points.s, heart.length_mm), _EPI_SOFT_MM2)
    thin = 1.0 - (1.0 - _ATRIAL_WALL_FRACTION) * smooth_step(points.s / 12.0)
    thickest = math.radians(heart.asymmetry_deg)
    uneven = 1.0 + heart.asymmetry * (c * math.cos(thickest) + n * math.sin(thickest))
    epi = (endo + (outer * uneven - endo).clamp_min(4.0) * thin) * around
    gap = _rv_outline(heart, points.s, outer.sqrt(), c) - epi
    rv = epi + soft_positive(gap, _RV_SOFT_MM2)
    rv_wall_radius = rv.sqrt() + heart.rv_wall_mm
    return Surfaces(endo * around, epi, rv, rv_wall_radius**2, (rv_wall_radius + _FAR_MARGIN_MM) ** 2, gap)


def in_rv(heart: HeartSpec, s: Float[Tensor, "..."], gap: Float[Tensor, "..."]) -> Tensor:
    """Whether there is an RV at this position and angle."""
    return (gap > 0) & (s > -heart.rv_length_mm) & (s < heart.rv_base_mm)


def labels_at(heart: HeartSpec, points: Points) -> UInt8[Tensor, "..."]:
    """The label at points of the heart at ED."""
    wall = surfaces(heart, points)
    squared = points.x * points.x + points.y * points.y
    below_valve = points.s < 0
    lv = below_valve & (points.s > -heart.cavity_length_mm) & (squared < wall.endo)
    muscle = below_valve & (points.s > -heart.length_mm) & (squared < wall.epi)
    rv = in_rv(heart, points.s, wall.rv_gap) & (squared >= wall.epi) & (squared < wall.rv)
    labels = torch.zeros_like(points.s, dtype=torch.uint8)
    labels[rv] = int(Label.RV)
    labels[muscle] = int(Label.MYO)
    labels[lv] = int(Label.LV)
    return labels


def half_lines(low: float, high: float, *, steps: int = 120, angles: int = 96) -> tuple[Points, float]:
    """A grid of positions and angles for volume integrals, and the weight in mL/mm² of each node.

    A volume in squared radii q is ½ ∫∫ Δq dθ ds (midpoint rule).
    """
    step, turn = (high - low) / steps, 2.0 * math.pi / angles
    s = low + step * (torch.arange(steps, dtype=torch.float64) + 0.5)
    angle = turn * (torch.arange(angles, dtype=torch.float64) + 0.5)
    grid_s, grid_angle = torch.meshgrid(s, angle, indexing="ij")
    return Points(grid_s, grid_angle.sin(), grid_angle.cos()), 0.5 * step * turn / 1000.0


def lv_volumes_ml(heart: HeartSpec) -> tuple[float, float]:
    """Volumes in mL of the LV's blood pool and myocardium at ED, integrated over the continuous surfaces."""
    cavity, cavity_weight = half_lines(-heart.cavity_length_mm, 0.0)
    whole, whole_weight = half_lines(-heart.length_mm, 0.0)
    lv = cavity_weight * float(surfaces(heart, cavity).endo.sum())
    return lv, whole_weight * float(surfaces(heart, whole).epi.sum()) - lv


def rv_volume_ml(heart: HeartSpec) -> float:
    """Volume in mL of the RV's blood pool at ED, integrated over the continuous surfaces."""
    lines, weight = half_lines(-heart.rv_length_mm, heart.rv_base_mm)
    wall = surfaces(heart, lines)
    return weight * float(((wall.rv - wall.epi) * (wall.rv_gap > 0)).sum())
