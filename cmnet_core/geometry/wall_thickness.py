"""Thickness of the LV wall, and systolic thickening."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from cmnet_core.geometry.lv_coordinates import SEGMENTS, LVCoordinates

FEWEST_VOXELS = 5
"""Number of voxels that a segment needs for its thickness to be reported."""


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
    thickness, segment = coordinates.thickness_mm, coordinates.segment
    return WallThickness(
        whole_mm=_mean_over_length(thickness[coordinates.wall]),
        segments_mm=tuple(_mean_over_length(thickness[segment == number]) for number in range(1, SEGMENTS + 1)),
    )


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
