"""What inference leaves of its doubt, and draws from it: how far a volume or a strain may be from what is reported.

Two doubts are kept, both coarse enough to store. SegNet's: the probabilities of the tissues at ED and ES. The
motion's: the posterior N(μ, σ²I + VVᵀ) of every step.

The networks say how sure they are in each voxel and nothing of how voxels err together. Taken as independent, the
errors of thousands of voxels would cancel in every mean, and intervals would be absurdly narrow. A contour is too wide
over a whole wall, though, or a slice too many is taken for heart. So the noise of a draw is smooth in space and lasts
over steps (:class:`NoiseCorrelation`). What remains wrong with the width of the intervals, one factor per family of
quantities corrects; it is fitted on hearts whose truth is known (:mod:`cmnet_core.uncertainty.calibration`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from cmnet_core.function.volumes import ClinicalIndices, clinical_indices, volumes_ml
from cmnet_core.models.gaussian import MotionPosterior
from cmnet_core.types import Spacing

POOLING_FACTOR = 4
"""Voxels of the motion's grid, along y and x, that share one value of the stored posterior."""

LEAST_PROBABILITY = 3e-4
"""Smaller probabilities count as this one: noise must be able to reach what the network rules out."""


@dataclass(frozen=True, slots=True)
class NoiseCorrelation:
    """How errors hang together. Their correlation at a distance d is exp(−d² / 2L²).

    Attributes:
        in_plane_mm: L within a slice.
        across_mm: L from slice to slice.
        in_time: Correlation of the error at a phase or step with that at the one before.
    """

    in_plane_mm: float
    across_mm: float
    in_time: float


SHAPE_ERRORS = NoiseCorrelation(in_plane_mm=60.0, across_mm=30.0, in_time=0.0)
"""SegNet's. Of 20, 40 and 60 mm the last made the factors that single indices need most alike on the validation hearts:
contours err as a whole, and a slice is heart as a whole or not. ED and ES are segmented each for itself."""

MOTION_ERRORS = NoiseCorrelation(in_plane_mm=20.0, across_mm=20.0, in_time=0.9)
"""The motion's: a wall's width or two, below which the bending energy leaves no freedom, and drift that lasts: cycles
fail to close by far more than errors that are drawn afresh at each step would add up to."""


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """The doubt that is stored of one subject.

    Attributes:
        shapes: Probabilities of the tissues at ED and at ES, on the window's grid.
        log_sd: log σ of every step from ED on, in voxels of the motion's grid, pooled.
        factor: V of every step, likewise.
    """

    shapes: Float[Tensor, "2 4 z y x"]
    log_sd: Float[Tensor, "t z yc xc"]
    factor: Float[Tensor, "t 3 r z yc xc"]


def pool_posterior(motion: MotionPosterior) -> tuple[Float[Tensor, "z yc xc"], Float[Tensor, "3 r z yc xc"]]:
    """Log σ and V of one step of one stack, pooled in the plane.

    σ is pooled as its logarithm. V is pooled as a vector and brought to the root mean square of its lengths, since
    vectors that differ in direction would lose length in a mean.
    """
    log_sd = _pool(0.5 * motion.log_variance)[:, 0]
    mean = torch.unflatten(_pool(motion.factor.flatten(1, 2)), 1, (3, -1))
    power = _pool(motion.factor.square().sum(1))
    factor = mean * (power / mean.square().sum(1).clamp_min(1e-12)).sqrt()[:, None]
    return log_sd, factor.movedim(0, 2)


def _pool(planes: Float[Tensor, "n c y x"]) -> Float[Tensor, "n c yc xc"]:
    return functional.avg_pool2d(planes, POOLING_FACTOR, ceil_mode=True)


def smooth_noise(
    shape: tuple[int, ...], spacing: Spacing, correlation: NoiseCorrelation, generator: torch.Generator
) -> Float[Tensor, "*n z y x"]:
    """Gaussian noise of variance 1 whose neighbours hang together; one field for each of the leading axes."""
    noise = torch.randn(shape, generator=generator)
    lengths = (correlation.across_mm, correlation.in_plane_mm, correlation.in_plane_mm)
    kernels = [_kernel(n, mm, length) for n, mm, length in zip(shape[-3:], spacing.zyx, lengths, strict=True)]
    # One axis at a time: an einsum over all of them would first multiply the kernels with each other.
    for axis, kernel in zip((-3, -2, -1), kernels, strict=True):
        noise = torch.tensordot(noise, kernel, dims=([axis], [1])).movedim(-1, axis)
    return noise


def _kernel(count: int, step_mm: float, length_mm: float) -> Float[Tensor, "n n"]:
    """Rows that smooth white noise to a correlation exp(−d² / 2L²), each of unit length to keep the variance."""
    place = torch.arange(count) * step_mm
    weights = torch.exp(-(((place[:, None] - place[None]) / length_mm) ** 2))
    unit: Tensor = weights / weights.norm(dim=1, keepdim=True)
    return unit


def draw_velocities(
    mean: Float[Tensor, "t 3 z y x"],
    posterior: Posterior,
    spacing: Spacing,
    generator: torch.Generator,
    correlation: NoiseCorrelation = MOTION_ERRORS,
) -> Float[Tensor, "t 3 z y x"]:
    """One draw ``μ + σε₁ + Vε₂`` of the velocities of all steps, from smooth ε that last over steps.

    Args:
        mean: Velocities of the steps from ED on, in voxels of their own grid.
        posterior: Their doubt.
        spacing: Of the grid of the velocities.
        generator: Draws ε.
        correlation: How ε hangs together.
    """
    steps, rank = posterior.factor.shape[0], posterior.factor.shape[2]
    coarse = Spacing(z=spacing.z, y=spacing.y * POOLING_FACTOR, x=spacing.x * POOLING_FACTOR)
    fresh = smooth_noise((steps, 3 + rank, *posterior.log_sd.shape[1:]), coarse, correlation, generator)
    noise = _lasting(fresh, correlation.in_time)
    deviation = posterior.log_sd.exp()[:, None] * noise[:, :3]
    deviation = deviation + torch.einsum("tcrzyx,trzyx->tczyx", posterior.factor, noise[:, 3:])
    return mean + _enlarged(deviation)[..., : mean.shape[-2], : mean.shape[-1]]


def _enlarged(volumes: Float[Tensor, "t c z y x"]) -> Float[Tensor, "t c z yo xo"]:
    planes = functional.interpolate(volumes.flatten(0, 1), scale_factor=POOLING_FACTOR, mode="bilinear")
    return torch.unflatten(planes, 0, tuple(volumes.shape[:2]))


def _lasting(fresh: Float[Tensor, "t c z y x"], memory: float) -> Float[Tensor, "t c z y x"]:
    """Noise of the same variance, each step correlated with the one before."""
    kept = [fresh[0]]
    for noise in fresh[1:]:
        kept.append(memory * kept[-1] + math.sqrt(1 - memory**2) * noise)
    return torch.stack(kept)


def draw_shapes(
    posterior: Posterior, spacing: Spacing, generator: torch.Generator, correlation: NoiseCorrelation = SHAPE_ERRORS
) -> Iterator[UInt8[Tensor, "2 z y x"]]:
    """Draws of the label maps of ED and ES from SegNet's doubt, without end.

    Each tissue's log-odds against background get smooth noise of variance 1; the likeliest tissue is then taken.

    Args:
        posterior: The doubt.
        spacing: Of the window.
        generator: Draws the noise.
        correlation: How it hangs together.
    """
    log_odds = posterior.shapes.clamp_min(LEAST_PROBABILITY).log()
    log_odds = log_odds - log_odds[:, :1]
    _, tissues, depth, rows, columns = log_odds.shape
    coarse = Spacing(z=spacing.z, y=spacing.y * POOLING_FACTOR, x=spacing.x * POOLING_FACTOR)
    shape = (2, tissues - 1, depth, math.ceil(rows / POOLING_FACTOR), math.ceil(columns / POOLING_FACTOR))
    while True:
        noise = _enlarged(_lasting(smooth_noise(shape, coarse, correlation, generator), correlation.in_time))
        noisy = log_odds[:, 1:] + noise[..., :rows, :columns]
        yield torch.cat([log_odds[:, :1], noisy], dim=1).argmax(1).to(torch.uint8)


def indices_of_shapes(phases: UInt8[Tensor, "2 z y x"], spacing: Spacing) -> ClinicalIndices:
    """The clinical indices of the label maps of ED and ES."""
    return clinical_indices(volumes_ml(phases, spacing), ed=0, es=1)
