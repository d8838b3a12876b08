"""Axis order and geometry of a NIfTI file, from a header that may contradict itself."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray
from torch import Tensor

from cmnet_core.errors import ErrorCode, GeometryError, ImageError
from cmnet_core.flags import QCFlag
from cmnet_core.io.orientation import is_unplaced
from cmnet_core.types import Spacing

_MILLISECONDS = {"sec": 1000.0, "msec": 1.0, "usec": 0.001}
_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}

# Plausible values of short-axis cines: in-plane voxel size, slice distance, frame time, duration of the cycle.
_IN_PLANE_MM, _SLICE_DISTANCE_MM = (0.4, 4.0), (2.0, 20.0)
_FRAME_MS, _CYCLE_MS = (5.0, 500.0), (250.0, 3000.0)
_WHOLE_CYCLE_FRAMES = 10
_SQUARE = 1.3  # largest ratio of the two in-plane voxel sizes
_SLICES_APART = 1.5  # smallest ratio of the slice distance to the in-plane voxel size
_UNSET_TIME = (0.0, 1.0)  # written by converters that know no time step
_SAME_SCALE = 1e-3
_SAME_FORM_MM = 0.5
_MAX_ABSOLUTE = 1e9  # one kilometre in micrometres
_MIN_DETERMINANT = 0.01  # determinant of the unit vectors of the axes


@dataclass(frozen=True, slots=True)
class AxisOrder:
    """The meaning of each axis of a file.

    Attributes:
        zyx: The axes of slices, rows and columns.
        time: The axis of frames, or None for a single volume.
    """

    zyx: tuple[int, int, int]
    time: int | None

    @property
    def usual(self) -> bool:
        """Whether the first three axes are columns, rows and slices, in this order."""
        return self.zyx == (2, 1, 0)


def axis_order(shape: tuple[int, ...], zooms: tuple[float, ...]) -> AxisOrder:
    """Identify the axes by their number and voxel sizes.

    Time follows space, unless the first three voxel sizes are implausible and those of three other axes are plausible.
    Slices are the third spatial axis, unless another one has a much larger voxel size.

    Args:
        shape: Shape of the voxel array.
        zooms: Voxel size along each axis, in mm for spatial axes.

    Raises:
        ImageError: There is more than one non-spatial axis.
    """
    beyond = [axis for axis in range(3, len(shape)) if shape[axis] > 1]
    if len(beyond) > 1:
        raise ImageError(
            f"Expected one time axis, found shape {shape}.",
            hint="Give one channel as a 4-D image (x, y, z, t).",
            code=ErrorCode.IMAGE_DIMENSIONS,
        )
    space, time = (0, 1, 2), beyond[0] if beyond else None
    if time is not None and not _is_space(zooms[:3]):
        for early in (2, 0, 1):
            others = (*(axis for axis in range(3) if axis != early), time)
            if _is_space([zooms[axis] for axis in others]) and _is_time(zooms[early]):
                return AxisOrder(_slices_first(others, zooms), early)
    return AxisOrder(_slices_first(space, zooms), time)


def geometry(raw: Any, axes: AxisOrder) -> tuple[Spacing, Float64[Tensor, "4 4"], tuple[str, ...]]:
    """Take directions from the affine and distances from the voxel sizes, with a flag if the two disagree.

    Voxel sizes that were never set (all 0 or all 1) are taken from the affine if that has a scale.

    Returns:
        Spacing, affine as in :class:`CineSequence`, and quality flags.

    Raises:
        GeometryError: Voxel sizes or affine are not valid.
    """
    to_mm, flags = _length_unit(raw)
    form, form_flags = _best_affine(raw)
    xyz = form[:3, :3].T
    scales = np.linalg.norm(xyz, axis=1)
    known = [n for n, axis in enumerate(axes.zyx) if axis < 3]
    stated = scales[[axes.zyx[n] for n in known]]
    zooms = np.array([float(raw["pixdim"][axis + 1]) for axis in axes.zyx])
    if len(known) == 3 and _are_unset(zooms, scales):
        zooms, flags = stated, {*flags, QCFlag.SPACING_FROM_AFFINE}
    spacing = Spacing(*(float(mm) * to_mm for mm in zooms))
    affine = np.eye(4)
    affine[:3, :3] = _directions(xyz, axes) * np.array(spacing.zyx)
    affine[:3, 3] = form[:3, 3] * to_mm
    if not np.allclose(stated, zooms[known], rtol=_SAME_SCALE):
        flags = {*flags, QCFlag.SPACING_FROM_ZOOMS}
    if not axes.usual:
        flags = {*flags, QCFlag.AXES_REORDERED}
    if not _is_plausible(spacing):
        flags = {*flags, QCFlag.SPACING_UNUSUAL}
    if is_unplaced(torch.from_numpy(affine)):
        flags = {*flags, QCFlag.ORIENTATION_MISSING}
    return spacing, torch.from_numpy(affine), tuple(sorted({*flags, *form_flags}))


def time_step_ms(value: float, unit: str, *, frames: int) -> tuple[float | None, tuple[str, ...]]:
    """Time between two frames in ms, if the header's value is plausible; many converters write 0 or 1, or no unit.

    Args:
        value: The header's time step.
        unit: The header's unit of time in nibabel's notation.
        frames: Number of frames; ten or more are assumed to cover a whole cycle.

    Returns:
        The time step or None, and a flag if the header has an implausible one.
    """
    units = [_MILLISECONDS[unit]] if unit in _MILLISECONDS else [_MILLISECONDS["sec"], _MILLISECONDS["msec"]]
    shortest = _CYCLE_MS[0] if frames >= _WHOLE_CYCLE_FRAMES else 0.0
    for step in (value * to_ms for to_ms in units):
        if _within(step, _FRAME_MS) and _within(step * frames, (shortest, _CYCLE_MS[1])):
            return step, ()
    return None, () if value in _UNSET_TIME else (QCFlag.TIME_STEP_IMPLAUSIBLE,)


def length_unit_mm(raw: Any) -> float:
    """Millimetres in the header's unit of length."""
    return _length_unit(raw)[0]


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _is_space(zooms: Any) -> bool:
    small, middle, large = sorted(float(zoom) for zoom in zooms)
    return _within(small, _IN_PLANE_MM) and middle <= _SQUARE * small and _within(large, _SLICE_DISTANCE_MM)


def _is_time(zoom: float) -> bool:
    return any(_within(zoom * to_ms, _FRAME_MS) for to_ms in (_MILLISECONDS["sec"], _MILLISECONDS["msec"]))


def _is_plausible(spacing: Spacing) -> bool:
    return (
        _within(spacing.y, _IN_PLANE_MM) and _within(spacing.x, _IN_PLANE_MM) and _within(spacing.z, _SLICE_DISTANCE_MM)
    )


def _slices_first(space: tuple[int, ...], zooms: tuple[float, ...]) -> tuple[int, int, int]:
    widest = max(space, key=lambda axis: zooms[axis])
    others = [axis for axis in space if axis != widest]
    slices = widest if all(zooms[widest] >= _SLICES_APART * zooms[axis] > 0 for axis in others) else space[-1]
    columns, rows = (axis for axis in space if axis != slices)
    return slices, rows, columns


def _length_unit(raw: Any) -> tuple[float, set[str]]:
    """The header's unit in mm; without one, mm unless only another unit gives a plausible voxel size."""
    unit = raw.get_xyzt_units()[0]
    if unit in _MILLIMETRES:
        return _MILLIMETRES[unit], set()
    plane = sorted(float(zoom) for zoom in raw["pixdim"][1:4])[:2]
    fitting = [to_mm for to_mm in (1.0, 1000.0, 0.001) if all(_within(zoom * to_mm, _IN_PLANE_MM) for zoom in plane)]
    guessed = fitting[0] if fitting else 1.0
    return guessed, {QCFlag.UNIT_GUESSED} if guessed != 1.0 else set()


def _best_affine(raw: Any) -> tuple[NDArray[np.float64], set[str]]:
    """The sform, or the qform if the sform is unusable; a flag if their positions differ, or if there is neither."""
    sform, qform = _coded_affine(raw.get_sform), _coded_affine(raw.get_qform)
    if sform is not None:
        return sform, {QCFlag.SFORM_QFORM_DIFFER} if qform is not None and _affines_differ(raw, sform, qform) else set()
    if qform is not None:
        return qform, {QCFlag.SFORM_QFORM_DIFFER} if int(raw["sform_code"]) > 0 else set()
    best = np.asarray(raw.get_best_affine(), dtype=np.float64)
    if not _is_usable(best):
        raise GeometryError(
            "The affine must be an invertible matrix of finite numbers.",
            hint="Check sform and qform of the image, or convert the DICOMs again.",
            code=ErrorCode.GEOMETRY,
        )
    return best, {QCFlag.ORIENTATION_MISSING}


def _coded_affine(get: Any) -> NDArray[np.float64] | None:
    try:
        with np.errstate(all="ignore"):
            form, code = get(coded=True)
    except (HeaderDataError, ValueError, ArithmeticError):
        return None
    return np.asarray(form, dtype=np.float64) if code > 0 and form is not None and _is_usable(form) else None


def _is_usable(form: NDArray[Any]) -> bool:
    if not np.isfinite(form).all() or np.abs(form).max() > _MAX_ABSOLUTE:
        return False
    columns = np.linalg.norm(form[:3, :3].astype(np.float64), axis=0)
    return bool((columns > 0).all()) and abs(float(np.linalg.det(form[:3, :3] / columns))) > _MIN_DETERMINANT


def _affines_differ(raw: Any, sform: NDArray[np.float64], qform: NDArray[np.float64]) -> bool:
    """Whether a corner of the image has another position; differences of scale have a flag of their own."""
    extent = [float(n - 1) for n in raw.get_data_shape()[:3]]
    corners = np.array([*itertools.product(*((0.0, e) for e in extent))]) * np.linalg.norm(qform[:3, :3], axis=0)
    places = [
        corners @ (form[:3, :3] / np.linalg.norm(form[:3, :3], axis=0)).T + form[:3, 3] for form in (sform, qform)
    ]
    return float(np.linalg.norm(places[0] - places[1], axis=1).max()) > _SAME_FORM_MM / length_unit_mm(raw)


def _are_unset(zooms: NDArray[np.float64], scales: NDArray[np.float64]) -> bool:
    """Whether a converter never set the voxel sizes. A single impossible one means damage instead."""
    unset = bool((zooms == 0).all() or (zooms == 1).all())
    return unset and not np.allclose(scales, 1.0)


def _directions(xyz: NDArray[np.float64], axes: AxisOrder) -> NDArray[np.float64]:
    """Unit vectors of (z, y, x) in columns; a slice axis beyond the affine is perpendicular to rows and columns."""
    slices, rows, columns = axes.zyx
    if max(rows, columns) > 2:
        raise GeometryError(
            "The affine does not define the directions of rows and columns.",
            hint="Store the image as (x, y, z, t), or convert the DICOMs again.",
            code=ErrorCode.GEOMETRY,
        )
    normal = xyz[slices] if slices < 3 else np.cross(xyz[columns], xyz[rows])
    directions = np.stack([normal, xyz[rows], xyz[columns]], axis=1)
    return np.asarray(directions / np.linalg.norm(directions, axis=0))
