"""A textured disc whose motion is known in closed form."""

from collections.abc import Callable

import torch
from torch import Tensor

from cmnet_core.registration.displacement import propagate
from cmnet_core.types import MotionField, Spacing

SPACING = Spacing(8.0, 2.0, 1.5)
SHAPE = (4, 32, 40)
SHIFT_MM = (0.0, -2.0, 3.0)
STRETCH = 0.12

Map = Callable[[Tensor], Tensor]
"""From positions in mm, component first, to positions in mm."""


def positions_mm() -> Tensor:
    """Positions of the voxels in mm from the centre of the volume, component first."""
    axes = [(torch.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE, SPACING.zyx, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def texture(at_mm: Tensor) -> Tensor:
    """Intensity from 0 to 1 at positions in mm: a disc of radius 22 mm with waves of 16 to 24 mm."""
    z, y, x = at_mm
    disc = torch.sigmoid((22.0 - y.hypot(x)) / 2.0)
    waves = torch.sin(y / 3.1 + 0.1 * z) * torch.cos(x / 2.7) + torch.sin((x + y) / 4.0 - 0.05 * z)
    return disc * (0.5 + 0.2 * waves)


def translated(at_mm: Tensor) -> Tensor:
    """Positions after a translation."""
    return at_mm + torch.tensor(SHIFT_MM).view(3, 1, 1, 1)


def translated_back(at_mm: Tensor) -> Tensor:
    """The inverse of :func:`translated`."""
    return at_mm - torch.tensor(SHIFT_MM).view(3, 1, 1, 1)


def stretched(at_mm: Tensor) -> Tensor:
    """Positions after an in-plane stretch about the centre."""
    return at_mm * torch.tensor([1.0, 1.0 + STRETCH, 1.0 + STRETCH]).view(3, 1, 1, 1)


def contracted(at_mm: Tensor) -> Tensor:
    """The inverse of :func:`stretched`."""
    return at_mm / torch.tensor([1.0, 1.0 + STRETCH, 1.0 + STRETCH]).view(3, 1, 1, 1)


def factor_along(displacement: Tensor, motion: Map) -> float:
    """Return the factor of a displacement in mm along the true one, within 18 mm of the centre.

    It is 1 for the true displacement, 0 for none, and -1 for one that points the other way.
    """
    at = positions_mm()
    within = at[1].hypot(at[2]) < 18.0
    truth, found = (motion(at) - at)[:, within], displacement[:, within]
    return float((found * truth).sum() / truth.square().sum())


def residual(fixed: Tensor, moving: Tensor, displacement: Tensor) -> float:
    """Return the difference of the fixed and the warped moving image as a fraction of that of both images."""
    field = MotionField(displacement, SPACING, fixed=0, moving=1)
    warped = propagate(moving[None], field)[0]
    return float((warped - fixed).square().mean().sqrt() / (moving - fixed).square().mean().sqrt())
