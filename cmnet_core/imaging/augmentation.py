"""Spatial augmentation for training: random variation between patients and operators.

It is one in-plane affine map for a whole stack and all its frames, so that motion is transformed with the images.
:mod:`cmnet_core.imaging.appearance` varies their intensities.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class AugmentationRanges:
    """Ranges of the spatial augmentation; all values are drawn from uniform distributions.

    Attributes:
        rotation_deg: Largest rotation to either side in degrees, for a stack in the usual orientation.
        random_orientation_probability: Probability of a rotation by any angle; such a view is also mirrored in-plane
            and reversed in slice order with probability ½ each.
        scale: Largest relative change of scale.
        shear: Largest shear.
        shift_voxels: Largest shift of the window's centre in voxels.
        slice_shift_voxels: Largest shift of a slice against the others in voxels, as between two breath-holds.
        breath_hold_probability: Probability that slices are shifted against each other.
        missing_slice_probability: Probability that slices are missing at the ends of the stack.
        quarter_turns: Probability of an additional rotation by 0, 90, 180 or 270 degrees, as in the article.
    """

    rotation_deg: float = 45.0
    random_orientation_probability: float = 0.25
    scale: float = 0.2
    shear: float = 0.1
    shift_voxels: float = 16.0
    slice_shift_voxels: float = 2.0
    breath_hold_probability: float = 0.25
    missing_slice_probability: float = 0.3
    quarter_turns: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """An in-plane affine map: the output at q, from the window's centre, is the input at ``centre + matrix @ q``.

    Attributes:
        matrix: Rotation, reflection, shear and scale.
        centre: Centre (y, x) of the window in the image in voxels, one for each slice.
        reverse_slices: Whether the order of the slices is reversed.
    """

    matrix: Float[Tensor, "2 2"]
    centre: Float[Tensor, "z 2"]
    reverse_slices: bool


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _happens(probability: float, generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < probability)


def draw_view(centre: tuple[float, float], depth: int, ranges: AugmentationRanges, generator: torch.Generator) -> View:
    """Draw a view of a stack of ``depth`` slices around ``centre`` (y, x), in voxels."""
    any_orientation = _happens(ranges.random_orientation_probability, generator)
    widest = 180.0 if any_orientation else ranges.rotation_deg
    angle = math.radians(_between(-widest, widest, generator) + _quarter_turns(ranges.quarter_turns, generator))
    rotation = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shear = torch.tensor([[1.0, _between(-ranges.shear, ranges.shear, generator)], [0.0, 1.0]])
    scale = 1.0 + _between(-ranges.scale, ranges.scale, generator)
    mirror = torch.diag(torch.tensor([1.0, -1.0 if any_orientation and _happens(0.5, generator) else 1.0]))
    reverse = any_orientation and _happens(0.5, generator)
    shift = torch.tensor([_between(-ranges.shift_voxels, ranges.shift_voxels, generator) for _ in range(2)])
    breath_holds = ranges.slice_shift_voxels if _happens(ranges.breath_hold_probability, generator) else 0.0
    slices = breath_holds * (2.0 * torch.rand((depth, 2), generator=generator) - 1.0)
    return View(rotation @ shear @ mirror * scale, torch.tensor(centre) + shift + slices, reverse)


def _quarter_turns(probability: float, generator: torch.Generator) -> float:
    """A random multiple of 90 degrees, or 0."""
    rotated = bool(probability) and _happens(probability, generator)
    return 90.0 * int(torch.randint(4, (), generator=generator)) if rotated else 0.0


def straight_view(centre: tuple[float, float], depth: int) -> View:
    """The view without augmentation of a stack of ``depth`` slices around ``centre`` (y, x), in voxels."""
    return View(torch.eye(2), torch.tensor(centre).expand(depth, 2), reverse_slices=False)


def _sampling_grid(view: View, size: tuple[int, int], source: tuple[int, int]) -> Float[Tensor, "z y x 2"]:
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    points = offsets @ view.matrix.T + view.centre[:, None, None]
    last = torch.tensor([max(n - 1, 1) for n in source], dtype=torch.float32)
    return (2.0 * points / last - 1.0).flip(-1)


def view_image(voxels: Float[Tensor, "t z y x"], view: View, size: tuple[int, int]) -> Float[Tensor, "t z yo xo"]:
    """Resample a cine to a view; zero outside the image."""
    grid = _sampling_grid(view, size, (int(voxels.shape[2]), int(voxels.shape[3])))
    resampled = functional.grid_sample(voxels.movedim(1, 0), grid, align_corners=True).movedim(0, 1)
    return resampled.flip(1) if view.reverse_slices else resampled


def view_labels(
    labels: UInt8[Tensor, "n z y x"], view: View, size: tuple[int, int], *, classes: int
) -> Float[Tensor, "n z k yo xo"]:
    """Resample label maps to a view: one-hot of the class with the largest linearly interpolated membership."""
    grid = _sampling_grid(view, size, (int(labels.shape[2]), int(labels.shape[3])))
    memberships = functional.one_hot(labels.long(), classes).float().permute(1, 0, 4, 2, 3).flatten(1, 2)
    resampled = functional.grid_sample(memberships, grid, align_corners=True)
    # Outside the image all memberships are 0; argmax then takes the first class, which is the background.
    label = resampled.view(len(resampled), len(labels), classes, *size).argmax(2).movedim(0, 1)
    one_hot = functional.one_hot(label, classes).movedim(-1, 2).float()
    return one_hot.flip(1) if view.reverse_slices else one_hot


def view_motion(
    motion: Float[Tensor, "n 3 z yh xh"], view: View, size: tuple[int, int]
) -> Float[Tensor, "n 3 z yo xo"]:
    """Resample displacement fields at half the in-plane resolution to a view, and transform their vectors.

    Args:
        motion: Displacements in voxels of the image, each pointing into another frame of the same image.
        view: The view.
        size: Size (y, x) of the window in voxels.

    Returns:
        Displacements in voxels of the window.
    """
    half = View(view.matrix / 2.0, (view.centre - 0.5) / 2.0, reverse_slices=False)
    grid = _sampling_grid(half, size, (int(motion.shape[3]), int(motion.shape[4])))
    planes = motion.float().permute(2, 0, 1, 3, 4).flatten(1, 2)
    resampled = functional.grid_sample(planes, grid, align_corners=True, padding_mode="border")
    resampled = resampled.view(len(resampled), len(motion), 3, *size).permute(1, 2, 0, 3, 4)
    through_plane = resampled[:, :1]
    in_plane = resampled[:, 1:] - _centre_differences(resampled[:, 0], view)
    in_plane = torch.einsum("ij,njzyx->nizyx", torch.linalg.inv(view.matrix), in_plane)
    if view.reverse_slices:
        return torch.cat([-through_plane, in_plane], dim=1).flip(2)
    return torch.cat([through_plane, in_plane], dim=1)


def _centre_differences(through: Float[Tensor, "n z y x"], view: View) -> Float[Tensor, "n 2 z y x"]:
    """Difference of the window's centre between a slice and the slice that a displacement points into."""
    depth = through.shape[1]
    own = torch.arange(depth, dtype=torch.float32)
    target = (own.view(1, -1, 1, 1) + through).clamp(0, depth - 1)
    weights = (1.0 - (target[..., None] - own).abs()).clamp_min(0.0)
    return (weights @ view.centre - view.centre[:, None, None]).movedim(-1, 1)
