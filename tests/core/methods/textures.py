"""A textured disc whose motion is known in closed form."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cmnet_core.types import Spacing

SPACING = Spacing(8.0, 2.5, 1.25)
SHAPE = (4, 40, 64)
SHIFT_MM = (0.0, -3.0, 2.0)
STRETCH = 0.12
RADIUS_MM = 25.0
"""Radius within which a displacement is compared with the true one: that of the disc less its blurred rim."""


def positions_mm(spacing: Spacing = SPACING, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Positions of the voxels in mm from the centre of the volume, component first."""
    axes = [(torch.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing.zyx, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def texture(at_mm: Tensor) -> Tensor:
    """Intensity from 0 to 1 at positions in mm: a disc of radius 30 mm with waves of 16 to 24 mm."""
    z, y, x = at_mm
    disc = torch.sigmoid((30.0 - y.hypot(x)) / 2.0)
    waves = torch.sin(y / 3.1 + 0.1 * z) * torch.cos(x / 2.7) + torch.sin((x + y) / 4.0 - 0.05 * z)
    return disc * (0.5 + 0.2 * waves)


def moved(at_mm: Tensor) -> Tensor:
    """Positions after an in-plane stretch about the centre and a translation."""
    return at_mm * _vector(1.0, 1.0 + STRETCH, 1.0 + STRETCH) + _vector(*SHIFT_MM)


def moved_back(at_mm: Tensor) -> Tensor:
    """The inverse of :func:`moved`."""
    return (at_mm - _vector(*SHIFT_MM)) / _vector(1.0, 1.0 + STRETCH, 1.0 + STRETCH)


def mean_distance_mm(first: Tensor, second: Tensor) -> float:
    """Return the mean distance of two displacements in the disc."""
    return float((first - second).norm(dim=0)[_within()].mean())


def _within() -> Tensor:
    at = positions_mm()
    return at[1].hypot(at[2]) < RADIUS_MM


def _vector(z: float, y: float, x: float) -> Tensor:
    return torch.tensor([z, y, x]).view(3, 1, 1, 1)


MISTAKES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "the other sign": lambda u: -u,
    "rows and columns exchanged": lambda u: u[[0, 2, 1]],
    "voxels for millimetres": lambda u: u / _vector(*SPACING.zyx),
    "millimetres for voxels": lambda u: u * _vector(*SPACING.zyx),
}
"""What mistakes of an adapter would make of a displacement."""
