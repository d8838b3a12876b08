"""Where in the left ventricle a voxel lies: along it, around it and through its wall.

Everything follows from one label map. The long axis is the line through the centres of the cavity, tilted if the stack
is; the zero of the angle is the anterior insertion of the right ventricle, found in the patient's space, so that
neither the order of the slices nor the handedness of the grid changes a coordinate; depth is measured between contours
finer than voxels. AHA segments are a lookup on these coordinates.
"""

import math
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from contourpy import contour_generator
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

from cmnet_core.types import Label, Spacing

SEGMENTS = 16
"""AHA segments of the wall; the 17th, the tip of the apex, is no part of a short-axis wall."""

OPEN_SHARE, CLOSED_SHARE = 0.5, 0.8
"""Share of the directions around the cavity in which a slice must have wall: to belong to the ventricle at all rather
than to the outflow tract, and to tell where its centre is."""

SMALLEST_CAVITY_MM2 = 150.0
"""A smaller cavity does not tell where the centre is."""

SLICES_FOR_SEGMENTS = 3
"""Thirds of the ventricle's length need at least as many slices."""

_DIRECTIONS = 36
_CONTACT_VOXELS = 2
_INSERTION_SLICES = (0.1, 0.75)  # beyond them the outflow tract and the RV's tip bend away from the insertions
_RV_ARC_DEG = (40.0, 220.0)
_SMOOTHING_VOXELS = 1.0
_CONTOUR_STEP_VOXELS = 0.2
_MARGIN_VOXELS = 5

_Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
_Numbers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
_Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


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


# ── the long axis ────────────────────────────────────────────────────────────────────────────────────────────────


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
class _Slices:
    """What each slice of a label map shows of the LV.

    Attributes:
        area_mm2: Of the cavity.
        centre_mm: Of the cavity (y, x); NaN where there is none.
        closed: Share of the directions around the cavity in which there is wall.
    """

    area_mm2: _Array
    centre_mm: _Array
    closed: _Array

    @property
    def ventricular(self) -> _Mask:
        """Slices that belong to the ventricle."""
        return (self.area_mm2 > 0) & (self.closed >= OPEN_SHARE)

    @property
    def central(self) -> _Mask:
        """Slices that tell where the centre is."""
        telling = self.ventricular & (self.closed >= CLOSED_SHARE) & (self.area_mm2 >= SMALLEST_CAVITY_MM2)
        return telling if telling.any() else self.ventricular


def _look_at_slices(labels: _Mask, spacing: Spacing) -> _Slices:
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
    return _Slices(area, centres, closed)


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
    return _fit_axis(array, _look_at_slices(array, spacing), spacing, affine)


def _fit_axis(
    labels: _Mask, slices: _Slices, spacing: Spacing, affine: Float64[Tensor, "4 4"] | None
) -> LongAxis | None:
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


def _ends(ordered: _Numbers, area_mm2: _Array) -> tuple[float, float]:
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


def _apex_comes_first(labels: _Mask, seen: _Numbers, affine: Float64[Tensor, "4 4"] | None) -> bool:
    area = (labels != Label.BACKGROUND).sum((1, 2))[seen].astype(float)
    lever = float(((seen - seen.mean()) * area).sum())
    if abs(lever) > 1e-6 * area.sum() or affine is None:
        return lever > 0
    # An apex lies to the left, in front and below: RAS (-, +, -).
    return float(affine[:3, 0] @ torch.tensor([-1.0, 1.0, -1.0], dtype=affine.dtype)) < 0


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

    axis: _Array
    first: _Array
    second: _Array
    away: _Array
    height_mm: _Array
    length_mm: float

    @property
    def angle_deg(self) -> _Array:
        """Of every voxel."""
        y, x = (np.tensordot(unit, self.away, 1) for unit in (self.second, self.first))
        return np.degrees(np.arctan2(y, x))


def _frame(labels: _Mask, slices: _Slices, axis: LongAxis, spacing: Spacing) -> _Frame:
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


def _find_zero(labels: _Mask, frame: _Frame, affine: Float64[Tensor, "4 4"]) -> _Zero:
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


def _towards(frame: _Frame, degrees: float) -> _Array:
    radians = math.radians(degrees)
    return math.cos(radians) * frame.first + math.sin(radians) * frame.second


def _rv_arcs(labels: _Mask, frame: _Frame) -> _Array:
    """First and last angle of the contact with the RV, of the slices that tell it best: ``[n 2]``."""
    height = frame.height_mm.mean((1, 2)) / frame.length_mm
    arcs = {z: arc for z in range(len(labels)) if (arc := _rv_arc(labels[z], frame.angle_deg[z])) is not None}
    low, high = _INSERTION_SLICES
    best = [arc for z, arc in arcs.items() if low <= height[z] <= high]
    return np.array(best or [arc for z, arc in arcs.items() if 0 <= height[z] <= 1])


def _rv_arc(labels: _Mask, angle_deg: _Array) -> tuple[float, float] | None:
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


def _middle_angle(degrees: _Array) -> float:
    """Median of angles, as a value near their circular mean."""
    radians = np.radians(degrees)
    mean = math.degrees(math.atan2(float(np.sin(radians).mean()), float(np.cos(radians).mean())))
    return mean + float(np.median((degrees - mean + 180.0) % 360.0 - 180.0))


# ── through the wall ─────────────────────────────────────────────────────────────────────────────────────────────


def _wall_and_depth(labels: _Mask, ventricular: _Mask, spacing: Spacing) -> tuple[_Mask, _Array, _Array]:
    """The wall, and every wall voxel's distances in mm to the endocardium and to the epicardium within its slice."""
    wall = np.zeros(labels.shape, bool)
    inner, outer = np.full(labels.shape, np.nan), np.full(labels.shape, np.nan)
    for z in np.flatnonzero(ventricular):
        heart = _largest((labels[z] == Label.LV) | (labels[z] == Label.MYO))
        cavity = heart & (labels[z] == Label.LV)
        endocardium, epicardium = _contour_mm(cavity, spacing), _contour_mm(heart, spacing)
        muscle = heart & ~cavity
        if len(endocardium) and len(epicardium) and muscle.any():
            places = np.argwhere(muscle) * (spacing.y, spacing.x)
            wall[z] = muscle
            inner[z][muscle] = cKDTree(endocardium).query(places)[0]
            outer[z][muscle] = cKDTree(epicardium).query(places)[0]
    return wall, inner, outer


def _largest(mask: _Mask) -> _Mask:
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    largest: _Mask = parts == 1 + np.bincount(parts[parts > 0] - 1).argmax()
    return largest


def _contour_mm(mask: _Mask, spacing: Spacing) -> _Array:
    """Points along a region's outline, closer together than any thickness matters; none of a region too small.

    The mask is smoothed before it is cut at one half: the corners of voxels would draw every distance to them.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return np.empty((0, 2))
    box = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(float), _MARGIN_VOXELS)
    smooth = ndimage.gaussian_filter(box, _SMOOTHING_VOXELS)
    lines = cast("list[_Array]", contour_generator(z=smooth).lines(0.5))
    shares = np.arange(0.0, 1.0, _CONTOUR_STEP_VOXELS)[:, None, None]
    dense = [(line[:-1] + shares * (line[1:] - line[:-1])).reshape(-1, 2) for line in lines]
    corner = np.array([rows[0], columns[0]]) - _MARGIN_VOXELS
    points: _Array = (np.concatenate([np.empty((0, 2)), *dense])[:, ::-1] + corner) * (spacing.y, spacing.x)
    return points


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
    slices = _look_at_slices(array, spacing)
    axis = _fit_axis(array, slices, spacing, affine)
    if axis is None:
        return _without_wall(labels)
    frame = _frame(array, slices, axis, spacing)
    wall, inner, outer = _wall_and_depth(array, slices.ventricular, spacing)
    zero = _find_zero(array, frame, affine)
    found = _located(frame, zero, wall)
    thickness = torch.from_numpy(inner + outer).float()
    return _segmented(
        replace(found, transmural=torch.from_numpy(inner / (inner + outer)).float(), thickness_mm=thickness),
        slices=int(slices.ventricular.sum()),
    )


def _located(frame: _Frame, zero: _Zero, wall: _Mask) -> LVCoordinates:
    outside = np.where(wall, 0.0, np.nan)
    around = np.nan if zero.angle_deg is None else zero.sense * (frame.angle_deg - zero.angle_deg) % 360.0
    radial = frame.away / np.maximum(np.linalg.norm(frame.away, axis=0), 1e-9)
    circumferential = zero.sense * np.cross(frame.axis, radial, axisb=0, axisc=0)
    along = np.broadcast_to(frame.axis[:, None, None, None], radial.shape)
    reasons = (("rv-insertion-not-found", zero.angle_deg is None), ("orientation-doubtful", zero.doubtful))
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


def _tensor(values: _Array) -> Tensor:
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
