"""Checks of a readable cine: empty, static, copied, saturated and shifted slices, negatives, noise, dark bands."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy import ndimage
from torch import Tensor

from cmnet_core.flags import QCFlag
from cmnet_core.labels import Label
from cmnet_core.qc.thresholds import BAND_FRACTION, INVERTED_FRACTION, NOISE_FRACTION, SLICE_DISTANCE_MM
from cmnet_core.types import CineSequence, Spacing

SATURATED_FRACTION, FEWEST_SATURATED = 0.05, 20
"""In the middle of a slice, up to this fraction of the bright voxels, and up to this number of voxels, may have the
largest value of the slice."""

SHIFT_MM, SHIFT_GAIN = 6.0, 0.25
"""A slice counts as shifted if a shift by more than this distance reduces one minus its correlation with the mean of
its neighbours by more than this fraction. Of 103 stacks (ACDC, Sunnybrook) 5 have such a slice; of slices shifted by
10 mm, two of three are detected."""

SAME_FRACTION = 0.02
"""Two slices count as copies if they differ on average by less than this fraction of the standard deviation of the
first: rounding, compression, resampling in time."""

_LINE_RADIUS_MM, _LINE_STEP_MM, _LINE_ANGLES = 40.0, 2.0, 18
_LINE_OFFSET_STEPS, _BESIDE_STEPS = 7, range(5, 9)  # lines up to 14 mm from the centre, and those 10 to 16 mm away
_BRIGHTEST = 0.9  # quantile of the intensities along a line: a line through a cavity has bright voxels

_GRID_MM, _MAX_STEPS = 2.5, 6
_FRAMES_OF_A_CYCLE = 3


def image_flags(cine: CineSequence) -> Iterator[str]:
    """Yield one sentence for each problem of the image; slices and frames are counted from 0."""
    empty = _empty_slices(cine.voxels)
    if empty:
        yield f"Slice(s) {_listed(empty)} of {cine.voxels.shape[1]} have one constant value in at least one frame."
    static = [z for z in _static_slices(cine.voxels) if z not in empty]
    if static:
        yield f"Slice(s) {_listed(static)} are identical in every frame."
    duplicates = [z for z in _duplicated_slices(cine.voxels) if z not in empty]
    if duplicates:
        yield f"Slice(s) {_listed(duplicates)} are copies of the previous slice."
    if cine.spacing.z >= SLICE_DISTANCE_MM:
        yield f"The distance between slices is {cine.spacing.z:.1f} mm."
    median = _median_fraction(cine.voxels[0])
    if median > INVERTED_FRACTION:
        yield f"The image may be a negative: the median intensity is {100 * median:.0f} % of the range of intensities."
    noise = _noise_fraction(cine.voxels[0])
    if noise > NOISE_FRACTION:
        yield f"The noise has a standard deviation of {100 * noise:.0f} % of the range of intensities."
    saturated = [z for z in _saturated_slices(cine.voxels) if z not in empty]
    if saturated:
        yield f"In slice(s) {_listed(saturated)} bright voxels in the middle are clipped at the largest value."
    shifted = [] if empty or duplicates else _shifted_slices(cine)
    if shifted:
        shifts = ", ".join(f"{z} by {mm:.0f} mm" for z, mm in shifted)
        yield f"Slice(s) are shifted in-plane against their neighbours: {shifts}. Breath-holds may have differed."


def check_image(cine: CineSequence) -> Iterator[QCFlag]:
    """Yield the flags about empty and copied slices, the distance between slices, negatives and noise."""
    if _empty_slices(cine.voxels):
        yield QCFlag.SLICES_EMPTY
    if _median_fraction(cine.voxels[0]) > INVERTED_FRACTION:
        yield QCFlag.INTENSITIES_INVERTED
    if _duplicated_slices(cine.voxels):
        yield QCFlag.SLICES_COPIED
    if cine.spacing.z >= SLICE_DISTANCE_MM:
        yield QCFlag.SLICES_FAR_APART
    if _noise_fraction(cine.voxels[0]) > NOISE_FRACTION:
        yield QCFlag.HEAVY_NOISE


def check_bands(volume: Float[Tensor, "z y x"], labels: UInt8[Tensor, "z y x"], spacing: Spacing) -> Iterator[QCFlag]:
    """Yield the flag of a dark band through the LV.

    A line through the LV has bright voxels of blood in it, unless a band covers it: the brightness of each line is
    compared with those of the parallel lines on both sides. The outermost slices of the LV are left out.

    Args:
        volume: The frame at end-diastole.
        labels: Its label map.
        spacing: Voxel spacing in mm.
    """
    heart = (labels == Label.LV) | (labels == Label.MYO)
    slices = [z for z, found in enumerate((labels == Label.LV).flatten(1).any(dim=1).tolist()) if found]
    inner = slices[1:-1] or slices
    if inner:
        centre = heart.any(dim=0).nonzero().double().mean(dim=0)
        fractions = [_darkest_line(volume[z], (float(centre[0]), float(centre[1])), spacing) for z in inner]
        if float(np.median(fractions)) < BAND_FRACTION:
            yield QCFlag.DARK_BAND


def _darkest_line(image: Float[Tensor, "y x"], centre: tuple[float, float], spacing: Spacing) -> float:
    """Smallest brightness of a line near the centre, as a fraction of the darker of the two sides."""
    count = round(_LINE_RADIUS_MM / _LINE_STEP_MM)
    across, along = np.meshgrid(*2 * [_LINE_STEP_MM * np.arange(-count, count + 1)], indexing="ij")
    outside = across**2 + along**2 > _LINE_RADIUS_MM**2
    brightest = (_BRIGHTEST * ((~outside).sum(axis=1) - 1)).astype(int)
    shifted = image.double().numpy() - float(image.min())
    lines = np.arange(count - _LINE_OFFSET_STEPS, count + _LINE_OFFSET_STEPS + 1)
    smallest = 1.0
    for angle in np.pi * np.arange(_LINE_ANGLES) / _LINE_ANGLES:
        rows = centre[0] + (across * np.cos(angle) + along * np.sin(angle)) / spacing.y
        columns = centre[1] + (along * np.cos(angle) - across * np.sin(angle)) / spacing.x
        values = ndimage.map_coordinates(shifted, [rows, columns], order=1, mode="nearest")
        ordered = np.sort(np.where(outside, np.inf, values), axis=1)
        bright = ndimage.uniform_filter1d(ordered[np.arange(len(ordered)), brightest], 3)
        sides = [np.max([bright[lines + sign * step] for step in _BESIDE_STEPS], axis=0) for sign in (-1, 1)]
        smallest = min(smallest, float((bright[lines] / np.maximum(np.minimum(*sides), 1e-9)).min()))
    return smallest


def _median_fraction(volume: Float[Tensor, "z y x"]) -> float:
    """Median intensity of a volume, as a fraction of the range from the 1st to the 99th percentile."""
    low, median, high = np.percentile(volume.numpy(), [1, 50, 99])
    return float((median - low) / (high - low)) if high > low else 0.0


def _noise_fraction(volume: Float[Tensor, "z y x"]) -> float:
    """Standard deviation of the noise in the middle of a volume, relative to its range of intensities.

    The mixed second difference of rows and columns has no response to straight edges along them, and the median of its
    magnitude ignores the others (Immerkær, Comput. Vis. Image Underst. 64, 1996, with the median in place of the mean).
    Every second voxel is used too, since the noise of interpolated images is smooth.
    """
    rows, columns = (slice(n // 4, n - n // 4) for n in volume.shape[1:])
    low, high = np.percentile(volume.numpy(), [1, 99])
    found = [0.0]
    for step in (1, 2):
        middle = volume[:, rows, columns][:, ::step, ::step].double()
        if min(middle.shape[1:]) < 3 or high <= low:
            continue
        second = middle.diff(n=2, dim=1).diff(n=2, dim=2).abs().flatten(1).median(dim=1).values
        # The kernel (1, -2, 1) x (1, -2, 1) has a norm of 6; 0.6745 is the median of a standard half-normal.
        found.append(float(second.median()) / (6 * 0.6745))
    return max(found) / float(high - low) if high > low else 0.0


def _listed(slices: list[int]) -> str:
    return ", ".join(map(str, slices))


def _empty_slices(voxels: Float[Tensor, "t z y x"]) -> list[int]:
    low, high = voxels.aminmax(dim=3)
    constant = low.amin(dim=2) == high.amax(dim=2)
    return [z for z, empty in enumerate(constant.any(dim=0).tolist()) if empty]


def _static_slices(voxels: Float[Tensor, "t z y x"]) -> list[int]:
    if len(voxels) < _FRAMES_OF_A_CYCLE:
        return []
    static = (voxels == voxels[:1]).all(dim=3).all(dim=2).all(dim=0)
    return [z for z, same in enumerate(static.tolist()) if same]


def _duplicated_slices(voxels: Float[Tensor, "t z y x"]) -> list[int]:
    found = []
    for z in range(1, voxels.shape[1]):
        before, after = voxels[:, z - 1], voxels[:, z]
        deviation = float(before.std()) if before.numel() > 1 else 0.0
        if deviation > 0 and float((after - before).abs().mean()) < SAME_FRACTION * deviation:
            found.append(z)
    return found


def _saturated_slices(voxels: Float[Tensor, "t z y x"]) -> list[int]:
    """Slices clipped in the middle, where the heart is; fat next to a coil is often clipped."""
    rows, columns = (slice(n // 4, n - n // 4) for n in voxels.shape[2:])
    found = []
    for z in range(voxels.shape[1]):
        low, high = voxels[:, z].aminmax()
        middle = voxels[:, z, rows, columns]
        bright, clipped = int((middle > (low + high) / 2).sum()), int((middle == high).sum())
        if clipped > max(FEWEST_SATURATED, SATURATED_FRACTION * bright):
            found.append(z)
    return found


def _shifted_slices(cine: CineSequence) -> list[tuple[int, float]]:
    """Slices that match their neighbours only after an in-plane shift, with the length of that shift in mm."""
    mean = cine.voxels.mean(dim=0)[:, None]
    size = [round(n * mm / _GRID_MM) for n, mm in zip(mean.shape[2:], cine.spacing.zyx[1:], strict=True)]
    if min(size) <= 4 * _MAX_STEPS:
        return []
    images = torch.nn.functional.interpolate(mean - mean.min(), size=size, mode="area")[:, 0].sqrt()
    found = []
    for z in range(1, len(images) - 1):
        correlation = _correlations((images[z - 1] + images[z + 1]) / 2, images[z])
        row, column = divmod(int(correlation.argmax()), correlation.shape[1])
        shift_mm = _GRID_MM * math.hypot(row - _MAX_STEPS, column - _MAX_STEPS)
        unshifted = correlation[_MAX_STEPS, _MAX_STEPS]
        gain = (correlation.max() - unshifted) / (1 - unshifted).clamp(min=1e-6)
        if shift_mm > SHIFT_MM and gain > SHIFT_GAIN:
            found.append((z, shift_mm))
    return found


def _correlations(fixed: Float[Tensor, "y x"], moving: Float[Tensor, "y x"]) -> Float[Tensor, "n n"]:
    """Correlation of the middle of one image with another one, for every shift of the latter along rows and columns."""
    middle = fixed[_MAX_STEPS:-_MAX_STEPS, _MAX_STEPS:-_MAX_STEPS]
    windows = moving.unfold(0, middle.shape[0], 1).unfold(1, middle.shape[1], 1)
    middle = middle - middle.mean()
    windows = windows - windows.mean(dim=(2, 3), keepdim=True)
    scale = middle.norm() * windows.flatten(2).norm(dim=2)
    correlation: Tensor = (windows * middle).sum(dim=(2, 3)) / scale.clamp(min=1e-9)
    return correlation
