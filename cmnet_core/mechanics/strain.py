"""Green-Lagrange strain of the LV wall along the ventricle's own directions, over its layers, levels and segments.

:func:`cmnet_core.mechanics.analysis.analyse_wall` does all of it for one ventricle. Draws of a motion share the voxels
of the wall, which are costly, and repeat the rest::

    voxels = wall_voxels(coordinates, labels_ed == Label.MYO, spacing)
    motion = follow_material(fields, labels_ed == Label.MYO)
    strain = regional_strain(voxels, deform(voxels, motion))    # in %, by direction, frame and region
    gcs = strain.whole[Direction.CIRCUMFERENTIAL]
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
    """Directions of the LV, in the order of every array that has one row for each direction."""

    RADIAL = 0
    CIRCUMFERENTIAL = 1
    LONGITUDINAL = 2


SIGN = {Direction.RADIAL: 1.0, Direction.CIRCUMFERENTIAL: -1.0, Direction.LONGITUDINAL: -1.0}
"""Sign of the strain in contracting myocardium: it thickens, and shortens around and along the ventricle."""


@dataclass(frozen=True, slots=True, eq=False)
class WallVoxels:
    """The voxels of a myocardial mask with their coordinates, in the order of ``mask.nonzero()``.

    Voxels outside the ventricle (the cap beyond the cavity's tip, and the wall above the base) contribute to
    derivatives, but not to any mean.

    Attributes:
        position_mm: Position from the centre of voxel (0, 0, 0) along the grid's axes (z, y, x), in mm.
        slice_index: Index of the slice.
        directions: Unit vectors, rows in the order of :class:`Direction`.
        longitudinal: 0 at the base to 1 at the cavity's tip; this and the next two are NaN outside the ventricle.
        circumferential_deg: Angle in degrees, 60 in the middle of the septum; NaN also where that is not known.
        transmural: 0 at the endocardium to 1 at the epicardium.
        thickness_mm: Wall thickness in mm.
        segment: AHA segment 1 to 16, or 0.
        ventricular: Whether the voxel belongs to the ventricle.
        gradient: Operator that differentiates values given on the voxels.
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
    """Collect the coordinates of a mask's voxels and build the operator that differentiates on them.

    Args:
        coordinates: Coordinates on the mask's grid.
        mask: All of the myocardium at ED: voxels outside the coordinates' wall still contribute to derivatives.
        spacing: Voxel spacing in mm.

    Raises:
        GeometryError: Mask and coordinates are on different grids.
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
    """Deformation of the wall's voxels by a motion.

    Attributes:
        gradient: Deformation gradient F along the grid's axes.
        strain: Green-Lagrange strain along the LV's directions at ED, as a fraction. The longitudinal one is NaN where
            a voxel has no neighbour in another slice.
    """

    gradient: Float[Tensor, "t n 3 3"]
    strain: Float[Tensor, "3 t n"]


def deform(wall: WallVoxels, motion: MaterialMotion) -> Deformation:
    """Compute deformation gradient and strain: ``nᵀEn = ½(|Fn|² - 1)`` along a unit vector n, ``E = ½(FᵀF - I)``.

    Args:
        wall: Voxels of the wall at ED.
        motion: Displacement of the same voxels.

    Raises:
        GeometryError: The motion is that of another mask.
    """
    voxels, displacements = len(wall.ventricular), motion.displacement_mm.shape[1]
    if displacements != voxels:
        raise GeometryError(
            f"A wall of {voxels} voxels cannot be moved by {displacements} displacements.",
            hint="Give the motion of the mask from which the wall's voxels were collected.",
            code=ErrorCode.GEOMETRY,
        )
    gradient = wall.gradient.deformation_gradient(motion.displacement_mm)
    stretched = torch.einsum("tnij,ndj->dtni", gradient, wall.directions)
    strain = 0.5 * (stretched.square().sum(-1) - 1.0)
    strain[Direction.LONGITUDINAL, :, ~wall.gradient.has_through_plane] = torch.nan
    return Deformation(gradient, strain)


@dataclass(frozen=True, slots=True, eq=False)
class RegionalStrain:
    """Mean strain in % over regions of the wall, by :class:`Direction` and frame, in the order of the motion's frames.

    Means are over the wall's volume at ED; a region without voxels is NaN. The longitudinal strain is that along a
    stack of short-axis slices (GLS-SAX).

    Attributes:
        whole: The whole wall: the curves of GRS, GCS and GLS-SAX.
        layers: Endocardial, middle and epicardial third of the depth.
        levels: Basal, middle and apical third of the length.
        segments: AHA segments 1 to 16.
    """

    whole: Float[Tensor, "3 t"]
    layers: Float[Tensor, "3 t 3"]
    levels: Float[Tensor, "3 t 3"]
    segments: Float[Tensor, "3 t 16"]


def regional_strain(wall: WallVoxels, deformation: Deformation) -> RegionalStrain:
    """Average the strain over the wall, its layers, levels and segments.

    Args:
        wall: Voxels of the wall at ED.
        deformation: Their deformation.
    """
    return mean_strain(wall, deformation.strain)


def mean_strain(wall: WallVoxels, strain: Float[Tensor, "3 t n"]) -> RegionalStrain:
    """Average the strain of voxels over the wall, its layers, levels and segments.

    Args:
        wall: Voxels of the wall at ED.
        strain: Strain of each voxel in every frame by :class:`Direction`, as a fraction; NaN in all frames where it is
            not known.
    """
    regions = [
        wall.ventricular[None],
        _thirds(wall.transmural, wall.ventricular),
        _thirds(wall.longitudinal, wall.ventricular),
        wall.ventricular & (wall.segment == torch.arange(1, SEGMENTS + 1)[:, None]),
    ]
    known = ~strain[:, 0].isnan()
    members = (torch.cat(regions) & known[:, None]).to(strain)
    sums = strain.nan_to_num() @ members.mT
    # 0 / 0 = NaN for a region in which no voxel has this strain.
    means = 100.0 * sums / members.sum(-1)[:, None]
    whole, layers, levels, segments = torch.split(means, [len(region) for region in regions], dim=-1)
    return RegionalStrain(whole[..., 0], layers, levels, segments)


def engineering_strain(strain: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Convert Green-Lagrange strain to the engineering strain of short lines of material, ``√(1 + 2E) - 1``.

    Args:
        strain: Green-Lagrange strain as a fraction.
    """
    return (1.0 + 2.0 * strain).clamp_min(0.0).sqrt() - 1.0


def _thirds(position: Float[Tensor, " n"], ventricular: Bool[Tensor, " n"]) -> Bool[Tensor, "3 n"]:
    third = (position.nan_to_num() * THIRDS).long().clamp(0, THIRDS - 1)
    return ventricular & (third == torch.arange(THIRDS)[:, None])
