"""What makes a cine doubtful though it can be read: slices without a picture, clipped intensities, moved slices."""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.types import CineSequence

SATURATED_SHARE, FEWEST_SATURATED = 0.05, 20
"""In the middle of a slice, so many of the bright voxels may sit at the largest value of the slice."""

MOVED_MM, MOVED_GAIN = 6.0, 0.25
"""A slice has moved if its correlation with the mean of its neighbours lacks less of 1 by this share once it is moved
back by more than this distance. Of 103 stacks (ACDC, Sunnybrook) 5 have such a slice; of slices moved by 10 mm,
two of three are found."""

_GRID_MM, _FURTHEST_STEPS = 2.5, 6
_FRAMES_OF_A_CYCLE = 3


def image_flags(cine: CineSequence) -> Iterator[str]:
    """Say in words what is doubtful about an image; slices and frames are counted from 0."""
    empty = _empty_slices(cine.voxels)
    if empty:
        yield f"Slice(s) {_listed(empty)} of {cine.voxels.shape[1]} hold one value throughout, in some frame or in all."
    still = [z for z in _still_slices(cine.voxels) if z not in empty]
    if still:
        yield f"Slice(s) {_listed(still)} show the same picture in every frame."
    copies = [z for z in _copied_slices(cine.voxels) if z not in empty]
    if copies:
        yield f"Slice(s) {_listed(copies)} are copies of the slice before."
    clipped = [z for z in _saturated_slices(cine.voxels) if z not in empty]
    if clipped:
        yield f"In slice(s) {_listed(clipped)} the bright voxels in the middle are cut off at the largest value."
    moved = [] if empty or copies else _moved_slices(cine)
    if moved:
        told = ", ".join(f"{z} by {mm:.0f} mm" for z, mm in moved)
        yield f"Slice(s) lie beside their neighbours: {told}. Breath may have been held at another depth."


def _listed(slices: list[int]) -> str:
    return ", ".join(map(str, slices))


def _empty_slices(voxels: Float[Tensor, "t z y x"]) -> list[int]:
    low, high = voxels.aminmax(dim=3)
    flat = low.amin(dim=2) == high.amax(dim=2)
    return [z for z, empty in enumerate(flat.any(dim=0).tolist()) if empty]


def _still_slices(voxels: Float[Tensor, "t z y x"]) -> list[int]:
    if len(voxels) < _FRAMES_OF_A_CYCLE:
        return []
    still = (voxels == voxels[:1]).all(dim=3).all(dim=2).all(dim=0)
    return [z for z, same in enumerate(still.tolist()) if same]


def _copied_slices(voxels: Float[Tensor, "t z y x"]) -> list[int]:
    return [z for z in range(1, voxels.shape[1]) if torch.equal(voxels[:, z], voxels[:, z - 1])]


def _saturated_slices(voxels: Float[Tensor, "t z y x"]) -> list[int]:
    """Slices clipped where the heart is: fat beside a coil may be."""
    rows, columns = (slice(n // 4, n - n // 4) for n in voxels.shape[2:])
    found = []
    for z in range(voxels.shape[1]):
        low, high = voxels[:, z].aminmax()
        middle = voxels[:, z, rows, columns]
        bright, clipped = int((middle > (low + high) / 2).sum()), int((middle == high).sum())
        if clipped > max(FEWEST_SATURATED, SATURATED_SHARE * bright):
            found.append(z)
    return found


def _moved_slices(cine: CineSequence) -> list[tuple[int, float]]:
    """Slices that fit between their neighbours only when they are moved within their plane; with the distance in mm."""
    mean = cine.voxels.mean(dim=0)[:, None]
    size = [round(n * mm / _GRID_MM) for n, mm in zip(mean.shape[2:], cine.spacing.zyx[1:], strict=True)]
    if min(size) <= 4 * _FURTHEST_STEPS:
        return []
    pictures = torch.nn.functional.interpolate(mean - mean.min(), size=size, mode="area")[:, 0].sqrt()
    found = []
    for z in range(1, len(pictures) - 1):
        correlation = _correlations((pictures[z - 1] + pictures[z + 1]) / 2, pictures[z])
        row, column = divmod(int(correlation.argmax()), correlation.shape[1])
        moved_mm = _GRID_MM * math.hypot(row - _FURTHEST_STEPS, column - _FURTHEST_STEPS)
        unmoved = correlation[_FURTHEST_STEPS, _FURTHEST_STEPS]
        gain = (correlation.max() - unmoved) / (1 - unmoved).clamp(min=1e-6)
        if moved_mm > MOVED_MM and gain > MOVED_GAIN:
            found.append((z, moved_mm))
    return found


def _correlations(fixed: Float[Tensor, "y x"], moving: Float[Tensor, "y x"]) -> Float[Tensor, "n n"]:
    """Correlation of the middle of a picture with another one, by the steps that the other is moved down and across."""
    reach = _FURTHEST_STEPS
    middle = fixed[reach:-reach, reach:-reach]
    windows = moving.unfold(0, middle.shape[0], 1).unfold(1, middle.shape[1], 1)
    middle = middle - middle.mean()
    windows = windows - windows.mean(dim=(2, 3), keepdim=True)
    scale = middle.norm() * windows.flatten(2).norm(dim=2)
    correlation: Tensor = (windows * middle).sum(dim=(2, 3)) / scale.clamp(min=1e-9)
    return correlation
