"""Anatomy at ED: the surfaces of both ventricles as squared radii around the long axis of the LV.

Coordinates of the heart are s along the long axis (0 at the mitral valve plane, negative towards the apex), x towards
the middle of the RV and y perpendicular to both. θ is the angle from x, r the distance from the axis. A surface is
given as the squared radius q = r² at (s, θ), because motion that keeps the volume of the wall is linear in q
(:mod:`cmnet_core.simulation.label_maps.kinematics`). Squared radii have a soft lower bound, so that all surfaces
continue beyond the apex and above the valve plane, where they bound the atria.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cmnet_core.phantom.shape import Points, Surfaces, direction, smooth_step, soft_positive
from cmnet_core.simulation.label_maps.random_draws import RandomDraws

_ENDO_SOFT_MM2 = 20.0
_EPI_SOFT_MM2 = 30.0
_RV_SOFT_MM2 = 100.0
_RV_WIDTH_SOFT_MM = 2.0
_MIN_WALL_MM2 = 6.0
_FAR_MARGIN_MM = 22.0


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Anatomy of both ventricles at ED.

    Attributes:
        cavity_radius_mm: Largest inner radius of the LV.
        cavity_length_mm: Distance from the valve plane to the apex of the LV cavity.
        length_mm: Distance from the valve plane to the epicardial apex of the LV.
        bluntness: Shape of the LV: 0 is almost a cone, 1 a blunt bullet.
        base_narrowing: Relative decrease of the squared radius at the valve plane.
        wall_mm: Thickness of the LV's wall.
        ellipticity: Relative second-order variation of the squared endocardial radius around the axis.
        ellipse_rad: Angle at which it is largest.
        asymmetry: Relative first-order variation of the wall's area around the axis.
        asymmetry_rad: Angle at which the wall is thickest.
        basal_asymmetry: The same at the base alone; it decreases to 0 at the apex.
        basal_asymmetry_rad: Its angle.
        rv_width_mm: Largest distance from the septum to the RV's free wall.
        rv_insertion_rad: Angle from the RV's middle to each insertion.
        rv_spiral_rad: Angle by which the middle of the RV is turned at the apex of the cavity, relative to the base.
        rv_length_mm: Distance from the mitral valve plane to the RV's apex.
        rv_base_mm: Extent of the RV above the mitral valve plane.
        rv_wall_mm: Thickness of the RV's free wall.
    """

    cavity_radius_mm: float
    cavity_length_mm: float
    length_mm: float
    bluntness: float
    base_narrowing: float
    wall_mm: float
    ellipticity: float
    ellipse_rad: float
    asymmetry: float
    asymmetry_rad: float
    basal_asymmetry: float
    basal_asymmetry_rad: float
    rv_width_mm: float
    rv_insertion_rad: float
    rv_spiral_rad: float
    rv_length_mm: float
    rv_base_mm: float
    rv_wall_mm: float

    @property
    def outer_radius_mm(self) -> float:
        """Largest outer radius of the LV, before its variation around the axis."""
        return self.cavity_radius_mm + self.wall_mm


def draw_anatomy(draws: RandomDraws, *, lvef_pct: float) -> Anatomy:
    """Draw an anatomy: normal, dilated, hypertrophied or small, with a right ventricle of any size.

    Args:
        draws: Source of randomness.
        lvef_pct: Ejection fraction of the LV in %; a low one is more often that of a dilated ventricle.
    """
    dilation = 1.0 + 0.011 * max(0.0, 52.0 - lvef_pct) * draws.uniform(0.2, 1.5)
    radius = min(max(draws.normal(25.0, 3.2), 17.0), 33.0) * dilation ** (1.0 / 2.4)
    cavity = radius * draws.uniform(2.75, 3.65) / dilation**0.2
    wall = min(max(draws.normal(8.2, 1.5), 4.5), 13.0) * (0.88 if lvef_pct < 35.0 else 1.0)
    if draws.happens(0.22):
        wall += draws.uniform(1.0, 8.0)
    return Anatomy(
        cavity_radius_mm=radius,
        cavity_length_mm=cavity,
        length_mm=cavity + draws.uniform(0.3, 0.8) * wall,
        bluntness=draws.uniform(0.2, 0.95),
        base_narrowing=draws.uniform(0.0, 0.2),
        wall_mm=wall,
        ellipticity=draws.uniform(0.0, 0.12),
        ellipse_rad=draws.uniform(0.0, math.pi),
        asymmetry=draws.normal(0.0, 0.08),
        asymmetry_rad=draws.uniform(0.0, 2 * math.pi),
        basal_asymmetry=draws.normal(0.0, 0.12 if wall < 10.0 else 0.25),
        basal_asymmetry_rad=draws.uniform(0.0, 2 * math.pi),
        rv_width_mm=min(max(draws.normal(33.0, 10.0), 12.0), 62.0),
        rv_insertion_rad=math.radians(draws.uniform(46.0, 78.0)),
        rv_spiral_rad=draws.normal(0.0, 0.25),
        rv_length_mm=cavity * draws.uniform(0.7, 1.02),
        rv_base_mm=draws.normal(0.0, 4.0),
        rv_wall_mm=draws.uniform(2.4, 4.0),
    )


def _profile(anatomy: Anatomy, s: Float[Tensor, "..."], length_mm: float) -> Float[Tensor, "..."]:
    """Return the squared radius relative to its maximum: 1 − τ^p from base (τ = 0) to apex, narrower at the base."""
    tau = (s / -length_mm).clamp_min(0.0)
    bullet = 1.0 - (tau + 1e-4) ** (1.3 + 1.3 * anatomy.bluntness)
    return bullet * (1.0 - anatomy.base_narrowing * smooth_step((s + 0.35 * length_mm) / (0.45 * length_mm)))


def _round_endocardium(anatomy: Anatomy, s: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    profile = _profile(anatomy, s, anatomy.cavity_length_mm)
    return soft_positive(anatomy.cavity_radius_mm**2 * profile, _ENDO_SOFT_MM2)


def endocardium(anatomy: Anatomy, points: Points) -> Float[Tensor, "..."]:
    """Return the squared radius of the LV's endocardium in mm² on the half-line from the axis through each point."""
    c, n = direction(points)
    twice = 2.0 * anatomy.ellipse_rad
    around = (c * c - n * n) * math.cos(twice) + 2.0 * c * n * math.sin(twice)
    return _round_endocardium(anatomy, points.s) * (1.0 + anatomy.ellipticity * around)


def surfaces(anatomy: Anatomy, points: Points) -> Surfaces:
    """Return the squared radii of all surfaces in mm² on the half-line from the axis through each point."""
    s, (c, n) = points.s, direction(points)
    endo = endocardium(anatomy, points)
    outer = soft_positive(anatomy.outer_radius_mm**2 * _profile(anatomy, s, anatomy.length_mm), _EPI_SOFT_MM2)
    towards_apex = (s / -anatomy.cavity_length_mm).clamp(0.0, 1.0)
    thickest = c * math.cos(anatomy.asymmetry_rad) + n * math.sin(anatomy.asymmetry_rad)
    thickest_at_base = c * math.cos(anatomy.basal_asymmetry_rad) + n * math.sin(anatomy.basal_asymmetry_rad)
    uneven = 1.0 + anatomy.asymmetry * thickest + anatomy.basal_asymmetry * thickest_at_base * (1.0 - towards_apex)
    atrial_thinning = 1.0 - 0.2 * smooth_step(s / 15.0)
    wall = (outer - _round_endocardium(anatomy, s)).clamp_min(_MIN_WALL_MM2) * uneven.clamp(0.4, 2.5) * atrial_thinning
    epi = endo + wall
    spiral = anatomy.rv_spiral_rad * towards_apex
    rv_gap = _rv_outline(anatomy, s, outer.sqrt(), c * spiral.cos() + n * spiral.sin()) - epi
    rv = epi + soft_positive(rv_gap, _RV_SOFT_MM2)
    rv_wall_radius = rv.sqrt() + anatomy.rv_wall_mm
    return Surfaces(endo, epi, rv, rv_wall_radius**2, (rv_wall_radius + _FAR_MARGIN_MM) ** 2, rv_gap)


def _rv_outline(
    anatomy: Anatomy, s: Float[Tensor, "..."], outer: Float[Tensor, "..."], cosine: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """Return the squared radius of the circle that bounds the RV.

    The circle meets the LV's epicardium (radius ``outer``) at the insertions and is the RV's width outside it in the
    middle of the RV. The law of cosines gives its centre, at the distance d from the axis, and its radius.
    """
    down = (s / -anatomy.rv_length_mm).clamp_min(0.0)
    width = soft_positive(anatomy.rv_width_mm * (1.0 - down * down), _RV_WIDTH_SOFT_MM)
    furthest = outer + width
    d = (furthest * furthest - outer * outer) / (2.0 * (furthest - outer * math.cos(anatomy.rv_insertion_rad)))
    root = ((furthest - d) ** 2 - d * d * (1.0 - cosine * cosine)).clamp_min(1.0).sqrt()
    return (d * cosine + root) ** 2


def tissue_at(
    anatomy: Anatomy, s: Float[Tensor, "z y x"], radius: Float[Tensor, "z y x"], surfaces: Surfaces
) -> Bool[Tensor, "3 z y x"]:
    """Return where the LV's wall, the RV's blood pool and the LV's blood pool are.

    Args:
        anatomy: The anatomy at ED.
        s: Position of the material at ED along the axis, in mm.
        radius: Distance from the axis in mm, at ED or later.
        surfaces: The surfaces at the same time as ``radius``.
    """
    endo, epi, rv = (squared.sqrt() for squared in (surfaces.endo, surfaces.epi, surfaces.rv))
    wall = (radius >= endo) & (radius < epi) & (s < 0) & (s > -anatomy.length_mm)
    right = (radius >= epi) & (radius < rv) & (surfaces.rv_gap > 0)
    right = right & (s < anatomy.rv_base_mm) & (s > -anatomy.rv_length_mm)
    blood = (radius < endo) & (s < 0) & (s > -anatomy.cavity_length_mm)
    return torch.stack([wall, right, blood])
