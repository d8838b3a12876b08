"""Strain as the UK Biobank's derived fields 24141 to 24174 define it, so that a comparison is like for like.

The fields come from feature tracking in three short-axis slices, at 25, 50 and 75 % of those that show the ventricle
(Bai et al., Nat Med 26 (2020) 1654; the definition is that of ``common/cardiac_utils.py`` in the public repository
``baiwenjia/ukbb_cardiac``):

- circumferential strain is the unweighted mean, over all line elements of the endocardial *and* the epicardial contour,
  of their relative change of length;
- radial strain is the same mean over 36 chords per slice from the endocardium to the epicardium;
- lengths are in-plane, and the peak is the extreme over all frames of the cycle, without smoothing.

The definition differs from :mod:`cmnet_core.mechanics.line_strain`, by an amount that grows with the thickness of the
wall. Here the motion is that of cmnet: fields are comparable in their definition, not in their tracking.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from cmnet_core.geometry.lv_coordinates import SEGMENTS, aha_segment
from cmnet_core.mechanics.lagrangian import MaterialMotion
from cmnet_core.mechanics.line_strain import (
    RingContours,
    is_closed,
    move_points,
    nearest_voxels,
    ring_contours,
    slice_rings,
)
from cmnet_core.mechanics.strain import Deformation, WallVoxels

_PLACES = (0.25, 0.5, 0.75)
_FEWEST_VOXELS = 10
_ELEMENT_MM = 1.0
_CHORDS = 36
_FINE = 720


@dataclass(frozen=True, slots=True, eq=False)
class UKBStrain:
    """Strain since ED in % in every frame; NaN without three slices with a closed wall.

    Attributes:
        circumferential_pct: Of the whole wall (field 24157 is its minimum).
        radial_pct: Of the whole wall (field 24174 is its maximum).
        circumferential_segments_pct: Of AHA segments 1 to 16 (24141 to 24156).
        radial_segments_pct: Of AHA segments 1 to 16 (24158 to 24173).
    """

    circumferential_pct: Float[Tensor, " t"]
    radial_pct: Float[Tensor, " t"]
    circumferential_segments_pct: Float[Tensor, "t 16"]
    radial_segments_pct: Float[Tensor, "t 16"]


def ukb_strain(wall: WallVoxels, motion: MaterialMotion, deformation: Deformation) -> UKBStrain:
    """Compute strain by the UK Biobank's definition.

    Args:
        wall: Voxels of the wall at ED.
        motion: Their displacement.
        deformation: Their deformation by this motion.
    """
    rings = _three_slices(wall)
    ed = motion.frames.index(motion.ed)
    if not rings:
        unknown = torch.full((len(motion.frames), 1 + SEGMENTS), torch.nan, dtype=torch.float64)
        return UKBStrain(unknown[:, 0], unknown[:, 0], unknown[:, 1:], unknown[:, 1:])
    circumferential, radial = [], []
    for level, ring in enumerate(rings):
        contours = ring_contours(wall, ring)
        endo, epi = (_evenly_spaced(contours, layer) for layer in (0.0, 1.0))
        chords = _evenly_spaced(contours, 0.0, count=_CHORDS)
        starts = torch.cat([contours.at(0.0, endo), contours.at(1.0, epi), contours.at(0.0, chords)])
        ends = torch.cat([contours.at(0.0, endo.roll(-1)), contours.at(1.0, epi.roll(-1)), contours.at(1.0, chords)])
        moved = [move_points(points, wall, motion, deformation, ring)[..., 1:] for points in (starts, ends)]
        length = (moved[1] - moved[0]).norm(dim=-1)
        change, segment = 100.0 * (length / length[ed] - 1.0), _segments(wall, ring, starts, level)
        elements = len(endo) + len(epi)
        circumferential.append((change[:, :elements], segment[:elements]))
        radial.append((change[:, elements:], segment[elements:]))
    (around, around_segments), (across, across_segments) = _means(circumferential), _means(radial)
    return UKBStrain(around, across, around_segments, across_segments)


def peak_of(curve: Float[Tensor, " t"], *, sign: float) -> float | None:
    """Extreme of a curve over all frames in the direction of contraction; None where it is not known.

    Args:
        curve: Strain in %.
        sign: 1 if contraction raises the strain, -1 if it lowers it.
    """
    return None if bool(curve.isnan().any()) else sign * float((sign * curve).max())


def _three_slices(wall: WallVoxels) -> list[Bool[Tensor, " n"]]:
    """The slices at 25, 50 and 75 % of the ventricle, from base to apex; none where one of them is not closed."""
    rings = slice_rings(wall, fewest=_FEWEST_VOXELS)
    rings = sorted(rings, key=lambda ring: float(wall.longitudinal[ring].mean()))
    numbers = [round((len(rings) - 1) * place) for place in _PLACES]
    if len(set(numbers)) < len(_PLACES):
        return []
    chosen = [rings[number] for number in numbers]
    return chosen if all(is_closed(wall, ring) for ring in chosen) else []


def _evenly_spaced(contours: RingContours, layer: float, *, count: int | None = None) -> Float[Tensor, " k"]:
    """Angles in rad of points at equal distances along a contour, by default 1 mm apart."""
    fine = torch.arange(_FINE + 1, dtype=torch.float64) * (2.0 * math.pi / _FINE)
    points = contours.at(layer, fine)
    along = torch.cat([torch.zeros(1, dtype=torch.float64), (points[1:] - points[:-1]).norm(dim=-1).cumsum(0)])
    number = count or max(_CHORDS, round(float(along[-1]) / _ELEMENT_MM))
    wanted = torch.arange(number, dtype=torch.float64) * along[-1] / number
    index = torch.searchsorted(along, wanted, right=True).clamp(1, _FINE)
    fraction = (wanted - along[index - 1]) / (along[index] - along[index - 1])
    return (index - 1 + fraction) * (2.0 * math.pi / _FINE)


def _segments(
    wall: WallVoxels, ring: Bool[Tensor, " n"], points: Float[Tensor, "k 3"], level: int
) -> Int64[Tensor, " k"]:
    """AHA segment of each point: its slice is the level, and its angle is that of the nearest voxel of the wall."""
    angle = wall.circumferential_deg[ring][nearest_voxels(points, wall.position_mm[ring])]
    return aha_segment(torch.full_like(angle, (level + 0.5) / len(_PLACES)), angle)


def _means(
    of_slices: list[tuple[Float[Tensor, "t _"], Int64[Tensor, " _"]]],
) -> tuple[Float[Tensor, " t"], Float[Tensor, "t 16"]]:
    """Unweighted mean over all line elements, and over those of each segment; NaN for a segment without any."""
    change, segment = torch.cat([one for one, _ in of_slices], dim=1), torch.cat([one for _, one in of_slices])
    members = (segment == torch.arange(1, SEGMENTS + 1)[:, None]).double()
    return change.mean(1), (change @ members.T) / members.sum(1)
