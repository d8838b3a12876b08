"""Engineering strain of contours: how much longer or shorter a line of material becomes.

This is what is measured on tracked contours: length over length at ED, less 1. It is not Green-Lagrange strain, and
has names of its own: a line that shortens by 20 % has a Green-Lagrange strain of -18 %.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cmnet_core.mechanics.lagrangian import MaterialMotion
from cmnet_core.mechanics.strain import Deformation, WallVoxels

_POINTS = 72
_HARMONICS = 4  # of a contour's radius around the slice: more would follow the corners of voxels
_SECTORS = 24


@dataclass(frozen=True, slots=True, eq=False)
class LineStrain:
    """Change of length since ED, in %, in every frame; over all slices whose wall goes all the way round.

    NaN where there is no such slice.

    Attributes:
        endo_pct: Of the endocardial contours.
        mid_pct: Of the contours half way through the wall.
        epi_pct: Of the epicardial contours.
    """

    endo_pct: Float[Tensor, " t"]
    mid_pct: Float[Tensor, " t"]
    epi_pct: Float[Tensor, " t"]


def line_strain(wall: WallVoxels, motion: MaterialMotion, deformation: Deformation) -> LineStrain:
    """Lengths of the three contours of every closed slice, all slices together, against those at ED."""
    lengths = [_lengths_mm(wall, motion, deformation, ring) for ring in _closed_rings(wall)]
    frames = len(motion.frames)
    total = torch.stack(lengths).sum(0) if lengths else torch.full((frames, 3), torch.nan, dtype=torch.float64)
    strain = 100.0 * (total / total[motion.frames.index(motion.ed)] - 1.0)
    return LineStrain(*strain.T)


def _closed_rings(wall: WallVoxels) -> list[Bool[Tensor, " n"]]:
    """The wall's voxels of each slice that has some in every direction."""
    numbers = wall.slice_index[wall.ventricular].bincount().nonzero()[:, 0]
    rings = [wall.ventricular & (wall.slice_index == number) for number in numbers]
    return [ring for ring in rings if _is_closed(_angles(wall, ring)[0])]


def _is_closed(angle: Float[Tensor, " n"]) -> bool:
    sector = (torch.remainder(angle, 2.0 * math.pi) / (2.0 * math.pi) * _SECTORS).long().clamp_max(_SECTORS - 1)
    return bool((sector.bincount(minlength=_SECTORS) > 0).all())


def _angles(
    wall: WallVoxels, ring: Bool[Tensor, " n"]
) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"], Float[Tensor, "2"]]:
    """Angle and radius in mm of a ring's voxels about its centre in the plane of the slice, and that centre."""
    plane = wall.position_mm[ring, 1:]
    centre = plane.mean(0)
    y, x = (plane - centre).T
    return torch.atan2(y, x), torch.hypot(y, x), centre


def _lengths_mm(
    wall: WallVoxels, motion: MaterialMotion, deformation: Deformation, ring: Bool[Tensor, " n"]
) -> Float[Tensor, "t 3"]:
    """Length of the three contours of one slice in every frame, in space."""
    places = wall.position_mm[ring]
    lengths = []
    for contour in _contours(wall, ring):
        nearest = torch.cdist(contour, places, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        offset = contour - places[nearest]
        # Contours lie up to a voxel beyond the wall's voxel centres; the gradient leads there without leaving the wall.
        moved = motion.displacement_mm[:, ring][:, nearest] + places[nearest]
        moved = moved + (deformation.gradient[:, ring][:, nearest] @ offset[:, :, None])[..., 0]
        lengths.append((moved - moved.roll(1, dims=1)).norm(dim=-1).sum(-1))
    return torch.stack(lengths, dim=1)


def _contours(wall: WallVoxels, ring: Bool[Tensor, " n"]) -> tuple[Float[Tensor, "k 3"], ...]:
    """Endocardium, mid-wall and epicardium of a slice at ED, as closed polygons.

    Each voxel knows how far it is from either surface, and so where the surfaces are in its direction; a short Fourier
    series of the angle through all of these makes contours that are finer than voxels.
    """
    angle, radius, centre = _angles(wall, ring)
    depth = wall.transmural[ring] * wall.thickness_mm[ring]
    inner, outer = radius - depth, radius - depth + wall.thickness_mm[ring]
    around = torch.arange(_POINTS, dtype=torch.float64) * (2.0 * math.pi / _POINTS)
    fit = torch.linalg.lstsq(_harmonics(angle), torch.stack([inner, 0.5 * (inner + outer), outer], dim=1)).solution
    direction = torch.stack([torch.zeros_like(around), around.sin(), around.cos()], dim=1)
    middle = torch.cat([wall.position_mm[ring, 0].mean()[None], centre])
    # Libraries of linear algebra differ in the last digits from call to call. Rounded, a point of a contour always has
    # the same nearest voxel, and a subject always the same tables.
    radii = (_harmonics(around) @ fit).T.round(decimals=6)
    return tuple(middle + r[:, None] * direction for r in radii)


def _harmonics(angle: Float[Tensor, " n"]) -> Float[Tensor, "n h"]:
    orders = torch.arange(1, _HARMONICS + 1, dtype=torch.float64)
    phase = angle[:, None] * orders
    return torch.cat([torch.ones_like(angle)[:, None], phase.cos(), phase.sin()], dim=1)
