"""Thickness of the LV wall, and systolic thickening."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.geometry.lv_coordinates import SEGMENTS, LVCoordinates

FEWEST_VOXELS = 5
"""Number of voxels that a segment needs for its thickness to be reported."""

_SECTORS = 24  # of 15° in a slice; two neighbours form a sector of the maximum thickness


@dataclass(frozen=True, slots=True)
class WallThickness:
    """Mean thickness over the length of the wall, in mm.

    Attributes:
        whole_mm: Thickness of the whole wall; None without a wall.
        segments_mm: Thickness of AHA segments 1 to 16, each None where the segment is not visible.
    """

    whole_mm: float | None
    segments_mm: tuple[float | None, ...]


def wall_thickness(coordinates: LVCoordinates) -> WallThickness:
    """Compute the mean in-plane thickness of the wall in one frame.

    Args:
        coordinates: Coordinates of the wall in that frame.
    """
    wall = coordinates.wall
    thickness, segment = coordinates.thickness_mm[wall], coordinates.segment[wall]
    return WallThickness(
        whole_mm=_mean_over_length(thickness),
        segments_mm=tuple(_mean_over_length(thickness[segment == number]) for number in range(1, SEGMENTS + 1)),
    )


@dataclass(frozen=True, slots=True)
class MaximumThickness:
    """The largest thickness of the wall.

    Attributes:
        mm: Thickness in mm.
        segment: AHA segment in which it is; None where segments are not defined.
    """

    mm: float
    segment: int | None


def maximum_thickness(coordinates: LVCoordinates) -> MaximumThickness | None:
    """Find the largest mean thickness over a 30° sector of the wall in one slice; None where no sector is measured.

    The largest thickness of single voxels would rest on the noise of the contours. Sectors overlap by half, so that a
    thick part of the wall is not divided between two of them.

    Args:
        coordinates: Coordinates of the wall in one frame.
    """
    wall = coordinates.wall
    units = coordinates.radial_unit[1:, wall].double()
    angle = torch.rad2deg(torch.atan2(units[0], units[1])) % 360.0
    per_mm = coordinates.thickness_mm[wall].double().reciprocal()
    size = _SECTORS * len(wall)
    cell = wall.nonzero()[:, 0] * _SECTORS + (angle / 360.0 * _SECTORS).long().clamp_max(_SECTORS - 1)
    count, total = (
        of + of.view(-1, _SECTORS).roll(-1, dims=1).flatten()
        for of in (torch.bincount(cell, minlength=size), torch.bincount(cell, per_mm, minlength=size))
    )
    mean_mm = torch.where(count >= FEWEST_VOXELS, count / total, 0.0)
    if not bool((mean_mm > 0).any()):
        return None
    largest = int(mean_mm.argmax())
    beside = largest - largest % _SECTORS + (largest + 1) % _SECTORS
    segments = coordinates.segment[wall][(cell == largest) | (cell == beside)].long()
    segment = int(segments.bincount(minlength=1).argmax())
    return MaximumThickness(float(mean_mm[largest]), segment or None)


def _mean_over_length(thickness_mm: Float[Tensor, " n"]) -> float | None:
    """Mean of the voxels' thickness over the length of the wall, which is their harmonic mean.

    A thick part of the wall has more voxels for its length than a thin one; with the weight 1 / thickness, each voxel
    counts by its own length.
    """
    if len(thickness_mm) < FEWEST_VOXELS:
        return None
    return float(1.0 / thickness_mm.double().reciprocal().mean())


def thickening_pct(ed_mm: float | None, es_mm: float | None) -> float | None:
    """Compute systolic thickening in %, ``100 (ES - ED) / ED``; None where either thickness is unknown.

    Args:
        ed_mm: Thickness at ED in mm.
        es_mm: Thickness at ES in mm.
    """
    return None if ed_mm is None or es_mm is None else 100.0 * (es_mm - ed_mm) / ed_mm
