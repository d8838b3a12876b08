"""The in-plane motion that turns one shape into another: a stationary velocity fitted to two masks.

Slices are kept: each moves within its own plane, neighbours are held together by the bending energy. All planes are
interpolated at once in two dimensions, several times faster than as volumes.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.labels import Label
from cmnet_core.models.losses import bending_energy, kl_segmentation_pyramid
from cmnet_core.types import Spacing

SQUARINGS = 6
_STEPS = 60
_RATE = 0.15
_LEVELS = 4
_PYRAMID_LEVELS = 5
_SOFTENING = 0.1
_SMOOTHNESS = 0.3
_STRONGER = 4.0
_ATTEMPTS = 4
_BORDER = 6
_SMALLEST_DETERMINANT = 0.05
_FEW_VOXELS = 4.0


@dataclass(frozen=True, slots=True)
class MaskRegistrationSettings:
    """How a velocity is fitted.

    Attributes:
        steps: Of Adam.
        smoothness: Weight of the bending energy at first; it grows where the motion folds.
    """

    steps: int = _STEPS
    smoothness: float = _SMOOTHNESS


def slice_grid(rows: int, columns: int) -> Float[Tensor, "2 y x"]:
    """Coordinates (y, x) of every voxel centre of a plane, in voxels."""
    return torch.stack(torch.meshgrid(torch.arange(rows).float(), torch.arange(columns).float(), indexing="ij"))


def sample_slices(planes: Float[Tensor, "z c y x"], points: Float[Tensor, "z 2 y2 x2"]) -> Float[Tensor, "z c y2 x2"]:
    """Read every plane at points given in its voxels (y, x), linearly; beyond the border the border's value goes on."""
    last = torch.tensor([planes.shape[2] - 1, planes.shape[3] - 1], dtype=points.dtype).clamp_min(1).view(1, 2, 1, 1)
    grid = (2.0 * points / last - 1.0).flip(1).movedim(1, -1)
    return functional.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=True)


def warp_slices(planes: Float[Tensor, "z c y x"], displacement: Float[Tensor, "z 2 y x"]) -> Float[Tensor, "z c y x"]:
    """Pull every plane back: ``out(p) = plane(p + u(p))``, displacement in voxels."""
    return sample_slices(planes, slice_grid(planes.shape[2], planes.shape[3]) + displacement)


def exponential_in_plane(velocity: Float[Tensor, "z 2 y x"]) -> Float[Tensor, "z 2 y x"]:
    """Integrate an in-plane stationary velocity over unit time, as ``registration.displacement.exponential`` does."""
    displacement: Tensor = velocity / 2.0**SQUARINGS
    for _ in range(SQUARINGS):
        displacement = displacement + warp_slices(displacement, displacement)
    return displacement


def upsample_field(field: Float[Tensor, "z 2 yh xh"]) -> Float[Tensor, "z 2 y x"]:
    """A vector field in voxels, on a plane grid of half the voxel size."""
    return 2.0 * functional.interpolate(field, scale_factor=2, mode="bilinear", align_corners=False)


def min_determinant(displacement: Float[Tensor, "z 2 y x"]) -> float:
    """Smallest local change of area, from forward differences in every cell; at or below 0 a plane folds."""
    across = torch.diff(displacement, dim=3)[:, :, :-1]
    down = torch.diff(displacement, dim=2)[..., :-1]
    determinant = (1.0 + down[:, 0]) * (1.0 + across[:, 1]) - down[:, 1] * across[:, 0]
    return float(determinant.min())


def register_masks(
    source: Float[Tensor, "z k y x"],
    target: Float[Tensor, "z k y x"],
    spacing: Spacing,
    settings: MaskRegistrationSettings,
) -> Float[Tensor, "z 2 yh xh"]:
    """The velocity that carries ``source`` to ``target`` without folding, at half the in-plane resolution.

    A slice that a structure enters or leaves through the plane says nothing of how tissue moves within it: to make it
    vanish there a wall would have to collapse. Such slices, and those without a ventricle, are left to the bending
    energy, which extends what their neighbours do. Where the motion folds, the fit is done again under a stronger one.

    Args:
        source: Shares of the classes before.
        target: Shares of the classes after.
        spacing: Voxel spacing of both, in mm.
        settings: How to fit.

    Returns:
        In voxels of the half-resolution grid. Pulled back by its exponential, the source shows the target.
    """
    told = _comparable(source, target)
    if not bool(told.any()):
        return torch.zeros(len(source), 2, source.shape[2] // 2, source.shape[3] // 2)
    smoothness = settings.smoothness
    for _ in range(_ATTEMPTS):
        velocity = _descend(source, target, told, spacing, MaskRegistrationSettings(settings.steps, smoothness))
        worst = min_determinant(exponential_in_plane(velocity))
        if worst > _SMALLEST_DETERMINANT:
            break
        smoothness *= _STRONGER
    return velocity


def _comparable(source: Float[Tensor, "z k y x"], target: Float[Tensor, "z k y x"]) -> Bool[Tensor, " z"]:
    """Slices in which both show the same structures, the left ventricle among them."""
    before, after = (shares.sum(dim=(2, 3)) > _FEW_VOXELS for shares in (source, target))
    return (before == after)[:, Label.LV :].all(1) & before[:, Label.LV] & before[:, Label.MYO]


def _descend(
    source: Tensor, target: Tensor, told: Tensor, spacing: Spacing, settings: MaskRegistrationSettings
) -> Tensor:
    half = (source.shape[2] // 2, source.shape[3] // 2)
    still, coarse = _still_border(half), Spacing(spacing.z, 2 * spacing.y, 2 * spacing.x)
    parts = [torch.zeros(len(source), 2, *(max(n // 2**k, 2) for n in half)) for k in range(_LEVELS)]
    for part in parts:
        part.requires_grad_()
    optimiser = torch.optim.Adam(parts, lr=_RATE)
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = _RATE * 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))
        velocity = still * _sum_of(parts, half)
        moved = warp_slices(source[told], upsample_field(exponential_in_plane(velocity[told])))
        shape = kl_segmentation_pyramid(moved, target[told], levels=_PYRAMID_LEVELS, label_smoothing=_SOFTENING)
        loss = shape + settings.smoothness * bending_energy(_as_volume(velocity), coarse)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return (still * _sum_of(parts, half)).detach()


def _sum_of(parts: list[Tensor], size: tuple[int, int]) -> Float[Tensor, "z 2 yh xh"]:
    """One velocity from several, each half as fine as the one before: coarse motion is found first."""
    fine = [functional.interpolate(part, size=size, mode="bilinear", align_corners=False) for part in parts]
    return torch.stack(fine).sum(0)


def _as_volume(velocity: Float[Tensor, "z 2 yh xh"]) -> Float[Tensor, "1 3 z yh xh"]:
    in_plane = velocity.movedim(1, 0)
    return torch.cat([torch.zeros_like(in_plane[:1]), in_plane])[None]


def _still_border(size: tuple[int, int]) -> Float[Tensor, "yh xh"]:
    """1 inside, falling to 0 at the border: nothing moves there, and the motion may go on as none outside."""
    sides = []
    for count in size:
        place = torch.arange(count).float()
        from_border = torch.minimum(place, count - 1 - place) / _BORDER
        sides.append(0.5 - 0.5 * torch.cos(math.pi * from_border.clamp(0.0, 1.0)))
    return sides[0][:, None] * sides[1]
