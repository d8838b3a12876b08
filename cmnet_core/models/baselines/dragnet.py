"""Motion after DragNet: a recurrent latent variable and a Gaussian posterior of the motion from frame to frame.

Zakeri et al., Medical Image Analysis 83 (2023) 102678. Each slice has a latent variable Z of 64 numbers whose prior
depends on the state of a two-layer ConvLSTM, and whose posterior also on the image. The motion has the posterior N(μ,
C), C = σ² I + v vᵀ, which depends on Z and on the features of the moving frame, the one before. The loss is the mean
squared difference of the images, 2e-4 KL_Z, 1e-4 KL_D and 0.03 of first-order smoothness; no masks are used. Samples
are drawn from N(μ, C) itself. The motion is at half the in-plane resolution.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cmnet_core.models.baselines.blocks import (
    SliceConv,
    SliceConvLSTM,
    as_slices,
    as_volumes,
    compose_slices,
    double_motion,
    shrink_last_layer,
    warp_slices,
)
from cmnet_core.models.baselines.interface import Baseline, FrameSequence, SequenceMotion
from cmnet_core.models.baselines.terms import diffusion, mean_square
from cmnet_core.models.gaussian import Gaussian
from cmnet_core.models.layers import leaky_relu, upsample
from cmnet_core.models.losses import kl_latent

KL_LATENT, KL_MOTION, SMOOTHNESS = 2e-4, 1e-4, 0.03
LATENT = 64
FEATURES = 32
HIDDEN = (32, 16)
POOLED = 8
"""Size along y and x of the features from which Z is estimated."""

INITIAL_LOG_VARIANCE = -3.2
"""Log variance of the motion before training: a standard deviation of 0.2 voxels."""

INITIAL_LATENT_LOG_VARIANCE = -4.0
"""Log variance of Z before training. With a variance of 1 the noise hides what Z says about the image, and the decoder
learns to do without it."""

MAX_LOG_VARIANCE = 8.0
"""Bound of the absolute log variances."""


@dataclass(frozen=True, slots=True, eq=False)
class InPlanePosterior:
    """The posterior N(μ, σ² I + v vᵀ) of the motion in every slice, in voxels of its grid."""

    mean: Float[Tensor, "n 2 y x"]
    log_variance: Float[Tensor, "n 1 y x"]
    factor: Float[Tensor, "n 2 y x"]

    def sample(self, generator: torch.Generator) -> Float[Tensor, "n 2 y x"]:
        """Draw one reparameterised sample, through which gradients pass."""
        isotropic = torch.randn(self.mean.shape, generator=generator).to(self.mean.device)
        low_rank = torch.randn(self.log_variance.shape, generator=generator).to(self.mean.device)
        return self.mean + (0.5 * self.log_variance).exp() * isotropic + self.factor * low_rank

    def divergence(self) -> Float[Tensor, ""]:
        """Compute the mean divergence from N(0, I), with log det C = log σ² + log(σ² + |v|²)."""
        variance, steepness = self.log_variance.exp()[:, 0], self.factor.square().sum(1)
        log_determinant = self.log_variance[:, 0] + (variance + steepness).log()
        distance = self.mean.square().sum(1)
        return 0.5 * (2.0 * variance + steepness + distance - 2.0 - log_determinant).mean()


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """What the network infers at a frame: distributions of Z, and the motion's into the frame before."""

    posterior: Gaussian
    prior: Gaussian
    motion: InPlanePosterior


class _LatentHead(nn.Module):
    """Estimates mean and log variance of Z from features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = SliceConv(channels, 16, stride=2)
        self.linear = nn.Linear(16 * POOLED**2, 2 * LATENT)
        with torch.no_grad():
            self.linear.bias[LATENT:] = INITIAL_LATENT_LOG_VARIANCE

    def forward(self, features: Float[Tensor, "n c y x"]) -> Gaussian:
        pooled = functional.adaptive_avg_pool2d(leaky_relu(self.conv(features)), POOLED)
        mean, log_variance = self.linear(pooled.flatten(1)).float().chunk(2, dim=1)
        return Gaussian(
            mean[:, :, None, None], log_variance[:, :, None, None].clamp(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)
        )


class DragNet(Baseline):
    """The network and its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleList(
            [SliceConv(1, 16, stride=2), SliceConv(16, FEATURES, stride=2), SliceConv(FEATURES, FEATURES)]
        )
        self.posterior = _LatentHead(FEATURES + HIDDEN[-1])
        self.prior = _LatentHead(HIDDEN[-1])
        self.spread = nn.Linear(LATENT, 16 * POOLED**2)
        self.spatial = SliceConv(16, FEATURES)
        self.recurrent = nn.ModuleList([SliceConvLSTM(2 * FEATURES, HIDDEN[0]), SliceConvLSTM(*HIDDEN)])
        self.decoder = nn.ModuleList([SliceConv(2 * FEATURES, FEATURES), SliceConv(FEATURES, 16), SliceConv(16, 16)])
        self.head = SliceConv(16, 5)
        shrink_last_layer(self.head)

    def _steps(self, voxels: Float[Tensor, "t z y x"], generator: torch.Generator | None) -> Iterator[_Step]:
        """Go through the frames; the first one only begins the state. Without a generator Z is its mean."""
        depth = voxels.shape[1]
        features = as_slices(voxels)
        for conv in self.features:
            features = leaky_relu(conv(features))
        y, x = features.shape[2:]
        states = [(features.new_zeros(depth, width, y, x, dtype=torch.float32),) * 2 for width in HIDDEN]
        frames = torch.split(features, depth)
        for number, image in enumerate(frames):
            state = states[-1][0].to(image.dtype)
            posterior, prior = self.posterior(torch.cat([image, state], dim=1)), self.prior(state)
            latent = posterior.mean if generator is None else posterior.mean + _noise(posterior, generator)
            spread = torch.unflatten(self.spread(latent[:, :, 0, 0]), 1, (16, POOLED, POOLED))
            spatial = leaky_relu(self.spatial(functional.interpolate(spread, (y, x), mode="bilinear")))
            if number:
                yield _Step(posterior, prior, self._motion(spatial, frames[number - 1]))
            update = torch.cat([image, spatial.to(image.dtype)], dim=1)
            for layer, cell in enumerate(self.recurrent):
                states[layer] = cell(update, states[layer])
                update = states[layer][0].to(image.dtype)

    def _motion(self, spatial: Tensor, moving: Tensor) -> InPlanePosterior:
        first, *others = self.decoder
        slices = upsample(leaky_relu(first(torch.cat([spatial.to(moving.dtype), moving], dim=1))), factor=2)
        for conv in others:
            slices = leaky_relu(conv(slices))
        mean, log_variance, factor = self.head(slices).float().split([2, 1, 2], dim=1)
        log_variance = log_variance + INITIAL_LOG_VARIANCE
        return InPlanePosterior(mean, log_variance.clamp(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE), factor)

    def forward(self, voxels: Float[Tensor, "t z y x"]) -> SequenceMotion:
        motions: list[Tensor] = []
        for step in self._steps(voxels, None):
            motion = double_motion(step.motion.mean)
            motions.append(compose_slices(motion, motions[-1]) if motions else motion)
        return SequenceMotion(as_volumes(torch.cat(motions), voxels.shape[1]))

    def loss(self, sequence: FrameSequence, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        frames = [as_slices(frame[None]) for frame in sequence.voxels]
        terms: dict[str, list[Tensor]] = {"image": [], "kl_latent": [], "kl_motion": [], "smoothness": []}
        for number, step in enumerate(self._steps(sequence.voxels, generator), start=1):
            sample = step.motion.sample(generator)
            warped = warp_slices(frames[number - 1], double_motion(sample))
            terms["image"].append(mean_square(warped, frames[number]))
            terms["kl_latent"].append(kl_latent(step.posterior, step.prior))
            terms["kl_motion"].append(step.motion.divergence())
            terms["smoothness"].append(diffusion(sample))
        means = {name: torch.stack(values).mean() for name, values in terms.items()}
        weighted = KL_LATENT * means["kl_latent"] + KL_MOTION * means["kl_motion"] + SMOOTHNESS * means["smoothness"]
        return {"loss": means["image"] + weighted} | means


def _noise(distribution: Gaussian, generator: torch.Generator) -> Tensor:
    noise = torch.randn(distribution.mean.shape, generator=generator).to(distribution.mean.device)
    return (0.5 * distribution.log_variance).exp() * noise
