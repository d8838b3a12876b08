"""Checks of a readable cine: empty, static, duplicated, saturated and shifted slices."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.types import CineSequence

SATURATED_FRACTION, FEWEST_SATURATED = 0.05, 20
"""In the middle of a slice, up to this fraction of the bright voxels, and up to this number of voxels, may have the
largest value of the slice."""

SHIFT_MM, SHIFT_GAIN = 6.0, 0.25
"""A slice counts as shifted if a shift by more than this distance reduces one minus its correlation with the mean of
its neighbours by more than this fraction. Of 103 stacks (ACDC, Sunnybrook) 5 have such a slice; of slices shifted by
10 mm, two of three are detected."""

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
    saturated = [z for z in _saturated_slices(cine.voxels) if z not in empty]
    if saturated:
        yield f"In slice(s) {_listed(saturated)} bright voxels in the middle are clipped at the largest value."
    shifted = [] if empty or duplicates else _shifted_slices(cine)
    if shifted:
        shifts = ", ".join(f"{z} by {mm:.0f} mm" for z, mm in shifted)
        yield f"Slice(s) are shifted in-plane against their neighbours: {shifts}. Breath-holds may have differed."


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
    return [z for z in range(1, voxels.shape[1]) if torch.equal(voxels[:, z], voxels[:, z - 1])]


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
