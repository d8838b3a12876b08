"""The stored posteriors of the segmentation and of the motion, and samples of them.

Two sources of uncertainty are stored: the class probabilities of SegNet at ED and ES, and the posterior N(μ, σ²I + VVᵀ)
of the motion of every frame, pooled in-plane.

The networks predict the variance of each voxel, but not the correlation between voxels. If the errors of thousands of
voxels were independent, they would cancel in every mean, and intervals would be much too narrow. Real errors are
correlated: a contour is too wide along a whole wall, or a whole slice is wrongly labelled as heart. The noise of a
sample is therefore smooth in space and, for the motion, correlated over the frames (:class:`NoiseCorrelation`). The
remaining error of the intervals' width is corrected by the calibration of each quantity
(:mod:`cmnet_core.uncertainty.conformal`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor
from torch.nn import functional

from cmnet_core.function.volumes import ClinicalIndices, clinical_indices, volumes_ml
from cmnet_core.imaging.filters import apply_in_plane, linear_weights, unit_variance_gaussian
from cmnet_core.io.orientation import StackOrientation
from cmnet_core.models.gaussian import MotionPosterior
from cmnet_core.types import Spacing

POOLING_FACTOR = 4
"""Voxel size of the stored posterior along y and x, in voxels of the motion's grid."""

LEAST_PROBABILITY = 3e-4
"""Lower bound of a probability before its logarithm, so that noise can also change what the network excludes."""


@dataclass(frozen=True, slots=True)
class NoiseCorrelation:
    """Correlation of errors; at a distance d it is exp(−d² / 2L²).

    Attributes:
        in_plane_mm: In-plane length L in mm.
        through_plane_mm: Through-plane length L in mm.
        in_time: Correlation of the errors of successive frames.
    """

    in_plane_mm: float
    through_plane_mm: float
    in_time: float


SHAPE_ERRORS = NoiseCorrelation(in_plane_mm=60.0, through_plane_mm=30.0, in_time=0.5)
"""Correlation of SegNet's errors. Of 20, 40 and 60 mm in-plane, 60 mm gave spreads that were most similar to the errors
of all indices on the validation cases: the errors of a contour have the same sign, and a slice is labelled as heart as
a whole or not. The errors of the volumes at ED and ES have a correlation of 0.4 (LV) and 0.6 (RV) in 34 other patients
of ACDC."""

MOTION_ERRORS = NoiseCorrelation(in_plane_mm=20.0, through_plane_mm=20.0, in_time=0.9)
"""Correlation of the motion's errors: a length of one or two wall thicknesses, below which the bending energy leaves no
freedom, and a high correlation between successive frames."""


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """The stored posteriors of one subject.

    Attributes:
        shapes: Class probabilities at ED and at ES, on the window's grid.
        log_sd: Pooled log σ of the motion of every frame from the one after ED on, in voxels of the motion's grid.
        factor: Pooled V of the same frames, in voxels of the motion's grid.
    """

    shapes: Float[Tensor, "2 4 z y x"]
    log_sd: Float[Tensor, "t z yc xc"]
    factor: Float[Tensor, "t 3 r z yc xc"]

    def oriented(self, orientation: StackOrientation) -> "Posterior":
        """Return the posterior of the stack in the standard orientation from that of the stored stack."""
        return Posterior(
            orientation.orient(self.shapes),
            orientation.orient(self.log_sd),
            orientation.orient_vectors(self.factor, 1),
        )

    def restored(self, orientation: StackOrientation) -> "Posterior":
        """Reverse :meth:`oriented`."""
        return Posterior(
            orientation.restore(self.shapes),
            orientation.restore(self.log_sd),
            orientation.restore_vectors(self.factor, 1),
        )


def pool_posterior(motion: MotionPosterior) -> tuple[Float[Tensor, "z yc xc"], Float[Tensor, "3 r z yc xc"]]:
    """Pool log σ and V of the motion of one frame in-plane.

    σ is pooled as its logarithm. V is averaged as a vector and scaled to the root mean square of the lengths, because
    the mean of vectors of different directions is too short.
    """
    log_sd = _pool(0.5 * motion.log_variance)[:, 0]
    mean = torch.unflatten(_pool(motion.factor.flatten(1, 2)), 1, (3, -1))
    power = _pool(motion.factor.square().sum(1))
    factor = mean * (power / mean.square().sum(1).clamp_min(1e-12)).sqrt()[:, None]
    return log_sd, factor.movedim(0, 2)


def _pool(slices: Float[Tensor, "n c y x"]) -> Float[Tensor, "n c yc xc"]:
    return functional.avg_pool2d(slices, POOLING_FACTOR, ceil_mode=True)


def smooth_noise(
    shape: tuple[int, ...], spacing: Spacing, correlation: NoiseCorrelation, generator: torch.Generator
) -> Float[Tensor, "*n z y x"]:
    """Draw smooth Gaussian noise of variance 1, independently for each index of the leading axes.

    Args:
        shape: Shape of the noise, whose last three axes are z, y and x.
        spacing: Voxel spacing in mm.
        correlation: Spatial correlation of the noise.
        generator: Draws the noise.
    """
    noise = torch.randn(shape, generator=generator)
    lengths = (correlation.through_plane_mm, correlation.in_plane_mm, correlation.in_plane_mm)
    kernels = [
        unit_variance_gaussian(n, mm, length) for n, mm, length in zip(shape[-3:], spacing.zyx, lengths, strict=True)
    ]
    # One axis after the other: einsum over all of them would first multiply the kernels.
    for axis, kernel in zip((-3, -2, -1), kernels, strict=True):
        noise = torch.tensordot(noise, kernel, dims=([axis], [1])).movedim(-1, axis)
    return noise


def draw_velocities(
    mean: Float[Tensor, "t 3 z y x"],
    posterior: Posterior,
    spacing: Spacing,
    generator: torch.Generator,
    correlation: NoiseCorrelation = MOTION_ERRORS,
) -> Float[Tensor, "t 3 z y x"]:
    """Draw one sample ``μ + σε₁ + Vε₂`` of the velocities of all frames, with smooth ε that are correlated over frames.

    Args:
        mean: Velocities μ of the frames from the one after ED on, in voxels of their own grid.
        posterior: The stored posterior.
        spacing: Voxel spacing of the velocities' grid in mm.
        generator: Draws ε₁ and ε₂.
        correlation: Correlation of ε₁ and ε₂.
    """
    steps, rank = posterior.factor.shape[0], posterior.factor.shape[2]
    coarse = Spacing(z=spacing.z, y=spacing.y * POOLING_FACTOR, x=spacing.x * POOLING_FACTOR)
    independent = smooth_noise((steps, 3 + rank, *posterior.log_sd.shape[1:]), coarse, correlation, generator)
    noise = _correlate_in_time(independent, correlation.in_time)
    deviation = posterior.log_sd.exp()[:, None] * noise[:, :3]
    deviation = deviation + torch.einsum("tcrzyx,trzyx->tczyx", posterior.factor, noise[:, 3:])
    return mean + _upsample(deviation)[..., : mean.shape[-2], : mean.shape[-1]]


def _upsample(volumes: Float[Tensor, "t c z y x"]) -> Float[Tensor, "t c z yo xo"]:
    """Interpolate bilinearly in-plane, with aligned edges of the voxels."""
    return apply_in_plane(volumes, *(_upsampling(int(count)) for count in volumes.shape[-2:]))


def _upsampling(voxels: int) -> Float64[Tensor, "fine coarse"]:
    fine = torch.arange(voxels * POOLING_FACTOR, dtype=torch.float64)
    return linear_weights((fine + 0.5) / POOLING_FACTOR - 0.5, voxels, extend=True)


def _correlate_in_time(noise: Float[Tensor, "t c z y x"], correlation: float) -> Float[Tensor, "t c z y x"]:
    """Correlate successive entries of independent noise by a first-order autoregression, which keeps the variance."""
    correlated = [noise[0]]
    for innovation in noise[1:]:
        correlated.append(correlation * correlated[-1] + math.sqrt(1 - correlation**2) * innovation)
    return torch.stack(correlated)


def draw_shapes(
    posterior: Posterior, spacing: Spacing, generator: torch.Generator, correlation: NoiseCorrelation = SHAPE_ERRORS
) -> Iterator[UInt8[Tensor, "2 z y x"]]:
    """Yield samples of the label maps of ED and ES from SegNet's probabilities, without end.

    Smooth noise of variance 1 is added to the log-odds of each structure against background; the most probable class is
    then taken.

    Args:
        posterior: The stored posterior.
        spacing: Voxel spacing of the window in mm.
        generator: Draws the noise.
        correlation: Correlation of the noise.
    """
    log_odds = posterior.shapes.clamp_min(LEAST_PROBABILITY).log()
    log_odds = log_odds - log_odds[:, :1]
    _, classes, depth, rows, columns = log_odds.shape
    coarse = Spacing(z=spacing.z, y=spacing.y * POOLING_FACTOR, x=spacing.x * POOLING_FACTOR)
    shape = (2, classes - 1, depth, math.ceil(rows / POOLING_FACTOR), math.ceil(columns / POOLING_FACTOR))
    while True:
        noise = smooth_noise(shape, coarse, correlation, generator)
        noise = _upsample(_correlate_in_time(noise, correlation.in_time))
        yield _most_probable(log_odds[:, 1:] + noise[..., :rows, :columns])


def _most_probable(log_odds: Float[Tensor, "2 k z y x"]) -> UInt8[Tensor, "2 z y x"]:
    """The most probable class from the log-odds of all classes but the first; several times as fast as argmax."""
    best = torch.zeros_like(log_odds[:, 0])
    label = torch.zeros(best.shape, dtype=torch.uint8)
    for number, odds in enumerate(log_odds.unbind(1), start=1):
        label.masked_fill_(odds > best, number)
        best = torch.maximum(best, odds)
    return label


def indices_of_shapes(phases: UInt8[Tensor, "2 z y x"], spacing: Spacing) -> ClinicalIndices:
    """Compute the clinical indices of the label maps of ED and ES."""
    return clinical_indices(volumes_ml(phases, spacing), ed=0, es=1)
