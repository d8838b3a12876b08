"""Appearance augmentation: random variation of intensities between scanners, sequences and their settings.

All changes are drawn once for a whole cine, because its frames and slices share their protocol. Noise alone differs
from frame to frame.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.imaging.filters import blur_in_plane

SMALLEST_BLUR = 0.3
"""A blur with a smaller standard deviation, in voxels, is left out."""

CURVE_NODES = 6
"""Number of intervals of the random intensity curve."""

BIAS_NODES = 4
"""Number of nodes, along each axis, between which the bias field is interpolated."""


@dataclass(frozen=True, slots=True)
class AppearanceRanges:
    """Ranges of the appearance augmentation; values are drawn from uniform distributions.

    Attributes:
        curve: Largest weight of a random monotonic intensity curve in its mean with the identity.
        gamma: Largest |log γ| of the gamma correction.
        contrast: Largest |log| of a factor of all intensities.
        brightness: Largest offset of all intensities.
        slice_gain: Largest relative change of a slice's intensities against those of the others.
        bias_field: Largest |log| of the intensity variation of the receive coils, at the nodes of the bias field.
        noise: Largest standard deviation of added noise; small values are more frequent.
        blur_voxels: Largest standard deviation of an in-plane Gaussian blur in voxels.
        sharpening: Largest weight of an unsharp mask.
        coarsening: Largest factor by which the in-plane resolution is lowered, different along the two axes.
        truncation: Smallest fraction of the spatial frequencies that is kept along one axis, which causes ringing.
        ghosts: Largest intensity of ghosts along one axis.
        slice_blur: Largest weight of each neighbouring slice in a slice, as in thick slices.
        artefact_probability: Probability of each of the rarer artefacts: thick slices, ghosts, varying slice intensity.
        clamp_probability: Probability that intensities are clamped to 0 to 1 at the end, as normalisation clamps them.
    """

    curve: float = 0.7
    gamma: float = 0.4
    contrast: float = 0.3
    brightness: float = 0.12
    slice_gain: float = 0.1
    bias_field: float = 0.4
    noise: float = 0.07
    blur_voxels: float = 1.0
    sharpening: float = 1.0
    coarsening: float = 2.0
    truncation: float = 0.4
    ghosts: float = 0.2
    slice_blur: float = 0.2
    artefact_probability: float = 0.2
    clamp_probability: float = 0.5


NO_VARIATION = AppearanceRanges(
    curve=0.0,
    gamma=0.0,
    contrast=0.0,
    brightness=0.0,
    slice_gain=0.0,
    bias_field=0.0,
    noise=0.0,
    blur_voxels=0.0,
    sharpening=0.0,
    coarsening=1.0,
    truncation=1.0,
    ghosts=0.0,
    slice_blur=0.0,
    artefact_probability=0.0,
    clamp_probability=0.0,
)
"""Ranges that leave the intensities as they are."""


def vary_appearance(
    voxels: Float[Tensor, "t z y x"], ranges: AppearanceRanges, generator: torch.Generator
) -> Float[Tensor, "t z y x"]:
    """Draw how another scanner, or another setting of it, would have imaged the same cine.

    Args:
        voxels: Intensities from 0 to 1; others are clamped.
        ranges: Ranges of the changes.
        generator: Draws them, on the CPU.
    """
    varied = voxels.clamp(0.0, 1.0)
    if ranges.curve and _happens(0.5, generator):
        varied = _intensity_curve(varied, _up_to(ranges.curve, generator), generator)
    varied = varied.clamp_min(0.0) ** math.exp(_to_either_side(ranges.gamma, generator))
    if _happens(ranges.artefact_probability, generator):
        varied = _thick_slices(varied, _up_to(ranges.slice_blur, generator))
    varied = _vary_resolution(varied, ranges, generator)
    if _happens(ranges.artefact_probability, generator):
        varied = _ghosts(varied, _up_to(ranges.ghosts, generator), generator)
    size = (int(voxels.shape[2]), int(voxels.shape[3]))
    varied = varied * _bias_field(size, _up_to(ranges.bias_field, generator), generator)
    if _happens(ranges.artefact_probability, generator):
        varied = varied * (
            1.0 + ranges.slice_gain * (2.0 * torch.rand((voxels.shape[1], 1, 1), generator=generator) - 1)
        )
    contrast = math.exp(_to_either_side(ranges.contrast, generator))
    varied = varied * contrast + _to_either_side(ranges.brightness, generator)
    deviation = ranges.noise * _up_to(1.0, generator) ** 2
    varied = varied + deviation * torch.randn(varied.shape, generator=generator)
    return varied.clamp(0.0, 1.0) if _happens(ranges.clamp_probability, generator) else varied


def _up_to(largest: float, generator: torch.Generator) -> float:
    return largest * float(torch.rand((), generator=generator))


def _to_either_side(largest: float, generator: torch.Generator) -> float:
    return largest * (2.0 * float(torch.rand((), generator=generator)) - 1.0)


def _happens(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < probability


def _intensity_curve(voxels: Tensor, weight: float, generator: torch.Generator) -> Tensor:
    """Apply a monotonic piecewise linear curve from (0, 0) to (1, 1) with random increments."""
    increments = -torch.rand(CURVE_NODES, generator=generator).clamp_min(1e-3).log() + 0.2
    curve = torch.cat([torch.zeros(1), (increments / increments.sum()).cumsum(0)])
    nodes = torch.lerp(torch.linspace(0.0, 1.0, CURVE_NODES + 1), curve, weight)
    position = voxels * CURVE_NODES
    below = position.floor().clamp(0, CURVE_NODES - 1).long()
    return torch.lerp(nodes[below], nodes[below + 1], position - below)


def _bias_field(size: tuple[int, int], strength: float, generator: torch.Generator) -> Float[Tensor, "y x"]:
    nodes = torch.rand((1, 1, BIAS_NODES, BIAS_NODES), generator=generator)
    logarithm = functional.interpolate(strength * (2.0 * nodes - 1.0), size, mode="bicubic", align_corners=True)
    return logarithm[0, 0].exp()


def _thick_slices(voxels: Float[Tensor, "t z y x"], weight: float) -> Float[Tensor, "t z y x"]:
    above, below = (voxels[:, [0, *range(voxels.shape[1] - 1)]], voxels[:, [*range(1, voxels.shape[1]), -1]])
    return (1.0 - 2.0 * weight) * voxels + weight * (above + below)


def _vary_resolution(
    voxels: Float[Tensor, "t z y x"], ranges: AppearanceRanges, generator: torch.Generator
) -> Float[Tensor, "t z y x"]:
    """Draw one of four causes of another resolution, or in a third of all cases none."""
    cause = int(torch.randint(0, 6, (), generator=generator))
    if cause == 0:
        return _blurred(voxels, _up_to(ranges.blur_voxels, generator))
    if cause == 1:
        return voxels + _up_to(ranges.sharpening, generator) * (voxels - _blurred(voxels, 1.0))
    if cause == 2:
        return _coarse(voxels, [1.0 + _up_to(ranges.coarsening - 1.0, generator) for _ in range(2)])
    if cause == 3:
        return _truncated(voxels, 1.0 - _up_to(1.0 - ranges.truncation, generator), generator)
    return voxels


def _blurred(voxels: Float[Tensor, "t z y x"], sd: float) -> Float[Tensor, "t z y x"]:
    return blur_in_plane(voxels, sd) if sd >= SMALLEST_BLUR else voxels


def _coarse(voxels: Float[Tensor, "t z y x"], factors: list[float]) -> Float[Tensor, "t z y x"]:
    size = (int(voxels.shape[2]), int(voxels.shape[3]))
    fewer = (max(round(size[0] / factors[0]), 1), max(round(size[1] / factors[1]), 1))
    coarse = functional.interpolate(voxels, fewer, mode="bilinear", antialias=True, align_corners=False)
    return functional.interpolate(coarse, size, mode="bilinear", align_corners=False)


def _truncated(voxels: Float[Tensor, "t z y x"], fraction: float, generator: torch.Generator) -> Tensor:
    """Remove the highest spatial frequencies along one axis, as few phase-encoding steps do."""
    axis = 2 + int(torch.randint(0, 2, (), generator=generator))
    spectrum = torch.fft.rfft(voxels, dim=axis)
    kept = math.ceil(fraction * spectrum.shape[axis])
    spectrum.narrow(axis, kept, spectrum.shape[axis] - kept).zero_()
    out: Tensor = torch.fft.irfft(spectrum, n=int(voxels.shape[axis]), dim=axis)
    return out


def _ghosts(voxels: Float[Tensor, "t z y x"], intensity: float, generator: torch.Generator) -> Tensor:
    """Add copies that are shifted along one axis, as a periodic modulation of the lines of k-space causes them."""
    axis = 2 + int(torch.randint(0, 2, (), generator=generator))
    copies = 2 + int(torch.randint(0, 3, (), generator=generator))
    step = int(voxels.shape[axis]) // copies
    ghosts = torch.stack([voxels.roll(step * copy, dims=axis) for copy in range(1, copies)]).sum(0)
    return voxels + intensity / (copies - 1) * ghosts
