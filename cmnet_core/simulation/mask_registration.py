"""Registration of two masks: the in-plane stationary velocity that warps one mask onto the other.

Every slice moves in-plane only; the bending energy couples neighbouring slices. All slices are interpolated at once in
two dimensions, which is several times as fast as in three.
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
"""Number of squarings of the velocity's exponential."""

_LEARNING_RATE = 0.15
"""Initial learning rate of Adam, in voxels of half the in-plane resolution."""

_VELOCITY_LEVELS = 4
"""Number of resolution levels whose velocities are added."""

_PYRAMID_LEVELS = 5
"""Number of resolution levels on which the masks are compared."""

_LABEL_SMOOTHING = 0.1
"""Label smoothing of both masks before they are compared."""

_SMOOTHNESS_FACTOR = 4.0
"""Factor by which the weight of the bending energy grows where the motion folds."""

_MAX_ATTEMPTS = 4
"""Largest number of registrations with growing weight of the bending energy."""

_BORDER = 6
"""Width of the image border over which the velocity falls to 0, in voxels of half the in-plane resolution."""

_MIN_DETERMINANT = 0.05
"""Area ratio down to which a motion counts as free of folds."""

_MIN_STRUCTURE_VOXELS = 4.0
"""Number of voxels up to which a structure counts as absent from a slice."""


@dataclass(frozen=True, slots=True)
class MaskRegistrationSettings:
    """Settings of the registration.

    Attributes:
        steps: Number of steps of Adam.
        smoothness: Initial weight of the bending energy.
    """

    steps: int = 60
    smoothness: float = 0.3


def slice_grid(rows: int, columns: int) -> Float[Tensor, "2 y x"]:
    """Return the coordinates (y, x) of every voxel centre of a slice, in voxels."""
    return torch.stack(torch.meshgrid(torch.arange(rows).float(), torch.arange(columns).float(), indexing="ij"))


def sample_slices(slices: Float[Tensor, "z c y x"], points: Float[Tensor, "z 2 y2 x2"]) -> Float[Tensor, "z c y2 x2"]:
    """Sample every slice at points (y, x) in its voxels by bilinear interpolation; border values are continued."""
    last = torch.tensor([slices.shape[2] - 1, slices.shape[3] - 1], dtype=points.dtype).clamp_min(1).view(1, 2, 1, 1)
    grid = (2.0 * points / last - 1.0).flip(1).movedim(1, -1)
    return functional.grid_sample(slices, grid, mode="bilinear", padding_mode="border", align_corners=True)


def warp_slices(slices: Float[Tensor, "z c y x"], displacement: Float[Tensor, "z 2 y x"]) -> Float[Tensor, "z c y x"]:
    """Pull every slice back by a displacement in voxels: ``out(p) = slice(p + u(p))``."""
    return sample_slices(slices, slice_grid(slices.shape[2], slices.shape[3]) + displacement)


def exponential_in_plane(velocity: Float[Tensor, "z 2 y x"]) -> Float[Tensor, "z 2 y x"]:
    """Integrate an in-plane stationary velocity, as :func:`cmnet_core.registration.displacement.exponential` does."""
    displacement: Tensor = velocity / 2.0**SQUARINGS
    for _ in range(SQUARINGS):
        displacement = displacement + warp_slices(displacement, displacement)
    return displacement


def upsample_field(field: Float[Tensor, "z 2 yh xh"]) -> Float[Tensor, "z 2 y x"]:
    """Upsample an in-plane vector field in voxels to twice the resolution."""
    return 2.0 * functional.interpolate(field, scale_factor=2, mode="bilinear", align_corners=False)


def min_determinant(displacement: Float[Tensor, "z 2 y x"]) -> float:
    """Return the smallest local area ratio, from forward differences; a slice folds where it is not positive."""
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
    """Fit the velocity that warps ``source`` onto ``target`` without folding.

    A slice that a structure enters or leaves through-plane does not determine in-plane motion: a wall would have to
    collapse for it to vanish. In such slices, and in those without a ventricle, the bending energy continues the motion
    of the neighbouring slices. Where the motion folds, the registration is repeated with a larger bending energy.

    Args:
        source: One-hot mask or class probabilities, to be warped.
        target: One-hot mask or class probabilities.
        spacing: Voxel spacing of both in mm.
        settings: Settings of the registration.

    Returns:
        The velocity at half the in-plane resolution, in its voxels; ``source``, pulled back by its exponential,
        approximates ``target``.
    """
    used = _comparable_slices(source, target)
    if not bool(used.any()):
        return torch.zeros(len(source), 2, source.shape[2] // 2, source.shape[3] // 2)
    smoothness = settings.smoothness
    for _ in range(_MAX_ATTEMPTS):
        velocity = _optimise(source, target, used, spacing, MaskRegistrationSettings(settings.steps, smoothness))
        if min_determinant(exponential_in_plane(velocity)) > _MIN_DETERMINANT:
            break
        smoothness *= _SMOOTHNESS_FACTOR
    return velocity


def _comparable_slices(source: Float[Tensor, "z k y x"], target: Float[Tensor, "z k y x"]) -> Bool[Tensor, " z"]:
    """Return the slices in which both have the same structures, with cavity and wall of the left ventricle."""
    before, after = (mask.sum(dim=(2, 3)) > _MIN_STRUCTURE_VOXELS for mask in (source, target))
    return (before == after)[:, Label.LV :].all(1) & before[:, Label.LV] & before[:, Label.MYO]


def _optimise(
    source: Tensor, target: Tensor, used: Tensor, spacing: Spacing, settings: MaskRegistrationSettings
) -> Tensor:
    half = (source.shape[2] // 2, source.shape[3] // 2)
    window, coarse = _border_window(half), Spacing(spacing.z, 2 * spacing.y, 2 * spacing.x)
    levels = [torch.zeros(len(source), 2, *(max(n // 2**k, 2) for n in half)) for k in range(_VELOCITY_LEVELS)]
    for level in levels:
        level.requires_grad_()
    optimiser = torch.optim.Adam(levels, lr=_LEARNING_RATE)
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = _LEARNING_RATE * 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))
        velocity = window * _sum_levels(levels, half)
        warped = warp_slices(source[used], upsample_field(exponential_in_plane(velocity[used])))
        divergence = kl_segmentation_pyramid(
            warped, target[used], levels=_PYRAMID_LEVELS, label_smoothing=_LABEL_SMOOTHING
        )
        in_plane = velocity.movedim(1, 0)
        volume = torch.cat([torch.zeros_like(in_plane[:1]), in_plane])[None]
        loss = divergence + settings.smoothness * bending_energy(volume, coarse)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return (window * _sum_levels(levels, half)).detach()


def _sum_levels(levels: list[Tensor], size: tuple[int, int]) -> Float[Tensor, "z 2 yh xh"]:
    """Add the velocities of all resolution levels, by which coarse motion converges first."""
    upsampled = [functional.interpolate(level, size=size, mode="bilinear", align_corners=False) for level in levels]
    return torch.stack(upsampled).sum(0)


def _border_window(size: tuple[int, int]) -> Float[Tensor, "yh xh"]:
    """Return a window of 1 that falls to 0 at the image border, so that the motion is continuous outside of it."""
    sides = []
    for count in size:
        position = torch.arange(count).float()
        from_border = torch.minimum(position, count - 1 - position) / _BORDER
        sides.append(0.5 - 0.5 * torch.cos(math.pi * from_border.clamp(0.0, 1.0)))
    return sides[0][:, None] * sides[1]
