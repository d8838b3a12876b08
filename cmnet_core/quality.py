"""What makes a cine doubtful though it can be read: slices without a picture, clipped intensities, slices that moved."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.types import CineSequence

SATURATED_SHARE = 0.02
"""Share of a slice's bright voxels that may sit at its largest value."""

MOVED_MM = 6.0
"""How far a slice may lie from where the slices beside it agree that it should: breath is held anew for each."""

_AGREE_MM = 3.0
_FURTHEST_MM = 30.0
_FRAMES_OF_A_CYCLE = 3


def doubts(cine: CineSequence) -> Iterator[str]:
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
        yield f"In slice(s) {_listed(clipped)} bright voxels are cut off at the largest value."
    moved = [] if empty or copies else _moved_slices(cine)
    if moved:
        told = ", ".join(f"{z} by {mm:.0f} mm" for z, mm in moved)
        yield f"Slice(s) lie beside those above and below them: {told}. Breath was held differently."


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
    """Slices in which more of the upper half of the intensities sit at the very top than a picture has there."""
    found = []
    for z in range(voxels.shape[1]):
        values = voxels[:, z]
        low, high = values.aminmax()
        bright = int((values > (low + high) / 2).sum())
        if int((values == high).sum()) > max(len(values), SATURATED_SHARE * bright):
            found.append(z)
    return found


def _moved_slices(cine: CineSequence) -> list[tuple[int, float]]:
    """Slices that are shifted against both neighbours, while these agree; with the shift in mm."""
    pictures = [_without_slow_change(picture) for picture in cine.voxels.mean(dim=0)]
    spacing = torch.tensor(cine.spacing.zyx[1:])
    found = []
    for z in range(1, len(pictures) - 1):
        before, after, across = (
            _shift(pictures[a], pictures[b], cine.spacing.zyx[1:]) * spacing
            for a, b in ((z - 1, z), (z + 1, z), (z - 1, z + 1))
        )
        apart, moved = (before - after).norm().item(), (before + after).norm().item() / 2
        if moved > MOVED_MM and apart < _AGREE_MM and across.norm().item() < _AGREE_MM:
            found.append((z, moved))
    return found


def _without_slow_change(picture: Float[Tensor, "y x"]) -> Float[Tensor, "y x"]:
    """Edges: what moves with a slice, and not the brightness that coils give to a place."""
    along_y, along_x = torch.gradient(picture)
    edges = along_y.hypot(along_x)
    return edges - edges.mean()


def _shift(fixed: Float[Tensor, "y x"], moving: Float[Tensor, "y x"], mm: tuple[float, float]) -> Float[Tensor, "2"]:
    """Voxels by which ``moving`` lies beside ``fixed``: where their cross-correlation is largest, within reach."""
    spectrum = torch.fft.rfft2(moving) * torch.fft.rfft2(fixed).conj()
    correlation = torch.fft.irfft2(spectrum, s=fixed.shape)
    steps = [torch.fft.fftfreq(n, 1 / n) for n in fixed.shape]
    near = (steps[0].abs()[:, None] * mm[0] <= _FURTHEST_MM) & (steps[1].abs() * mm[1] <= _FURTHEST_MM)
    row, column = divmod(int(torch.where(near, correlation, -torch.inf).argmax()), fixed.shape[1])
    return torch.stack([steps[0][row], steps[1][column]])
