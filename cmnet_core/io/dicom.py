"""A folder or zip of DICOMs to a short-axis cine.

The images are sorted into the largest parallel stack, its slices from base to apex, each slice's phases by trigger
time. Heart rates differ from slice to slice, so phases are matched by their share of the cycle.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmnet_core.errors import ErrorCode, GeometryError, ImageError
from cmnet_core.io.dicom_file import DAMAGE, ImageHeader, Member, opened, read_header, read_pixels
from cmnet_core.io.nifti_file import Header
from cmnet_core.types import CineSequence, Spacing

# Quality flags.
TRIGGER_TIMES_DIFFER = "trigger-times-differ"
PHASES_INTERPOLATED = "phases-interpolated"
SLICES_DROPPED = "slices-dropped"
SLICE_GAP_UNEVEN = "slice-gap-uneven"
SLICES_SHIFTED = "slices-shifted"
REPEATED_SLICES = "repeated-slices"
DUPLICATE_IMAGES = "duplicate-images"
FILES_UNREADABLE = "files-unreadable"

_PARALLEL_COSINE = 0.999  # 2.6 degrees
_APEX_FROM_BASE_LPS = np.array([1.0, -1.0, -1.0])
_SAME_SLICE_MM = 0.5
_UNEVEN_GAP = 0.1  # share of the mean distance
_SHIFTED_MM = 1.0

_Slice = list[ImageHeader]


@dataclass(frozen=True, slots=True, eq=False)
class _Stack:
    """Slices from base to apex; the images of each by time."""

    slices: list[_Slice]
    frames: int
    flags: set[str]


def inspect(path: Path) -> Header:
    """Sort the images of a folder or zip by their headers, without decoding a pixel.

    Raises:
        ImageError: There is no short-axis cine, or it cannot be read.
        GeometryError: Positions, orientations or pixel sizes make no sense.
    """
    with opened(path) as members:
        return _describe(_find_stack(members))


def read_cine(path: Path, *, frame_ms: float | None) -> CineSequence:
    """Read the short-axis cine of a folder or zip of DICOMs.

    Args:
        path: The folder or zip; whatever else lies in it is left aside.
        frame_ms: Time between two frames, where the caller knows better than the headers; else None.

    Raises:
        ImageError: There is no short-axis cine, or it cannot be read.
        GeometryError: Positions, orientations or pixel sizes make no sense.
    """
    with opened(path) as members:
        stack = _find_stack(members)
        header = _describe(stack)
        voxels = torch.stack([_on_common_cycle(images, stack) for images in stack.slices], dim=1)
        return header.cine(voxels, frame_ms=frame_ms)


def _describe(stack: _Stack) -> Header:
    spacing, affine, geometry_flags = _geometry(stack.slices)
    first = stack.slices[0][0]
    return Header(
        frames=stack.frames,
        grid=(len(stack.slices), *first.shape),
        spacing=spacing,
        affine=affine,
        frame_ms=_frame_ms(stack),
        flags=tuple(sorted(stack.flags | geometry_flags | _timing_flags(stack))),
    )


def _find_stack(members: Sequence[Member]) -> _Stack:
    images, flags = _headers(members)
    slices = []
    for candidates in _by_place(_largest_parallel(images)):
        images_of_slice, slice_flags = _one_recording(candidates)
        slices.append(images_of_slice)
        flags |= slice_flags
    frames = _usual_count(slices)
    whole = [images for images in slices if 2 * len(images) > frames]
    if len(whole) < len(slices):
        flags.add(SLICES_DROPPED)  # localisers parallel to the stack, recordings broken off
    return _Stack(whole, frames, flags)


def _headers(members: Sequence[Member]) -> tuple[list[ImageHeader], set[str]]:
    found, flags = [], set()
    for member in members:
        try:
            found.append(read_header(member))
        except DAMAGE:
            flags.add(FILES_UNREADABLE)
    images = [header for header in found if header is not None]
    if not images:
        raise ImageError(
            f"Expected DICOM images with a position in the patient, found none among {len(members)} files.",
            hint="Give the short-axis cine as single-frame DICOMs, or convert it to NIfTI with dcm2niix.",
            code=ErrorCode.DICOM,
        )
    return images, flags


def _largest_parallel(images: Sequence[ImageHeader]) -> list[ImageHeader]:
    """The images of the most frequent orientation, matrix and pixel size: a cine stack outnumbers all else."""
    groups: list[list[ImageHeader]] = []
    for image in images:
        group = next((g for g in groups if _same_grid(g[0], image)), None)
        if group is None:
            groups.append([image])
        else:
            group.append(image)
    return max(groups, key=len)


def _towards_apex(image: ImageHeader) -> NDArray[np.float64]:
    """Unit vector across the slices. The heart's apex lies to the left, front and feet of its base."""
    towards_apex = float(image.normal @ _APEX_FROM_BASE_LPS) >= 0
    return image.normal if towards_apex else -image.normal


def _same_grid(a: ImageHeader, b: ImageHeader) -> bool:
    cosines = (a.orientation * b.orientation).sum(axis=1)
    return (
        a.shape == b.shape
        and bool((cosines > _PARALLEL_COSINE).all())
        and bool(np.allclose(a.pixel_mm, b.pixel_mm, rtol=1e-3))
    )


def _by_place(images: Sequence[ImageHeader]) -> list[list[ImageHeader]]:
    """Images of each slice, slices sorted from base to apex."""
    across = _towards_apex(images[0])
    places = sorted(((float(image.position @ across), image) for image in images), key=lambda pair: pair[0])
    slices = [[places[0][1]]]
    for (before, _), (place, image) in pairwise(places):
        if place - before > _SAME_SLICE_MM:
            slices.append([])
        slices[-1].append(image)
    return slices


def _one_recording(images: Sequence[ImageHeader]) -> tuple[_Slice, set[str]]:
    """The last complete recording of a slice, each phase once, by time."""
    flags = set()
    series = defaultdict(list)
    for image in images:
        series[image.series].append(image)
    recordings = [_each_phase_once(series[key]) for key in sorted(series)]
    kept = max(reversed(recordings), key=len)
    if len(recordings) > 1:
        flags.add(REPEATED_SLICES)
    if len(kept) < len(series[kept[0].series]):
        flags.add(DUPLICATE_IMAGES)
    return kept, flags


def _each_phase_once(images: Sequence[ImageHeader]) -> _Slice:
    ordered = sorted(images, key=lambda image: image.instance)
    if _timed(ordered):
        phases = {image.trigger_ms: image for image in ordered}
    else:
        phases = {float(image.instance): image for image in ordered}
    return [image for _, image in sorted(phases.items(), key=lambda item: item[0] or 0.0)]


def _timed(images: Sequence[ImageHeader]) -> bool:
    """Whether the trigger times tell the phases of one slice apart."""
    times = {image.trigger_ms for image in images}
    return None not in times and (len(times) > 1 or len(images) == 1)


def _usual_count(slices: Sequence[_Slice]) -> int:
    counts = Counter(len(images) for images in slices)
    frames = max(counts, key=lambda n: (counts[n], n))
    if frames < 2:
        raise ImageError(
            f"Expected a cine, found {len(slices)} slice(s) with a single phase each.",
            hint="Give the short-axis cine series, with all its phases.",
            code=ErrorCode.IMAGE_DIMENSIONS,
        )
    return frames


def _triggers(images: _Slice) -> NDArray[np.float64] | None:
    return np.array([image.trigger_ms for image in images], dtype=np.float64) if _timed(images) else None


def _step_ms(images: _Slice) -> float | None:
    triggers = _triggers(images)
    return None if triggers is None or len(triggers) < 2 else float(np.median(np.diff(triggers)))


def _frame_ms(stack: _Stack) -> float | None:
    """Median over the slices of the time between two phases; from the heart rate where trigger times are missing."""
    complete = [images for images in stack.slices if len(images) == stack.frames]
    steps = [step for images in complete if (step := _step_ms(images)) is not None]
    if not steps:
        steps = [image.cycle_ms / stack.frames for images in complete for image in images if image.cycle_ms]
    return float(np.median(steps)) if steps else None


def _timing_flags(stack: _Stack) -> set[str]:
    flags = set()
    if any(len(images) != stack.frames for images in stack.slices):
        flags.add(PHASES_INTERPOLATED)
    complete = [_triggers(images) for images in stack.slices if len(images) == stack.frames]
    triggers = np.array([times for times in complete if times is not None])
    frame_ms = _frame_ms(stack)
    if len(triggers) and frame_ms and np.ptp(triggers, axis=0).max() > frame_ms / 2:
        flags.add(TRIGGER_TIMES_DIFFER)
    return flags


def _on_common_cycle(images: _Slice, stack: _Stack) -> Tensor:
    """Frames (t, y, x) of one slice, interpolated in time only where phases are missing or too many."""
    pixels = torch.from_numpy(np.stack([_checked_pixels(image) for image in images]))
    if len(images) == stack.frames:
        return pixels
    shares = _shares_of_cycle(images, stack)
    around = np.concatenate([[shares[-1] - 1.0], shares, [shares[0] + 1.0]])
    wanted = np.arange(stack.frames) / stack.frames
    after = np.clip(np.searchsorted(around, wanted, side="right"), 1, len(shares) + 1)
    weight = torch.from_numpy((wanted - around[after - 1]) / (around[after] - around[after - 1])).float()
    later = pixels[(after - 1) % len(shares)]
    earlier = pixels[(after - 2) % len(shares)]
    return torch.lerp(earlier, later, weight.clamp(0.0, 1.0)[:, None, None])


def _shares_of_cycle(images: _Slice, stack: _Stack) -> NDArray[np.float64]:
    """When in the cycle, from 0 to 1, each phase of an incomplete or overfull slice was taken.

    A slice whose own steps would fill the usual cycle only with the usual number of phases lacks some of them; else
    it was recorded with another number of phases.
    """
    triggers, step, usual = _triggers(images), _step_ms(images), _frame_ms(stack)
    if triggers is None or step is None or usual is None:
        raise ImageError(
            f"A slice has {len(images)} phases, the others have {stack.frames}, and no trigger times tell which.",
            hint="Export the series again with all its phases, or leave that slice out.",
            code=ErrorCode.DICOM,
        )
    counts = (stack.frames, len(images))
    count = min(counts, key=lambda n: abs(n * step - stack.frames * usual))
    starts = [image[0].trigger_ms / usual for image in stack.slices if image[0].trigger_ms is not None]
    shares = (triggers / step - float(np.median(starts))) / count
    return np.asarray(shares - np.floor(shares[0] + 1e-3))


def _checked_pixels(image: ImageHeader) -> NDArray[np.float32]:
    pixels = read_pixels(image)
    if pixels.shape != image.shape:
        raise ImageError(
            f"{image.member.name}: expected {image.shape} pixels, found {pixels.shape}.",
            hint="Copy the file again.",
            code=ErrorCode.FILE_DAMAGED,
        )
    return pixels


def _geometry(slices: Sequence[_Slice]) -> tuple[Spacing, Tensor, set[str]]:
    """Spacing, affine (RAS mm, columns z, y, x) and flags, from the first image of each slice."""
    first = slices[0][0]
    along_x, along_y = first.orientation
    across = _towards_apex(first)
    positions = np.array([images[0].position for images in slices])
    gap, flags = _slice_gap(positions @ across, told=first.slice_mm)
    spacing = Spacing(gap, *first.pixel_mm)
    steps = np.outer(np.arange(len(slices)), across * gap)
    origin = (positions - steps).mean(axis=0)
    if np.abs((positions - steps - origin) @ first.orientation.T).max() > _SHIFTED_MM:
        flags.add(SLICES_SHIFTED)
    lps = np.eye(4)
    lps[:3] = np.stack([across * gap, along_y * spacing.y, along_x * spacing.x, origin], axis=1)
    return spacing, torch.from_numpy(np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps), flags


def _slice_gap(places: NDArray[np.float64], *, told: float | None) -> tuple[float, set[str]]:
    gaps = np.diff(places)
    if len(gaps) == 0:
        if told is None:
            raise GeometryError(
                "A single slice without a slice thickness has no volume.",
                hint="Give the whole stack, or a NIfTI file with the right voxel sizes.",
                code=ErrorCode.GEOMETRY,
            )
        return told, set()
    mean = float(gaps.mean())
    return mean, {SLICE_GAP_UNEVEN} if np.abs(gaps - mean).max() > _UNEVEN_GAP * mean else set()
