"""What varies between scanners, patients and technicians, drawn at random for training.

A view is one in-plane affine map for a whole stack over all its frames, so that motion stays motion; the look is one
change of intensities for the whole cine.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class AugmentationRanges:
    """How far each property may vary; everything is drawn uniformly.

    Attributes:
        rotation_deg: Largest rotation to either side, of a stack that lies as most do.
        random_orientation_probability: Share of views that are turned by any angle, and mirrored in the plane and
            have their slices reversed with probability ½ each.
        scale: Largest relative change of size.
        shear: Largest shear.
        shift_voxels: Largest shift of the window's centre.
        slice_shift_voxels: Largest shift of one slice against the others, as between two breath-holds.
        gamma: Largest |log γ| of the intensity curve.
        brightness: Largest offset, and largest relative change of contrast.
        noise: Largest standard deviation of added noise.
        bias_field: Largest relative shading by the receive coil across the window.
        blur_voxels: Largest width of an in-plane blur.
        slice_blur: Largest share that a slice takes from each of its neighbours, as thick slices do.
        coarsening: Largest factor by which the in-plane resolution is lowered.
        artefact_probability: Share of stacks that meet each of the rarer faults: shifted, blurred or coarse slices.
        missing_slice_probability: Share of stacks that lack slices at their ends.
        quarter_turns: Share of views that are turned by 0, 90, 180 or 270 degrees on top, as in the article.
    """

    rotation_deg: float = 45.0
    random_orientation_probability: float = 0.25
    scale: float = 0.2
    shear: float = 0.1
    shift_voxels: float = 16.0
    slice_shift_voxels: float = 2.0
    gamma: float = 0.35
    brightness: float = 0.15
    noise: float = 0.06
    bias_field: float = 0.35
    blur_voxels: float = 1.0
    slice_blur: float = 0.2
    coarsening: float = 2.0
    artefact_probability: float = 0.25
    missing_slice_probability: float = 0.3
    quarter_turns: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One in-plane affine map: output voxel q, from the window's middle, shows input voxel ``centre + matrix @ q``.

    Attributes:
        matrix: Turns, mirrors and scales.
        centre: Of the window in the image (y, x) in voxels, one for each slice of the image.
        reverse_slices: Whether the last slice becomes the first.
    """

    matrix: Float[Tensor, "2 2"]
    centre: Float[Tensor, "z 2"]
    reverse_slices: bool


def _between(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _happens(share: float, generator: torch.Generator) -> bool:
    return bool(torch.rand((), generator=generator) < share)


def draw_view(centre: tuple[float, float], depth: int, ranges: AugmentationRanges, generator: torch.Generator) -> View:
    """Draw a view of a stack of ``depth`` slices around ``centre`` (y, x), in voxels."""
    random_orientation_probability = _happens(ranges.random_orientation_probability, generator)
    widest = 180.0 if random_orientation_probability else ranges.rotation_deg
    angle = math.radians(_between(-widest, widest, generator) + _quarter_turns(ranges.quarter_turns, generator))
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shear = torch.tensor([[1.0, _between(-ranges.shear, ranges.shear, generator)], [0.0, 1.0]])
    scale = 1.0 + _between(-ranges.scale, ranges.scale, generator)
    mirror = torch.diag(
        torch.tensor([1.0, -1.0 if random_orientation_probability and _happens(0.5, generator) else 1.0])
    )
    reverse = random_orientation_probability and _happens(0.5, generator)
    shift = torch.tensor([_between(-ranges.shift_voxels, ranges.shift_voxels, generator) for _ in range(2)])
    breaths = ranges.slice_shift_voxels if _happens(ranges.artefact_probability, generator) else 0.0
    slices = breaths * (2.0 * torch.rand((depth, 2), generator=generator) - 1.0)
    return View(turn @ shear @ mirror * scale, torch.tensor(centre) + shift + slices, reverse)


def _quarter_turns(share: float, generator: torch.Generator) -> float:
    """In degrees."""
    turned = bool(share) and _happens(share, generator)
    return 90.0 * int(torch.randint(4, (), generator=generator)) if turned else 0.0


def straight_view(centre: tuple[float, float], depth: int) -> View:
    """The view that changes nothing, of a stack of ``depth`` slices around ``centre`` (y, x)."""
    return View(torch.eye(2), torch.tensor(centre).expand(depth, 2), reverse_slices=False)


def _sampling_grid(view: View, size: tuple[int, int], source: tuple[int, int]) -> Float[Tensor, "z y x 2"]:
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    points = offsets @ view.matrix.T + view.centre[:, None, None]
    last = torch.tensor([max(n - 1, 1) for n in source], dtype=torch.float32)
    return (2.0 * points / last - 1.0).flip(-1)


def view_image(voxels: Float[Tensor, "t z y x"], view: View, size: tuple[int, int]) -> Float[Tensor, "t z yo xo"]:
    """Look at a cine through a view; zero outside the image."""
    grid = _sampling_grid(view, size, (int(voxels.shape[2]), int(voxels.shape[3])))
    seen = functional.grid_sample(voxels.movedim(1, 0), grid, align_corners=True).movedim(0, 1)
    return seen.flip(1) if view.reverse_slices else seen


def view_labels(
    labels: UInt8[Tensor, "n z y x"], view: View, size: tuple[int, int], *, classes: int
) -> Float[Tensor, "n z k yo xo"]:
    """Look at label maps through a view: one-hot of the class with the largest linearly resampled share."""
    grid = _sampling_grid(view, size, (int(labels.shape[2]), int(labels.shape[3])))
    shares = functional.one_hot(labels.long(), classes).float().permute(1, 0, 4, 2, 3).flatten(1, 2)
    seen = functional.grid_sample(shares, grid, align_corners=True)
    # Outside the image no class has a share; argmax then takes the first, which is the background.
    winner = seen.view(len(seen), len(labels), classes, *size).argmax(2).movedim(0, 1)
    hard = functional.one_hot(winner, classes).movedim(-1, 2).float()
    return hard.flip(1) if view.reverse_slices else hard


def view_motion(
    motion: Float[Tensor, "n 3 z yh xh"], view: View, size: tuple[int, int]
) -> Float[Tensor, "n 3 z yo xo"]:
    """Look at displacements, kept for each 2 × 2 voxels, through a view: they turn with it.

    Args:
        motion: In voxels of the image; frame by frame, pointing into another frame of the same image.
        view: What is looked through.
        size: Of the window (y, x).

    Returns:
        Displacements in voxels of the window.
    """
    half = View(view.matrix / 2.0, (view.centre - 0.5) / 2.0, reverse_slices=False)
    grid = _sampling_grid(half, size, (int(motion.shape[3]), int(motion.shape[4])))
    planes = motion.float().permute(2, 0, 1, 3, 4).flatten(1, 2)
    seen = functional.grid_sample(planes, grid, align_corners=True, padding_mode="border")
    seen = seen.view(len(seen), len(motion), 3, *size).permute(1, 2, 0, 3, 4)
    through, plane = seen[:, :1], seen[:, 1:] - _centres_passed(seen[:, 0], view)
    plane = torch.einsum("ij,njzyx->nizyx", torch.linalg.inv(view.matrix), plane)
    moved = torch.cat([through, plane], dim=1)
    return torch.cat([-through, plane], dim=1).flip(2) if view.reverse_slices else moved


def _centres_passed(through: Float[Tensor, "n z y x"], view: View) -> Float[Tensor, "n 2 z y x"]:
    """By how much the window's centre differs where a displacement leads, when slices are shifted."""
    depth = through.shape[1]
    own = torch.arange(depth, dtype=torch.float32)
    target = (own.view(1, -1, 1, 1) + through).clamp(0, depth - 1)
    weights = (1.0 - (target[..., None] - own).abs()).clamp_min(0.0)
    return (weights @ view.centre - view.centre[:, None, None]).movedim(-1, 1)


def augment_intensity(
    voxels: Float[Tensor, "t z y x"], ranges: AugmentationRanges, generator: torch.Generator
) -> Float[Tensor, "t z y x"]:
    """Draw contrast, brightness, coil shading, blur and noise for a whole cine of intensities from 0 to 1."""
    gamma = math.exp(_between(-ranges.gamma, ranges.gamma, generator))
    contrast = 1.0 + _between(-ranges.brightness, ranges.brightness, generator)
    offset = _between(-ranges.brightness, ranges.brightness, generator)
    looked = voxels.clamp(0, 1) ** gamma * contrast + offset
    looked = looked * _shading((int(voxels.shape[2]), int(voxels.shape[3])), ranges.bias_field, generator)
    looked = _blurred(looked, _between(0.0, ranges.blur_voxels, generator))
    if _happens(ranges.artefact_probability, generator):
        looked = _thick_slices(looked, _between(0.0, ranges.slice_blur, generator))
    if _happens(ranges.artefact_probability, generator):
        looked = _coarse(looked, _between(1.0, ranges.coarsening, generator))
    deviation = _between(0.0, ranges.noise, generator)
    return looked + deviation * torch.randn(looked.shape, generator=generator)


def _shading(size: tuple[int, int], strength: float, generator: torch.Generator) -> Float[Tensor, "y x"]:
    coarse = 1.0 + strength * (2.0 * torch.rand((1, 1, 3, 3), generator=generator) - 1.0)
    return functional.interpolate(coarse, size, mode="bilinear", align_corners=True)[0, 0]


def _blurred(voxels: Float[Tensor, "t z y x"], width: float) -> Float[Tensor, "t z y x"]:
    if width < 0.3:
        return voxels
    offsets = torch.arange(-2, 3, dtype=torch.float32)
    weights = torch.exp(-0.5 * (offsets / width) ** 2)
    weights = weights / weights.sum()
    planes = voxels.flatten(0, 1)[:, None]
    planes = functional.conv2d(functional.pad(planes, (0, 0, 2, 2), mode="replicate"), weights.view(1, 1, 5, 1))
    planes = functional.conv2d(functional.pad(planes, (2, 2, 0, 0), mode="replicate"), weights.view(1, 1, 1, 5))
    return planes[:, 0].view_as(voxels)


def _thick_slices(voxels: Float[Tensor, "t z y x"], share: float) -> Float[Tensor, "t z y x"]:
    above, below = (voxels[:, [0, *range(voxels.shape[1] - 1)]], voxels[:, [*range(1, voxels.shape[1]), -1]])
    return (1.0 - 2.0 * share) * voxels + share * (above + below)


def _coarse(voxels: Float[Tensor, "t z y x"], factor: float) -> Float[Tensor, "t z y x"]:
    size = (int(voxels.shape[2]), int(voxels.shape[3]))
    fewer = (max(round(size[0] / factor), 1), max(round(size[1] / factor), 1))
    coarse = functional.interpolate(voxels, fewer, mode="bilinear", antialias=True, align_corners=False)
    return functional.interpolate(coarse, size, mode="bilinear", align_corners=False)
