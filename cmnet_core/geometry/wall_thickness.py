"""How thick the LV's wall is at ED and ES, and how much it thickens."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from cmnet_core.geometry.lv_coordinates import SEGMENTS, LVCoordinates

FEWEST_VOXELS = 5
"""A segment of fewer voxels is hardly seen."""


@dataclass(frozen=True, slots=True)
class WallThickness:
    """Mean thickness over the length of the wall.

    Attributes:
        whole_mm: Of the whole wall, None without one.
        segments_mm: Of AHA segments 1 to 16, each None where the segment is not seen.
    """

    whole_mm: float | None
    segments_mm: tuple[float | None, ...]


def wall_thickness(found: LVCoordinates) -> WallThickness:
    """Thickness of the wall, from the contours of one frame: within the slices, as on the images."""
    return WallThickness(
        whole_mm=_over_length(found.thickness_mm[found.wall]),
        segments_mm=tuple(
            _over_length(found.thickness_mm[found.segment == number]) for number in range(1, SEGMENTS + 1)
        ),
    )


def _over_length(thickness_mm: Float[Tensor, " n"]) -> float | None:
    """Mean over the wall's length.

    A thick part of the wall has more voxels for its length than a thin one; weighted with 1 / thickness, a voxel
    stands for the length that is its own.
    """
    if len(thickness_mm) < FEWEST_VOXELS:
        return None
    return float(1.0 / thickness_mm.double().reciprocal().mean())


def thickening_pct(ed_mm: float | None, es_mm: float | None) -> float | None:
    """Systolic thickening, 100 x (ES - ED) / ED; None where either is unknown."""
    return None if ed_mm is None or es_mm is None else 100.0 * (es_mm - ed_mm) / ed_mm
