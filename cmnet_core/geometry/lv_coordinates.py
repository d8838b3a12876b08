"""Where in the left ventricle a voxel lies: along it, around it and through its wall.

Everything follows from one label map. The long axis is the line through the centres of the cavity, tilted if the stack
is; the zero of the angle is the anterior insertion of the right ventricle, found in the patient's space, so that
neither the order of the slices nor the handedness of the grid changes a coordinate; depth is measured between contours
finer than voxels. AHA segments are a lookup on these coordinates.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cmnet_core.geometry.long_axis import LongAxis, Slices, fit_axis, look_at_slices
from cmnet_core.geometry.transmural_depth import wall_depth
from cmnet_core.labels import Label
from cmnet_core.types import Spacing

SEGMENTS = 16
"""AHA segments of the wall; the 17th, the tip of the apex, is no part of a short-axis wall."""

SLICES_FOR_SEGMENTS = 3
"""Thirds of the ventricle's length need at least as many slices."""

_CONTACT_VOXELS = 2
_INSERTION_SLICES = (0.1, 0.75)  # beyond them the outflow tract and the RV's tip bend away from the insertions
_RV_ARC_DEG = (40.0, 220.0)


@dataclass(frozen=True, slots=True, eq=False)
class LVCoordinates:
    """Coordinates and directions of the LV's wall, on the grid of a label map.

    Positions are NaN outside the wall; directions are defined everywhere, in the grid's own axes (z, y, x) and mm.

    Attributes:
        longitudinal: 0 at the base to 1 at the tip of the cavity, along the long axis.
        circumferential_deg: In [0, 360), 0 at the anterior RV insertion, running from anterior over the septum to
            inferior and lateral: counter-clockwise seen from the apex. NaN where the insertion is not known.
        transmural: 0 at the endocardium to 1 at the epicardium.
        thickness_mm: Of the wall, through each of its voxels.
        radial_unit: Away from the long axis.
        circumferential_unit: Around it, in the direction in which the angle grows.
        longitudinal_unit: Along it, from base to apex.
        wall: Myocardium around a cavity: without the cap beyond the cavity's tip and what lies above the base.
        segment: AHA segment 1 to 16; 0 outside the wall, and everywhere where segments are not defined.
        flags: Why something is not defined, each one of the documented words.
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
    flags: tuple[str, ...] = ()


def aha_segment(longitudinal: Float[Tensor, "*n"], circumferential_deg: Float[Tensor, "*n"]) -> Int64[Tensor, "*n"]:
    """AHA segment 1 to 16 of a place in the wall; 0 outside [0, 1) and where a coordinate is NaN.

    Cerqueira et al., Circulation 105 (2002) 539: six sectors of 60° in the basal and the middle third, of which the
    septum's two begin at the anterior insertion (2, 3, then 4, 5, 6, 1); four of 90° in the apical third, whose
    anterior one (13) is centred as the anterior one above it.
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
class _Frame:
    """Cylinder coordinates about the centre line, with an angle whose zero and sense mean nothing yet.

    Attributes:
        axis: Unit vector (z, y, x) from base to apex.
        first: Unit vector across it, where the angle is 0.
        second: Unit vector across both, where the angle is 90°.
        away: From the centre line, across the axis.
        height_mm: Along the axis, from the plane of the base.
        length_mm: From there to the tip of the cavity.
    """

    axis: NDArray[np.float64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    away: NDArray[np.float64]
    height_mm: NDArray[np.float64]
    length_mm: float

    @property
    def angle_deg(self) -> NDArray[np.float64]:
        """Of every voxel."""
        y, x = (np.tensordot(unit, self.away, 1) for unit in (self.second, self.first))
        return np.degrees(np.arctan2(y, x))


def _frame(labels: NDArray[np.uint8], slices: Slices, axis: LongAxis, spacing: Spacing) -> _Frame:
    depth, rows, columns = labels.shape
    line = axis.centres_mm(depth, spacing.z).numpy()
    # Breath-holds shift slices against each other: a slice that knows its centre is laid about its own.
    own = slices.central
    centres = np.where(own[:, None], slices.centre_mm, line)
    z = np.arange(depth) * spacing.z
    y, x = np.arange(rows) * spacing.y, np.arange(columns) * spacing.x
    unit = axis.direction.numpy()
    offset = np.stack(
        np.broadcast_arrays(
            0.0, (y - centres[:, :1])[:, :, None], (x - centres[:, 1:])[:, None, :], np.zeros(labels.shape)
        )[:3]
    )
    lifted = np.tensordot(unit, offset, 1)
    # Of a point on the axis itself, whose steps along z are unit[0] of those along the axis.
    on_axis = (z - axis.base * spacing.z) / unit[0]
    first = np.array([0.0, 1.0, 0.0]) - unit[1] * unit
    first /= np.linalg.norm(first)
    return _Frame(
        axis=unit,
        first=first,
        second=np.cross(unit, first),
        away=offset - unit[:, None, None, None] * lifted,
        height_mm=on_axis[:, None, None] + lifted,
        length_mm=float(abs(axis.apex - axis.base) * spacing.z / abs(unit[0])),
    )


@dataclass(frozen=True, slots=True)
class _Zero:
    """Where the angle begins and in which sense it grows.

    Attributes:
        angle_deg: The anterior insertion in a frame's angle, or None where it was not found.
        sense: 1 where the angle grows with the frame's, else -1.
        doubtful: Whether the patient's axes and the handedness of the grid tell two different stories.
    """

    angle_deg: float | None
    sense: float
    doubtful: bool


def _find_zero(labels: NDArray[np.uint8], frame: _Frame, affine: Float64[Tensor, "4 4"]) -> _Zero:
    """The anterior one of the two insertions.

    Of the septum's two ends the anterior one lies further to the front and to the head; from it the angle grows over
    the septum. That is counter-clockwise seen from the apex in any heart that is not a mirror image, which a header
    with a true orientation confirms.
    """
    world = affine[:3, :3].numpy() / np.linalg.norm(affine[:3, :3].numpy(), axis=0)
    by_hand = 1.0 if np.linalg.det(world) > 0 else -1.0
    arcs = _rv_arcs(labels, frame)
    if not len(arcs):
        return _Zero(None, by_hand, doubtful=False)
    start, end = (_middle_angle(arcs[:, side]) for side in (0, 1))
    across = _towards(frame, start) - _towards(frame, end)
    ahead = world @ across
    sense = 1.0 if ahead[1] + ahead[2] > 0 else -1.0
    return _Zero(start if sense > 0 else end, sense, doubtful=sense != by_hand)


def _towards(frame: _Frame, degrees: float) -> NDArray[np.float64]:
    radians = math.radians(degrees)
    return math.cos(radians) * frame.first + math.sin(radians) * frame.second


def _rv_arcs(labels: NDArray[np.uint8], frame: _Frame) -> NDArray[np.float64]:
    """First and last angle of the contact with the RV, of the slices that tell it best: ``[n 2]``."""
    height = frame.height_mm.mean((1, 2)) / frame.length_mm
    angles_deg = frame.angle_deg
    arcs = {z: arc for z in range(len(labels)) if (arc := _rv_arc(labels[z], angles_deg[z])) is not None}
    low, high = _INSERTION_SLICES
    best = [arc for z, arc in arcs.items() if low <= height[z] <= high]
    return np.array(best or [arc for z, arc in arcs.items() if 0 <= height[z] <= 1])


def _rv_arc(labels: NDArray[np.uint8], angle_deg: NDArray[np.float64]) -> tuple[float, float] | None:
    heart = (labels == Label.LV) | (labels == Label.MYO)
    if not heart.any():
        return None
    near = ndimage.binary_dilation(heart, np.ones((3, 3), bool), iterations=_CONTACT_VOXELS)
    found = np.sort(angle_deg[near & (labels == Label.RV)])
    if len(found) < 2:
        return None
    gaps = np.diff(found, append=found[0] + 360.0)
    widest = int(gaps.argmax())
    width = 360.0 - float(gaps[widest])
    if not _RV_ARC_DEG[0] <= width <= _RV_ARC_DEG[1]:
        return None
    start = float(found[(widest + 1) % len(found)])
    return start, start + width


def _middle_angle(degrees: NDArray[np.float64]) -> float:
    """Median of angles, as a value near their circular mean."""
    radians = np.radians(degrees)
    mean = math.degrees(math.atan2(float(np.sin(radians).mean()), float(np.cos(radians).mean())))
    return mean + float(np.median((degrees - mean + 180.0) % 360.0 - 180.0))


# ── all of it ────────────────────────────────────────────────────────────────────────────────────────────────────


def lv_coordinates(labels: UInt8[Tensor, "z y x"], spacing: Spacing, affine: Float64[Tensor, "4 4"]) -> LVCoordinates:
    """Coordinates of the LV's wall from one label map, whichever way its slices are counted.

    The ventricle begins with the most basal slice whose wall surrounds at least half of the cavity. Without a slice of
    the LV the wall is empty, and a flag says so.

    Args:
        labels: A label map of one frame.
        spacing: Of its grid.
        affine: Maps a voxel index (z, y, x, 1) to scanner millimetres (RAS+).
    """
    array = labels.cpu().numpy()
    slices = look_at_slices(array, spacing)
    axis = fit_axis(array, slices, spacing, affine)
    if axis is None:
        return _without_wall(labels)
    frame = _frame(array, slices, axis, spacing)
    wall, inner, outer = wall_depth(array, slices.ventricular, spacing)
    zero = _find_zero(array, frame, affine)
    found = _located(frame, zero, wall)
    thickness = torch.from_numpy(inner + outer).float()
    return _segmented(
        replace(found, transmural=torch.from_numpy(inner / (inner + outer)).float(), thickness_mm=thickness),
        slices=int(slices.ventricular.sum()),
    )


def _located(frame: _Frame, zero: _Zero, wall: NDArray[np.bool_]) -> LVCoordinates:
    outside = np.where(wall, 0.0, np.nan)
    around = np.nan if zero.angle_deg is None else zero.sense * (frame.angle_deg - zero.angle_deg) % 360.0
    radial = frame.away / np.maximum(np.linalg.norm(frame.away, axis=0), 1e-9)
    circumferential = zero.sense * np.cross(frame.axis, radial, axisb=0, axisc=0)
    along = np.broadcast_to(frame.axis[:, None, None, None], radial.shape)
    reasons = (("rv-insertion-not-found", zero.angle_deg is None), ("orientation-ambiguous", zero.doubtful))
    blank = torch.full(wall.shape, torch.nan)
    return LVCoordinates(
        longitudinal=_tensor((frame.height_mm / frame.length_mm).clip(0.0, 1.0) + outside),
        circumferential_deg=_tensor(around + outside),
        transmural=blank,
        thickness_mm=blank,
        radial_unit=_tensor(radial),
        circumferential_unit=_tensor(circumferential),
        longitudinal_unit=_tensor(along),
        wall=torch.from_numpy(wall),
        segment=torch.zeros(wall.shape, dtype=torch.uint8),
        flags=tuple(flag for flag, raised in reasons if raised),
    )


def _tensor(values: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).float()


def _segmented(found: LVCoordinates, *, slices: int) -> LVCoordinates:
    """With AHA segments, where there are slices enough for thirds."""
    if slices < SLICES_FOR_SEGMENTS:
        return replace(found, flags=(*found.flags, "too-few-slices-for-segments"))
    # The tip of the cavity itself is the end of the apical third.
    inside = found.longitudinal.clamp_max(1.0 - 1e-6)
    return replace(found, segment=aha_segment(inside, found.circumferential_deg).to(torch.uint8))


def _without_wall(labels: UInt8[Tensor, "z y x"]) -> LVCoordinates:
    nowhere = torch.full(labels.shape, torch.nan)
    nothing = torch.zeros(3, *labels.shape)
    return LVCoordinates(
        *(nowhere,) * 4,
        *(nothing,) * 3,
        wall=torch.zeros(labels.shape, dtype=torch.bool),
        segment=torch.zeros(labels.shape, dtype=torch.uint8),
        flags=("no-lv-wall",),
    )
