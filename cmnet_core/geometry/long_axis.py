"""The left ventricle's long axis: a line through the centres of its cavity, from base to apex."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from cmnet_core.labels import Label
from cmnet_core.types import Spacing

OPEN_SHARE, CLOSED_SHARE = 0.5, 0.8
"""Share of the directions around the cavity in which a slice must have wall: to belong to the ventricle at all rather
than to the outflow tract, and to tell where its centre is."""

SMALLEST_CAVITY_MM2 = 150.0
"""A smaller cavity does not tell where the centre is."""

_DIRECTIONS = 36


@dataclass(frozen=True, slots=True)
class LongAxis:
    """A straight axis through the LV; places within a slice in mm from the centre of voxel (0, 0).

    Attributes:
        base: Where the base lies, in slices.
        apex: Where the tip of the cavity lies, in slices.
        origin_mm: Where the axis meets slice 0 (y, x).
        slope: How many mm it moves along y and x for each mm along z.
    """

    base: float
    apex: float
    origin_mm: tuple[float, float]
    slope: tuple[float, float]

    @property
    def towards_apex(self) -> float:
        """1 where the slices run from base to apex, else -1."""
        return 1.0 if self.apex > self.base else -1.0

    @property
    def direction(self) -> Float64[Tensor, "3"]:
        """Unit vector (z, y, x) from base to apex."""
        along = torch.tensor([1.0, *self.slope], dtype=torch.float64)
        unit: Tensor = self.towards_apex * along / along.norm()
        return unit

    def along(self, depth: int) -> Float64[Tensor, " z"]:
        """Of each slice of a stack: its place from base (0) to apex (1)."""
        return ((torch.arange(depth, dtype=torch.float64) - self.base) / (self.apex - self.base)).clamp(0.0, 1.0)

    def centres_mm(self, depth: int, slice_mm: float) -> Float64[Tensor, "z 2"]:
        """Where the axis meets each slice of a stack (y, x)."""
        z = torch.arange(depth, dtype=torch.float64)[:, None] * slice_mm
        return torch.tensor(self.origin_mm, dtype=torch.float64) + z * torch.tensor(self.slope, dtype=torch.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Slices:
    """What each slice of a label map shows of the LV.

    Attributes:
        area_mm2: Of the cavity.
        centre_mm: Of the cavity (y, x); NaN where there is none.
        closed: Share of the directions around the cavity in which there is wall.
    """

    area_mm2: NDArray[np.float64]
    centre_mm: NDArray[np.float64]
    closed: NDArray[np.float64]

    @property
    def ventricular(self) -> NDArray[np.bool_]:
        """Slices that belong to the ventricle."""
        return (self.area_mm2 > 0) & (self.closed >= OPEN_SHARE)

    @property
    def central(self) -> NDArray[np.bool_]:
        """Slices that tell where the centre is."""
        telling = self.ventricular & (self.closed >= CLOSED_SHARE) & (self.area_mm2 >= SMALLEST_CAVITY_MM2)
        return telling if telling.any() else self.ventricular


def look_at_slices(labels: NDArray[np.uint8], spacing: Spacing) -> Slices:
    """What each slice of a label map shows of the LV."""
    depth = len(labels)
    centres, closed = np.full((depth, 2), np.nan), np.zeros(depth)
    for z in range(depth):
        cavity, muscle = np.argwhere(labels[z] == Label.LV), np.argwhere(labels[z] == Label.MYO)
        if len(cavity):
            centres[z] = cavity.mean(0) * (spacing.y, spacing.x)
            offset = muscle * (spacing.y, spacing.x) - centres[z]
            direction = np.floor(np.arctan2(offset[:, 0], offset[:, 1]) / (2 * math.pi) * _DIRECTIONS)
            closed[z] = len(np.unique(direction % _DIRECTIONS)) / _DIRECTIONS
    area = (labels == Label.LV).sum((1, 2)) * spacing.y * spacing.x
    return Slices(area, centres, closed)


def long_axis(
    labels: UInt8[Tensor, "z y x"], spacing: Spacing, affine: Float64[Tensor, "4 4"] | None = None
) -> LongAxis | None:
    """The LV's axis: the line that fits the centres of its cavity best, slices weighted by their area.

    Slices that open to the outflow tract tell nothing of the centre. The base is the end at which the heart is larger;
    hearts that are as large at either end are laid out by the affine.

    Args:
        labels: A label map.
        spacing: Of its grid.
        affine: Of its grid; decides nothing unless both ends are alike.

    Returns:
        The axis, or None without a slice of the LV.
    """
    array = labels.cpu().numpy()
    return fit_axis(array, look_at_slices(array, spacing), spacing, affine)


def fit_axis(
    labels: NDArray[np.uint8], slices: Slices, spacing: Spacing, affine: Float64[Tensor, "4 4"] | None
) -> LongAxis | None:
    """As :func:`long_axis`, of slices that have been looked at."""
    seen = np.flatnonzero(slices.ventricular)
    if not len(seen):
        return None
    used = np.flatnonzero(slices.central)
    weight = slices.area_mm2[used] / slices.area_mm2[used].sum()
    place = used * spacing.z
    middle, centre = weight @ place, weight @ slices.centre_mm[used]
    lever = weight * (place - middle)
    power = float(lever @ (place - middle))
    slope = lever @ slices.centre_mm[used] / power if power > 0 else np.zeros(2)
    ordered = seen[::-1] if _apex_comes_first(labels, seen, affine) else seen
    base, apex = _ends(ordered, slices.area_mm2[ordered])
    return LongAxis(
        base=base,
        apex=apex,
        origin_mm=(float(centre[0] - middle * slope[0]), float(centre[1] - middle * slope[1])),
        slope=(float(slope[0]), float(slope[1])),
    )


def _ends(ordered: NDArray[np.int64], area_mm2: NDArray[np.float64]) -> tuple[float, float]:
    """Where base and tip lie, in slices, from the cavity's areas from base to apex.

    A slice stands for half its distance to either side. A basal one that the valve plane cuts holds a part of the
    cavity, and stands for as much. Towards its tip the cavity is a paraboloid, whose area falls evenly to 0.
    """
    if len(ordered) == 1:
        return ordered[0] - 0.5, ordered[0] + 0.5
    share = min(1.0, area_mm2[0] / area_mm2[1])
    fall = area_mm2[-2] - area_mm2[-1]
    left = min(1.0, area_mm2[-1] / fall) if fall > 0 else 1.0
    step = 1.0 if ordered[1] > ordered[0] else -1.0
    return float(ordered[0] + step * (0.5 - share)), float(ordered[-1] + step * left)


def _apex_comes_first(
    labels: NDArray[np.uint8], seen: NDArray[np.int64], affine: Float64[Tensor, "4 4"] | None
) -> bool:
    area = (labels != Label.BACKGROUND).sum((1, 2))[seen].astype(float)
    lever = float(((seen - seen.mean()) * area).sum())
    if abs(lever) > 1e-6 * area.sum() or affine is None:
        return lever > 0
    # An apex lies to the left, in front and below: RAS (-, +, -).
    return float(affine[:3, 0] @ torch.tensor([-1.0, 1.0, -1.0], dtype=affine.dtype)) < 0
