"""Engineering strain of contours: the relative change of length of a line of material, ``L / L_ED - 1``.

This is the strain that feature tracking reports for contours. It differs from Green-Lagrange strain and has columns of
its own: a line that shortens by 20 % has a Green-Lagrange strain of -18 %.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
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
        midwall_pct: Contours halfway through the wall.
        epi_pct: Epicardial contours.
    """

    endo_pct: Float[Tensor, " t"]
    midwall_pct: Float[Tensor, " t"]
    epi_pct: Float[Tensor, " t"]


def line_strain(wall: WallVoxels, motion: MaterialMotion, deformation: Deformation) -> LineStrain:
    """Compute the change of length of the three contours, summed over all slices with a closed wall.

    Args:
        wall: Voxels of the wall at ED.
        motion: Their displacement.
        deformation: Their deformation by this motion.
    """
    moved = [
        move_points(contour_points(wall, ring), wall, motion, deformation, ring) for ring in closed_rings(wall)
    ] or [torch.zeros(len(motion.frames), 0, 3, dtype=torch.float64)]
    return line_strain_of(torch.cat(moved, dim=1), ed=motion.frames.index(motion.ed))


def line_strain_of(points_mm: Float[Tensor, "t k 3"], *, ed: int) -> LineStrain:
    """Compute the change of length of the three contours, summed over slices; NaN without a slice.

    Args:
        points_mm: Position in every frame of the :func:`contour_points` of each slice, one slice after the other.
        ed: Position of ED in the frames.
    """
    contours = torch.unflatten(points_mm, 1, (points_mm.shape[1] // (3 * _POINTS), 3, _POINTS))
    # A norm along an axis of three costs several times as much.
    total = (contours - contours.roll(1, dims=3)).square().sum(-1).sqrt().sum((1, 3))
    # Without a slice, 0 / 0 is NaN.
    strain = 100.0 * (total / total[ed] - 1.0)
    return LineStrain(*strain.T)


def closed_rings(wall: WallVoxels) -> list[Bool[Tensor, " n"]]:
    """Voxels of the wall in each slice that has some of them in every direction."""
    return [ring for ring in slice_rings(wall) if is_closed(wall, ring)]


def slice_rings(wall: WallVoxels, *, fewest: int = 1) -> list[Bool[Tensor, " n"]]:
    """Voxels of the wall in each slice that has at least so many of them, in the order of the slices."""
    indices = (wall.slice_index[wall.ventricular].bincount() >= fewest).nonzero()[:, 0]
    return [wall.ventricular & (wall.slice_index == index) for index in indices]


def is_closed(wall: WallVoxels, ring: Bool[Tensor, " n"]) -> bool:
    """Whether a slice has voxels of the wall in every direction."""
    angle = _polar(wall, ring)[0]
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


def contour_points(wall: WallVoxels, ring: Bool[Tensor, " n"]) -> Float[Tensor, "k 3"]:
    """Points of the three contours of a slice at ED in mm, endocardial ones first, equally many of each.

    Args:
        wall: Voxels of the wall at ED.
        ring: Voxels of the slice.
    """
    contours = ring_contours(wall, ring)
    around = torch.arange(_POINTS, dtype=torch.float64) * (2.0 * math.pi / _POINTS)
    return torch.cat([contours.at(layer, around) for layer in (0.0, 0.5, 1.0)])


def move_points(
    points: Float[Tensor, "k 3"],
    wall: WallVoxels,
    motion: MaterialMotion,
    deformation: Deformation,
    ring: Bool[Tensor, " n"],
) -> Float[Tensor, "t k 3"]:
    """Positions in every frame of points within the wall of one slice at ED, in mm.

    A point is up to a voxel away from the nearest voxel centre of the wall. The displacement there is extrapolated with
    the deformation gradient, since values outside the wall belong to other tissue.

    Args:
        points: Positions at ED.
        wall: Voxels of the wall at ED.
        motion: Their displacement.
        deformation: Their deformation by this motion.
        ring: Voxels of the slice.
    """
    positions = wall.position_mm[ring]
    nearest = nearest_voxels(points, positions)
    chosen = ring.nonzero()[:, 0][nearest]
    offset = points - positions[nearest]
    moved = motion.displacement_mm[:, chosen] + positions[nearest]
    return moved + (deformation.gradient[:, chosen] @ offset[:, :, None])[..., 0]


def nearest_voxels(points: Float[Tensor, "k 3"], positions: Float[Tensor, "n 3"]) -> Int64[Tensor, " k"]:
    """Index of the voxel that is nearest to each point."""
    return torch.cdist(points, positions, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)


@dataclass(frozen=True, slots=True, eq=False)
class RingContours:
    """Endocardium and epicardium of a slice at ED, as radii over the in-plane angle.

    Attributes:
        centre_mm: Position (z, y, x) of the centre.
        inner: Fourier coefficients of the endocardial radius in mm.
        outer: Fourier coefficients of the epicardial radius in mm.
    """

    centre_mm: Float[Tensor, "3"]
    inner: Float[Tensor, " h"]
    outer: Float[Tensor, " h"]

    def at(self, layer: float, angle: Float[Tensor, " k"]) -> Float[Tensor, "k 3"]:
        """Return positions in mm at a depth in the wall, 0 at the endocardium and 1 at the epicardium.

        Args:
            layer: Depth.
            angle: Angles in rad.
        """
        # Linear algebra libraries differ in the last digits from call to call. Rounding makes sure that a point of a
        # contour always has the same nearest voxel, and a subject the same tables.
        radius = (_harmonics(angle) @ ((1.0 - layer) * self.inner + layer * self.outer)).round(decimals=6)
        direction = torch.stack([torch.zeros_like(angle), angle.sin(), angle.cos()], dim=1)
        return self.centre_mm + radius[:, None] * direction


def ring_contours(wall: WallVoxels, ring: Bool[Tensor, " n"]) -> RingContours:
    """Fit the contours of a slice with a closed wall.

    The depth of each voxel in the wall gives the radius of both surfaces in its direction. A short Fourier series of
    the angle is fitted to these radii, so that the contours are finer than voxels.

    Args:
        wall: Voxels of the wall at ED.
        ring: Voxels of the slice.
    """
    angle, radius, centre = _polar(wall, ring)
    depth = wall.transmural[ring] * wall.thickness_mm[ring]
    inner = radius - depth
    fit = torch.linalg.lstsq(_harmonics(angle), torch.stack([inner, inner + wall.thickness_mm[ring]], dim=1)).solution
    return RingContours(torch.cat([wall.position_mm[ring, 0].mean()[None], centre]), *fit.T)


def _harmonics(angle: Float[Tensor, " n"]) -> Float[Tensor, "n h"]:
    orders = torch.arange(1, _HARMONICS + 1, dtype=torch.float64)
    phase = angle[:, None] * orders
    return torch.cat([torch.ones_like(angle)[:, None], phase.cos(), phase.sin()], dim=1)
