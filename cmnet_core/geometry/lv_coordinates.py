"""Coordinates of the LV wall: longitudinal, circumferential and transmural, with AHA segments as a lookup on them.

They follow from one label map. The long axis is the line through the centres of the cavity, tilted where the stack is
tilted. The circumferential angle is centred on the septum, between the two insertions of the right ventricle; which of
them is the anterior one is found in patient space, so that neither the order of the slices nor the handedness of the
grid changes a coordinate. Transmural depth is
measured between contours that are finer than voxels.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cmnet_core.flags import QCFlag
from cmnet_core.geometry.long_axis import LongAxis, SliceGeometry, fit_axis, measure_slices
from cmnet_core.geometry.transmural_depth import wall_depth
from cmnet_core.labels import Label
from cmnet_core.types import Spacing

SEGMENTS = 16
"""Number of AHA segments of the wall; the 17th, the apical cap, is not visible in short-axis slices."""

SLICES_FOR_SEGMENTS = 3
"""Number of slices that basal, middle and apical third need."""

_CONTACT_VOXELS = 2
_INSERTION_SLICES = (0.1, 0.75)  # range of the length; outside it the outflow tract and the RV apex shift the contact
_RV_ARC_DEG = (40.0, 220.0)
_SEPTUM_DEG = (60.0, 180.0)  # outside it one of the insertions is not where it seems
SEPTUM_MIDDLE_DEG = 60.0
"""Circumferential angle of the middle of the septum, where AHA's anteroseptal and inferoseptal segments meet."""


@dataclass(frozen=True, slots=True, eq=False)
class LVCoordinates:
    """Coordinates and directions of the LV wall, on the grid of a label map.

    Coordinates are NaN outside the wall; directions are defined everywhere, along the grid's own axes (z, y, x) in mm.

    Attributes:
        longitudinal: 0 at the base to 1 at the tip of the cavity, along the long axis.
        circumferential_deg: Angle in [0, 360) degrees, 60 in the middle of the septum between the two RV insertions,
            increasing from the anterior one over the septum to the inferior and the lateral wall: counter-clockwise
            seen from the apex. The anterior insertion is near 0. NaN where the insertions are not known.
        transmural: 0 at the endocardium to 1 at the epicardium.
        thickness_mm: Wall thickness at each voxel, in mm.
        radial_unit: Unit vector away from the long axis.
        circumferential_unit: Unit vector around it, in the direction of increasing angle.
        longitudinal_unit: Unit vector along it, from base to apex.
        wall: Myocardium around a cavity, without the cap beyond the cavity's tip and without myocardium above the base.
        segment: AHA segment 1 to 16; 0 outside the wall, and everywhere where segments are not defined.
        flags: Reasons why something is not defined, each one of the documented flags.
    """

    longitudinal: Float[Tensor, "z y x"]
    circumferential_deg: Float[Tensor, "z y x"]
    transmural: Float[Tensor, "z y x"]
    thickness_mm: Float[Tensor, "z y x"]
    radial_unit: Float[Tensor, "3 z y x"]
    circumferential_unit: Float[Tensor, "3 z y x"]
    longitudinal_unit: Float[Tensor, "3 z y x"]
    wall: Bool[Tensor, "z y x"]
    segment: UInt8[Tensor, "z y x"]
    flags: tuple[QCFlag, ...] = ()


def aha_segment(longitudinal: Float[Tensor, "*n"], circumferential_deg: Float[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
    """Look up the AHA segment 1 to 16 of positions in the wall; 0 outside [0, 1) and where a coordinate is NaN.

    Cerqueira et al., Circulation 105 (2002) 539: six sectors of 60° in the basal and the middle third, of which the two
    septal ones meet in the middle of the septum (2, 3, then 4, 5, 6, 1); four of 90° in the apical third, of which the
    anterior one (13) has the same centre as the anterior one above it.

    Args:
        longitudinal: 0 at the base to 1 at the tip of the cavity.
        circumferential_deg: Angle in degrees, 60 in the middle of the septum.
    """
    degrees = torch.remainder(torch.nan_to_num(circumferential_deg), 360.0)
    level = torch.floor(3.0 * torch.nan_to_num(longitudinal, nan=-1.0)).long()
    sixth = torch.div(degrees, 60.0, rounding_mode="floor").long().clamp_max(5)
    quarter = torch.div(torch.remainder(degrees - 15.0, 360.0), 90.0, rounding_mode="floor").long().clamp_max(3)
    wide = torch.tensor([2, 3, 4, 5, 6, 1], device=degrees.device)[sixth] + 6 * level
    segment = torch.where(level < 2, wide, torch.tensor([14, 15, 16, 13], device=degrees.device)[quarter])
    known = (level >= 0) & (level < 3) & ~circumferential_deg.isnan()
    return torch.where(known, segment, 0)


# ── around the axis ──────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, eq=False)
class _CylinderCoordinates:
    """Cylindrical coordinates about the centre line, with an angle whose origin and sense are arbitrary.

    Attributes:
        axis: Unit vector (z, y, x) from base to apex.
        first: Unit vector across the axis at angle 0.
        second: Unit vector across the axis at angle 90°.
        offset_mm: Vector from the centre line to each voxel, across the axis, in mm.
        height_mm: Distance of each voxel from the base along the axis, in mm.
        length_mm: Distance from the base to the tip of the cavity, in mm.
    """

    axis: NDArray[np.float64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    offset_mm: NDArray[np.float64]
    height_mm: NDArray[np.float64]
    length_mm: float

    @property
    def angle_deg(self) -> NDArray[np.float64]:
        """Angle of every voxel in degrees."""
        y, x = (np.tensordot(unit, self.offset_mm, 1) for unit in (self.second, self.first))
        return np.degrees(np.arctan2(y, x))


def _cylinder_coordinates(
    labels: NDArray[np.uint8], slices: SliceGeometry, axis: LongAxis, spacing: Spacing
) -> _CylinderCoordinates:
    depth, rows, columns = labels.shape
    line = axis.centres_mm(depth, spacing.z).numpy()
    # Breath-holds shift slices against each other, so a slice with a reliable centre uses its own centre.
    centres = np.where(slices.centred[:, None], slices.centre_mm, line)
    z = np.arange(depth) * spacing.z
    y, x = np.arange(rows) * spacing.y, np.arange(columns) * spacing.x
    unit = axis.direction.numpy()
    offset = np.stack(
        np.broadcast_arrays(
            0.0, (y - centres[:, :1])[:, :, None], (x - centres[:, 1:])[:, None, :], np.zeros(labels.shape)
        )[:3]
    )
    lifted = np.tensordot(unit, offset, 1)
    # Height of the point at which the axis meets the slice: a step along the axis is unit[0] along z.
    on_axis = (z - axis.base * spacing.z) / unit[0]
    first = np.array([0.0, 1.0, 0.0]) - unit[1] * unit
    first /= np.linalg.norm(first)
    return _CylinderCoordinates(
        axis=unit,
        first=first,
        second=np.cross(unit, first),
        offset_mm=offset - unit[:, None, None, None] * lifted,
        height_mm=on_axis[:, None, None] + lifted,
        length_mm=float(abs(axis.apex - axis.base) * spacing.z / abs(unit[0])),
    )


@dataclass(frozen=True, slots=True)
class _AngleOrigin:
    """Origin and sense of the circumferential angle.

    Attributes:
        angle_deg: Position of the origin in the cylindrical coordinates, or None where no RV insertion was found.
        sense: 1 where the circumferential angle increases with that of the cylindrical coordinates, else -1.
        is_ambiguous: Whether patient axes and handedness of the grid contradict each other.
    """

    angle_deg: float | None
    sense: float
    is_ambiguous: bool


def _find_origin(
    labels: NDArray[np.uint8], cylinder: _CylinderCoordinates, affine: Float64[Tensor, "4 4"]
) -> _AngleOrigin:
    """Find the two RV insertions, and the origin 60° before the middle between them.

    The anterior insertion is the end of the septum that is further anterior and superior, and the angle increases from
    it over the septum. That is counter-clockwise seen from the apex in any heart that is not a mirror image; the
    handedness of the affine must agree. Where the septum is implausibly narrow or wide, the origin is the anterior
    insertion itself.
    """
    world = affine[:3, :3].numpy() / np.linalg.norm(affine[:3, :3].numpy(), axis=0)
    by_handedness = 1.0 if np.linalg.det(world) > 0 else -1.0
    arcs = _rv_arcs(labels, cylinder)
    if not len(arcs):
        return _AngleOrigin(None, by_handedness, is_ambiguous=False)
    start, end = (_median_angle(arcs[:, side]) for side in (0, 1))
    across = _unit_at(cylinder, start) - _unit_at(cylinder, end)
    in_patient = world @ across
    sense = 1.0 if in_patient[1] + in_patient[2] > 0 else -1.0
    width = (end - start) % 360.0
    if _SEPTUM_DEG[0] <= width <= _SEPTUM_DEG[1]:
        origin = start + 0.5 * width - sense * SEPTUM_MIDDLE_DEG
    else:
        origin = start if sense > 0 else end
    return _AngleOrigin(origin, sense, is_ambiguous=sense != by_handedness)


def _unit_at(cylinder: _CylinderCoordinates, degrees: float) -> NDArray[np.float64]:
    """The unit vector across the axis at an angle."""
    radians = math.radians(degrees)
    return math.cos(radians) * cylinder.first + math.sin(radians) * cylinder.second


def _rv_arcs(labels: NDArray[np.uint8], cylinder: _CylinderCoordinates) -> NDArray[np.float64]:
    """First and last angle of the contact with the RV, ``[n 2]``, in the slices in which it is most reliable."""
    height = cylinder.height_mm.mean((1, 2)) / cylinder.length_mm
    angles_deg = cylinder.angle_deg
    arcs = {z: arc for z in range(len(labels)) if (arc := _rv_arc(labels[z], angles_deg[z])) is not None}
    low, high = _INSERTION_SLICES
    reliable = [arc for z, arc in arcs.items() if low <= height[z] <= high]
    return np.array(reliable or [arc for z, arc in arcs.items() if 0 <= height[z] <= 1])


def _rv_arc(labels: NDArray[np.uint8], angle_deg: NDArray[np.float64]) -> tuple[float, float] | None:
    """First and last angle of the arc along which one slice of the RV touches the LV; None without a plausible arc."""
    lv = (labels == Label.LV) | (labels == Label.MYO)
    if not lv.any():
        return None
    contact = ndimage.binary_dilation(lv, np.ones((3, 3), bool), iterations=_CONTACT_VOXELS) & (labels == Label.RV)
    found = np.sort(angle_deg[contact])
    if len(found) < 2:
        return None
    gaps = np.diff(found, append=found[0] + 360.0)
    widest = int(gaps.argmax())
    width = 360.0 - float(gaps[widest])
    if not _RV_ARC_DEG[0] <= width <= _RV_ARC_DEG[1]:
        return None
    start = float(found[(widest + 1) % len(found)])
    return start, start + width


def _median_angle(degrees: NDArray[np.float64]) -> float:
    """Median of angles about their circular mean."""
    radians = np.radians(degrees)
    mean = math.degrees(math.atan2(float(np.sin(radians).mean()), float(np.cos(radians).mean())))
    return mean + float(np.median((degrees - mean + 180.0) % 360.0 - 180.0))


# ── coordinates ────────────────────────────────────────────────────────────────────────────────────────────────────


def lv_coordinates(labels: UInt8[Tensor, "z y x"], spacing: Spacing, affine: Float64[Tensor, "4 4"]) -> LVCoordinates:
    """Compute the coordinates of the LV wall from one label map, in either order of its slices.

    The ventricle begins with the most basal slice whose wall surrounds at least half of the cavity. Without a slice of
    the LV the wall is empty, and a flag reports it.

    Args:
        labels: Label map of one frame.
        spacing: Voxel spacing in mm.
        affine: Maps a voxel index (z, y, x, 1) to scanner millimetres (RAS+).
    """
    array = labels.cpu().numpy()
    slices = measure_slices(array, spacing)
    axis = fit_axis(array, slices, spacing, affine)
    if axis is None:
        return _without_wall(labels)
    cylinder = _cylinder_coordinates(array, slices, axis, spacing)
    wall, inner, outer = wall_depth(array, slices.ventricular, spacing)
    origin = _find_origin(array, cylinder, affine)
    nan_outside = np.where(wall, 0.0, np.nan)
    around = np.nan if origin.angle_deg is None else origin.sense * (cylinder.angle_deg - origin.angle_deg) % 360.0
    radial = cylinder.offset_mm / np.maximum(np.linalg.norm(cylinder.offset_mm, axis=0), 1e-9)
    circumferential = origin.sense * np.cross(cylinder.axis, radial, axisb=0, axisc=0)
    along = np.broadcast_to(cylinder.axis[:, None, None, None], radial.shape)
    reasons = (
        (QCFlag.RV_INSERTION_NOT_FOUND, origin.angle_deg is None),
        (QCFlag.ORIENTATION_AMBIGUOUS, origin.is_ambiguous),
    )
    coordinates = LVCoordinates(
        longitudinal=_tensor((cylinder.height_mm / cylinder.length_mm).clip(0.0, 1.0) + nan_outside),
        circumferential_deg=_tensor(around + nan_outside),
        transmural=torch.from_numpy(inner / (inner + outer)).float(),
        thickness_mm=torch.from_numpy(inner + outer).float(),
        radial_unit=_tensor(radial),
        circumferential_unit=_tensor(circumferential),
        longitudinal_unit=_tensor(along),
        wall=torch.from_numpy(wall),
        segment=torch.zeros(wall.shape, dtype=torch.uint8),
        flags=tuple(flag for flag, raised in reasons if raised),
    )
    return _with_segments(coordinates, slices=int(slices.ventricular.sum()))


def _tensor(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).float()


def _with_segments(coordinates: LVCoordinates, *, slices: int) -> LVCoordinates:
    """Coordinates with AHA segments, or with a flag where there are too few slices for thirds of the length."""
    if slices < SLICES_FOR_SEGMENTS:
        return replace(coordinates, flags=(*coordinates.flags, QCFlag.TOO_FEW_SLICES_FOR_SEGMENTS))
    # The tip of the cavity itself belongs to the apical third.
    longitudinal = coordinates.longitudinal.clamp_max(1.0 - 1e-6)
    return replace(coordinates, segment=aha_segment(longitudinal, coordinates.circumferential_deg).to(torch.uint8))


def _without_wall(labels: UInt8[Tensor, "z y x"]) -> LVCoordinates:
    unknown, no_direction = torch.full(labels.shape, torch.nan), torch.zeros(3, *labels.shape)
    return LVCoordinates(
        *(unknown,) * 4,
        *(no_direction,) * 3,
        wall=torch.zeros(labels.shape, dtype=torch.bool),
        segment=torch.zeros(labels.shape, dtype=torch.uint8),
        flags=(QCFlag.NO_LV_WALL,),
    )
