"""Engineering strain of contours: the relative change of length of a line of material, ``L / L_ED - 1``.

This is the strain that feature tracking reports for contours. It differs from Green-Lagrange strain and has columns of
its own: a line that shortens by 20 % has a Green-Lagrange strain of -18 %.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cmnet_core.mechanics.lagrangian import MaterialMotion
from cmnet_core.mechanics.strain import Deformation, WallVoxels

_POINTS = 72
_HARMONICS = 4  # harmonics of a contour's radius over the angle; more of them would follow the corners of voxels
_SECTORS = 24


@dataclass(frozen=True, slots=True, eq=False)
class LineStrain:
    """Change of length since ED in % in every frame, over all slices with a closed wall; NaN without such a slice.

    Attributes:
        endo_pct: Endocardial contours.
        mid_pct: Contours halfway through the wall.
        epi_pct: Epicardial contours.
    """

    endo_pct: Float[Tensor, " t"]
    mid_pct: Float[Tensor, " t"]
    epi_pct: Float[Tensor, " t"]


def line_strain(wall: WallVoxels, motion: MaterialMotion, deformation: Deformation) -> LineStrain:
    """Compute the change of length of the three contours, summed over all slices with a closed wall.

    Args:
        wall: Voxels of the wall at ED.
        motion: Their displacement.
        deformation: Their deformation by this motion.
    """
    lengths = [_lengths_mm(wall, motion, deformation, ring) for ring in _closed_rings(wall)]
    frames = len(motion.frames)
    total = torch.stack(lengths).sum(0) if lengths else torch.full((frames, 3), torch.nan, dtype=torch.float64)
    strain = 100.0 * (total / total[motion.frames.index(motion.ed)] - 1.0)
    return LineStrain(*strain.T)


def _closed_rings(wall: WallVoxels) -> list[Bool[Tensor, " n"]]:
    """Voxels of the wall in each slice that has some of them in every direction."""
    indices = wall.slice_index[wall.ventricular].bincount().nonzero()[:, 0]
    rings = [wall.ventricular & (wall.slice_index == index) for index in indices]
    return [ring for ring in rings if _is_closed(_polar(wall, ring)[0])]


def _is_closed(angle: Float[Tensor, " n"]) -> bool:
    sector = (torch.remainder(angle, 2.0 * math.pi) / (2.0 * math.pi) * _SECTORS).long().clamp_max(_SECTORS - 1)
    return bool((sector.bincount(minlength=_SECTORS) > 0).all())


def _polar(
    wall: WallVoxels, ring: Bool[Tensor, " n"]
) -> tuple[Float[Tensor, " r"], Float[Tensor, " r"], Float[Tensor, "2"]]:
    """In-plane angle in rad and radius in mm of a ring's voxels about their centroid, and the centroid in mm."""
    in_plane = wall.position_mm[ring, 1:]
    centre = in_plane.mean(0)
    y, x = (in_plane - centre).T
    return torch.atan2(y, x), torch.hypot(y, x), centre


def _lengths_mm(
    wall: WallVoxels, motion: MaterialMotion, deformation: Deformation, ring: Bool[Tensor, " n"]
) -> Float[Tensor, "t 3"]:
    """Length in space of the three contours of one slice, in every frame."""
    positions = wall.position_mm[ring]
    lengths = []
    for contour in _contours(wall, ring):
        nearest = torch.cdist(contour, positions, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        offset = contour - positions[nearest]
        # A contour is up to a voxel away from the nearest voxel centre of the wall. The displacement there is
        # extrapolated with the deformation gradient, since values outside the wall belong to other tissue.
        moved = motion.displacement_mm[:, ring][:, nearest] + positions[nearest]
        moved = moved + (deformation.gradient[:, ring][:, nearest] @ offset[:, :, None])[..., 0]
        lengths.append((moved - moved.roll(1, dims=1)).norm(dim=-1).sum(-1))
    return torch.stack(lengths, dim=1)


def _contours(wall: WallVoxels, ring: Bool[Tensor, " n"]) -> tuple[Float[Tensor, "k 3"], ...]:
    """Endocardium, mid-wall and epicardium of a slice at ED, as closed polygons in mm.

    The depth of each voxel in the wall gives the radius of both surfaces in its direction. A short Fourier series of
    the angle is fitted to these radii, so that the contours are finer than voxels.
    """
    angle, radius, centre = _polar(wall, ring)
    depth = wall.transmural[ring] * wall.thickness_mm[ring]
    inner, outer = radius - depth, radius - depth + wall.thickness_mm[ring]
    around = torch.arange(_POINTS, dtype=torch.float64) * (2.0 * math.pi / _POINTS)
    fit = torch.linalg.lstsq(_harmonics(angle), torch.stack([inner, 0.5 * (inner + outer), outer], dim=1)).solution
    direction = torch.stack([torch.zeros_like(around), around.sin(), around.cos()], dim=1)
    middle = torch.cat([wall.position_mm[ring, 0].mean()[None], centre])
    # Linear algebra libraries differ in the last digits from call to call. Rounding makes sure that a point of a
    # contour always has the same nearest voxel, and a subject the same tables.
    radii = (_harmonics(around) @ fit).T.round(decimals=6)
    return tuple(middle + r[:, None] * direction for r in radii)


def _harmonics(angle: Float[Tensor, " n"]) -> Float[Tensor, "n h"]:
    orders = torch.arange(1, _HARMONICS + 1, dtype=torch.float64)
    phase = angle[:, None] * orders
    return torch.cat([torch.ones_like(angle)[:, None], phase.cos(), phase.sin()], dim=1)
