"""The long axis of the left ventricle: a straight line through the centres of its cavity, from base to apex."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from cmnet_core.labels import Label
from cmnet_core.types import Spacing

VENTRICULAR_FRACTION, CENTRED_FRACTION = 0.5, 0.8
"""Fraction of the directions around the cavity in which a slice must have wall: to belong to the ventricle rather than
to the outflow tract, and for the centroid of its cavity to count as its centre."""

SMALLEST_CAVITY_MM2 = 150.0
"""Area from which on the centroid of a cavity counts as its centre, in mm²."""

_DIRECTIONS = 36


@dataclass(frozen=True, slots=True)
class LongAxis:
    """A straight axis through the LV; in-plane positions are in mm from the centre of voxel (0, 0).

    Attributes:
        base: Position of the base, in slices.
        apex: Position of the tip of the cavity, in slices.
        origin_mm: Position (y, x) at which the axis meets slice 0.
        slope: Displacement along y and x in mm for each mm along z.
    """

    base: float
    apex: float
    origin_mm: tuple[float, float]
    slope: tuple[float, float]

    @property
    def direction(self) -> Float64[Tensor, "3"]:
        """Unit vector (z, y, x) from base to apex."""
        along = torch.tensor([1.0, *self.slope], dtype=torch.float64)
        unit: Tensor = (1.0 if self.apex > self.base else -1.0) * along / along.norm()
        return unit

    def centres_mm(self, depth: int, slice_mm: float) -> Float64[Tensor, "z 2"]:
        """Return the position (y, x) at which the axis meets each slice of a stack.

        Args:
            depth: Number of slices.
            slice_mm: Distance between two slices in mm.
        """
        z = torch.arange(depth, dtype=torch.float64)[:, None] * slice_mm
        return torch.tensor(self.origin_mm, dtype=torch.float64) + z * torch.tensor(self.slope, dtype=torch.float64)


@dataclass(frozen=True, slots=True, eq=False)
class SliceGeometry:
    """The LV in each slice of a label map.

    Attributes:
        area_mm2: Area of the cavity in mm².
        centre_mm: Centroid (y, x) of the cavity in mm; NaN without a cavity.
        wall_fraction: Fraction of the directions around the cavity in which there is wall.
    """

    area_mm2: NDArray[np.float64]
    centre_mm: NDArray[np.float64]
    wall_fraction: NDArray[np.float64]

    @property
    def ventricular(self) -> NDArray[np.bool_]:
        """Slices that belong to the ventricle."""
        return (self.area_mm2 > 0) & (self.wall_fraction >= VENTRICULAR_FRACTION)

    @property
    def centred(self) -> NDArray[np.bool_]:
        """Slices whose centroid counts as the centre; all ventricular slices where there is no such slice."""
        closed = self.wall_fraction >= CENTRED_FRACTION
        reliable = self.ventricular & closed & (self.area_mm2 >= SMALLEST_CAVITY_MM2)
        return reliable if reliable.any() else self.ventricular


def measure_slices(labels: NDArray[np.uint8], spacing: Spacing) -> SliceGeometry:
    """Measure area, centroid and wall of the LV in each slice of a label map.

    Args:
        labels: Label map ``[z y x]``.
        spacing: Voxel spacing in mm.
    """
    depth = len(labels)
    centres, wall_fraction = np.full((depth, 2), np.nan), np.zeros(depth)
    for z in range(depth):
        cavity, muscle = np.argwhere(labels[z] == Label.LV), np.argwhere(labels[z] == Label.MYO)
        if len(cavity):
            centres[z] = cavity.mean(0) * (spacing.y, spacing.x)
            offset = muscle * (spacing.y, spacing.x) - centres[z]
            direction = np.floor(np.arctan2(offset[:, 0], offset[:, 1]) / (2 * math.pi) * _DIRECTIONS)
            wall_fraction[z] = len(np.unique(direction % _DIRECTIONS)) / _DIRECTIONS
    area = (labels == Label.LV).sum((1, 2)) * spacing.y * spacing.x
    return SliceGeometry(area, centres, wall_fraction)


def fit_axis(
    labels: NDArray[np.uint8], slices: SliceGeometry, spacing: Spacing, affine: Float64[Tensor, "4 4"] | None
) -> LongAxis | None:
    """Fit the LV's long axis to the centroids of its cavity, slices weighted by their area.

    Slices that open to the outflow tract are left out, since their centroid is not the centre of the ventricle. The
    base is at the end at which the heart is larger; where both ends are equally large, the affine decides.

    Args:
        labels: Label map ``[z y x]``.
        slices: The LV in each of its slices.
        spacing: Voxel spacing in mm.
        affine: Maps a voxel index (z, y, x, 1) to scanner millimetres (RAS+); not used unless both ends are alike.

    Returns:
        The axis, or None without a slice of the LV.
    """
    ventricular = np.flatnonzero(slices.ventricular)
    if not len(ventricular):
        return None
    used = np.flatnonzero(slices.centred)
    weight = slices.area_mm2[used] / slices.area_mm2[used].sum()
    z_mm = used * spacing.z
    middle, centre = weight @ z_mm, weight @ slices.centre_mm[used]
    lever = weight * (z_mm - middle)
    variance = float(lever @ (z_mm - middle))
    slope = lever @ slices.centre_mm[used] / variance if variance > 0 else np.zeros(2)
    ordered = ventricular[::-1] if _apex_comes_first(labels, ventricular, affine) else ventricular
    base, apex = _ends(ordered, slices.area_mm2[ordered])
    return LongAxis(
        base=base,
        apex=apex,
        origin_mm=(float(centre[0] - middle * slope[0]), float(centre[1] - middle * slope[1])),
        slope=(float(slope[0]), float(slope[1])),
    )


def _ends(ordered: NDArray[np.int64], area_mm2: NDArray[np.float64]) -> tuple[float, float]:
    """Positions of base and tip in slices, from the cavity's areas in the order from base to apex.

    A slice represents half of the distance to its neighbours on either side. A basal slice that the valve plane cuts
    contains only a part of the cavity and represents the same fraction of its thickness. Towards the tip the cavity is
    taken as a paraboloid, whose area falls linearly to 0.
    """
    if len(ordered) == 1:
        return ordered[0] - 0.5, ordered[0] + 0.5
    basal_fraction = min(1.0, area_mm2[0] / area_mm2[1])
    fall = area_mm2[-2] - area_mm2[-1]
    to_tip = min(1.0, area_mm2[-1] / fall) if fall > 0 else 1.0
    step = 1.0 if ordered[1] > ordered[0] else -1.0
    return float(ordered[0] + step * (0.5 - basal_fraction)), float(ordered[-1] + step * to_tip)


def _apex_comes_first(
    labels: NDArray[np.uint8], ventricular: NDArray[np.int64], affine: Float64[Tensor, "4 4"] | None
) -> bool:
    area = (labels != Label.BACKGROUND).sum((1, 2))[ventricular].astype(float)
    lever = float(((ventricular - ventricular.mean()) * area).sum())
    if abs(lever) > 1e-6 * area.sum() or affine is None:
        return lever > 0
    # The apex points to the left, to the front and downwards: RAS (-, +, -).
    return float(affine[:3, 0] @ torch.tensor([-1.0, 1.0, -1.0], dtype=affine.dtype)) < 0
