"""Strain of the LV's wall: Green-Lagrange, along the ventricle's own directions, over its layers, levels and segments.

How the parts go together::

    motion = follow_material(steps, labels_at_ed == Label.MYO)        # cmnet_core.mechanics.lagrangian; once a motion
    wall = lay_out_wall(coordinates, motion.mask, motion.spacing)     # once a subject; draws share it
    deformation = deform(wall, motion)
    strain = regional_strain(wall, deformation)                       # [direction frame region], in %
    gcs = strain.whole[Direction.CIRCUMFERENTIAL]                      # one curve
    summary = summarise(gcs, timing, sign=SIGN[Direction.CIRCUMFERENTIAL])    # cmnet_core.mechanics.strain_curves

Rotation and line strain (:mod:`cmnet_core.mechanics.rotation`, :mod:`cmnet_core.mechanics.line_strain`) start from
the same wall.
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from cmnet_core.errors import ErrorCode, GeometryError
from cmnet_core.geometry.lv_coordinates import SEGMENTS, LVCoordinates
from cmnet_core.mechanics.lagrangian import MaterialMotion
from cmnet_core.mechanics.masked_gradient import GradientOperator, gradient_operator
from cmnet_core.types import Spacing

THIRDS = 3


class Direction(IntEnum):
    """Directions of the LV, in the order of every array that has one row for each."""

    RADIAL = 0
    CIRCUMFERENTIAL = 1
    LONGITUDINAL = 2


SIGN = {Direction.RADIAL: 1.0, Direction.CIRCUMFERENTIAL: -1.0, Direction.LONGITUDINAL: -1.0}
"""Of the strain of muscle that contracts: it thickens, and becomes shorter around and along the ventricle."""


@dataclass(frozen=True, slots=True, eq=False)
class WallVoxels:
    """A myocardial mask as a list of voxels, in the order of ``mask.nonzero()``.

    Voxels outside the ventricle (the cap beyond the cavity's tip, what lies above the base) help to differentiate, but
    count in no average.

    Attributes:
        position_mm: From the centre of voxel (0, 0, 0), along the grid's axes (z, y, x).
        slice_index: Number of the slice.
        directions: Unit vectors, rows in the order of :class:`Direction`.
        longitudinal: 0 at the base to 1 at the cavity's tip; NaN outside the ventricle, as are the next two.
        circumferential_deg: From the anterior RV insertion; NaN also where that is not known.
        transmural: 0 at the endocardium to 1 at the epicardium.
        thickness_mm: Of the wall.
        segment: AHA segment 1 to 16, or 0.
        ventricular: Whether the voxel belongs to the ventricle.
        gradient: Differentiates what the voxels carry.
    """

    position_mm: Float[Tensor, "n 3"]
    slice_index: Int64[Tensor, " n"]
    directions: Float[Tensor, "n 3 3"]
    longitudinal: Float[Tensor, " n"]
    circumferential_deg: Float[Tensor, " n"]
    transmural: Float[Tensor, " n"]
    thickness_mm: Float[Tensor, " n"]
    segment: Int64[Tensor, " n"]
    ventricular: Bool[Tensor, " n"]
    gradient: GradientOperator


def wall_voxels(coordinates: LVCoordinates, mask: Bool[Tensor, "z y x"], spacing: Spacing) -> WallVoxels:
    """Read the coordinates of a mask's voxels and prepare to differentiate on them.

    Args:
        coordinates: On the mask's grid.
        mask: Myocardium at ED, whole: what is not in the coordinates' wall still tells derivatives.
        spacing: Of the grid.

    Raises:
        GeometryError: Mask and coordinates lie on different grids.
    """
    if mask.shape != coordinates.wall.shape:
        raise GeometryError(
            f"A mask of shape {tuple(mask.shape)} and coordinates of shape {tuple(coordinates.wall.shape)} do not fit.",
            hint="Compute the coordinates from the label map that the mask comes from.",
            code=ErrorCode.GEOMETRY,
        )
    voxels = mask.nonzero()
    units = (coordinates.radial_unit, coordinates.circumferential_unit, coordinates.longitudinal_unit)
    return WallVoxels(
        position_mm=voxels.double() * torch.tensor(spacing.zyx, dtype=torch.float64),
        slice_index=voxels[:, 0],
        directions=torch.stack([unit[:, mask].T for unit in units], dim=1).double(),
        longitudinal=coordinates.longitudinal[mask].double(),
        circumferential_deg=coordinates.circumferential_deg[mask].double(),
        transmural=coordinates.transmural[mask].double(),
        thickness_mm=coordinates.thickness_mm[mask].double(),
        segment=coordinates.segment[mask].long(),
        ventricular=coordinates.wall[mask],
        gradient=gradient_operator(mask, spacing),
    )


@dataclass(frozen=True, slots=True, eq=False)
class Deformation:
    """What a motion does to the wall.

    Attributes:
        gradient: F of every voxel, along the grid's axes.
        strain: Green-Lagrange strain along the LV's directions at ED, as a fraction; longitudinal NaN where a voxel has
            no neighbour in another slice.
    """

    gradient: Float[Tensor, "t n 3 3"]
    strain: Float[Tensor, "3 t n"]


def deform(wall: WallVoxels, motion: MaterialMotion) -> Deformation:
    """F and strain in every frame. Along a unit vector n, ``nᵀEn = ½(|Fn|² - 1)`` with ``E = ½(FᵀF - I)``.

    Raises:
        GeometryError: The motion is that of another mask.
    """
    voxels, displacements = len(wall.ventricular), motion.displacement_mm.shape[1]
    if displacements != voxels:
        raise GeometryError(
            f"A wall of {voxels} voxels cannot be moved by {displacements} displacements.",
            hint="Follow the material of the mask that the wall was laid out from.",
            code=ErrorCode.GEOMETRY,
        )
    gradient = wall.gradient.deformation(motion.displacement_mm)
    stretched = torch.einsum("tnij,ndj->dtni", gradient, wall.directions)
    strain = 0.5 * (stretched.square().sum(-1) - 1.0)
    strain[Direction.LONGITUDINAL, :, ~wall.gradient.has_depth] = torch.nan
    return Deformation(gradient, strain)


@dataclass(frozen=True, slots=True, eq=False)
class RegionalStrain:
    """Mean strain in % over parts of the wall, by :class:`Direction` and frame (in the order of the motion's frames).

    Means over the wall's volume at ED. A part without voxels is NaN. Longitudinal strain along a stack of slices is
    what is called GLS-SAX.

    Attributes:
        whole: All of it: the curves of GRS, GCS and GLS-SAX.
        layers: Endocardial, middle and epicardial third of the depth.
        levels: Basal, middle and apical third of the length.
        segments: AHA segments 1 to 16.
    """

    whole: Float[Tensor, "3 t"]
    layers: Float[Tensor, "3 t 3"]
    levels: Float[Tensor, "3 t 3"]
    segments: Float[Tensor, "3 t 16"]


def regional_strain(wall: WallVoxels, deformation: Deformation) -> RegionalStrain:
    """Average the strain over the wall and its parts."""
    parts = [
        wall.ventricular[None],
        _thirds(wall.transmural, wall.ventricular),
        _thirds(wall.longitudinal, wall.ventricular),
        wall.ventricular & (wall.segment == torch.arange(1, SEGMENTS + 1)[:, None]),
    ]
    members = torch.cat(parts).double()
    known = ~deformation.strain[:, 0].isnan()
    members = members * known[:, None].double()
    sums = torch.einsum("dtn,drn->dtr", deformation.strain.nan_to_num(), members)
    # 0 / 0: a part without a voxel that knows this strain is not known.
    means = 100.0 * sums / members.sum(-1)[:, None]
    whole, layers, levels, segments = torch.split(means, [len(part) for part in parts], dim=-1)
    return RegionalStrain(whole[..., 0], layers, levels, segments)


def engineering_strain(strain: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Engineering strain of short lines of material from their Green-Lagrange strain, ``√(1 + 2E) - 1``."""
    return (1.0 + 2.0 * strain).clamp_min(0.0).sqrt() - 1.0


def _thirds(position: Float[Tensor, " n"], ventricular: Bool[Tensor, " n"]) -> Bool[Tensor, "3 n"]:
    third = (position.nan_to_num() * THIRDS).long().clamp(0, THIRDS - 1)
    return ventricular & (third == torch.arange(THIRDS)[:, None])
