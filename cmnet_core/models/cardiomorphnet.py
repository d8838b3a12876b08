"""CardioMorphNet: a recurrent variational autoencoder whose latent variable conditions a posterior of the motion.

This is the model of Movahed et al., Medical Image Analysis 113 (2026) 104149, and the file follows the article from top
to bottom: the sizes, the sub-networks in the order in which a time step uses them, the time step, and the cycle. For
frames I_1 … I_T of a closed cardiac cycle with masks M_t, latent variables Z_t, motion D_t and memory h_t, the
generative model and the approximate posterior are

    p(I, M, D, Z) = Π_t p(I_t | Z_t) · p(M_t | M_{t−1}, D_t) · p(D_t) · p(Z_t | h_{t−1}),   p(D_t) = N(0, I)
    q(M, D, Z | I) = Π_t q(Z_t | I_t, h_{t−1}) · q(D_t | I_t, I_{t−1}, Z_t) · q(M_t | I_t)

q(M_t | I_t) is SegNet, which is trained first and then frozen. The negative evidence lower bound, by which the rest is
trained, is computed by :mod:`cmnet_core.training.cycle_loss` from the terms of :mod:`cmnet_core.models.losses`.

All tensors are ragged batches of slices (see :mod:`cmnet_core.models.layers`). Motion is in voxels of its own grid. It
is a pull-back: defined on the fixed frame t, it points into the moving frame t−1, ``moving(p + u(p)) ≈ fixed(p)``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cmnet_core.models.gaussian import Gaussian, MotionPosterior
from cmnet_core.models.layers import (
    StackConv,
    StackConvLSTM,
    Stacks,
    StackUpConv,
    leaky_relu,
    upsample,
    upsample_displacement,
)
from cmnet_core.registration.displacement import exponential

MAX_LATENT_LOG_VARIANCE = 4.0
"""Bound of the absolute log variance of Z. A prior that collapses would make KL_Z, and its gradient, diverge."""

MAX_MOTION_LOG_VARIANCE = 8.0
"""Bound of the absolute log variance of the motion: its standard deviation is between 0.02 and 55 voxels."""

MAX_MOTION_VOXELS = 16.0
"""Bound of the mean and of the low-rank factor of the motion, in voxels of the motion's grid."""


@dataclass(frozen=True, slots=True)
class MotionSizes:
    """Sizes of CardioMorphNet; the defaults are those of the article.

    Attributes:
        features: Channels of FeatNet's layers; the last is the number of channels of φ_I and of φ_Z.
        latent: Channels of Z.
        hidden: Channels of each layer of RecNet.
        decoder: Channels of DecNet's layers.
        deform: Channels of DeformNet's levels, finest first.
        rank: Number of columns of the posterior's low-rank factor V.
        output_level: Level of the motion: 0 for full in-plane resolution, 1 for half.
        integration_steps: 0 for a displacement; n > 0 for a stationary velocity that is integrated by n squarings,
            which is not in the article.
        kind: Name of the architecture on model cards.
    """

    features: tuple[int, ...] = (16, 32, 32, 32)
    latent: int = 1
    hidden: tuple[int, ...] = (64, 32)
    decoder: tuple[int, ...] = (32, 32, 32, 16)
    deform: tuple[int, ...] = (16, 32, 32, 32, 32)
    rank: int = 1
    output_level: int = 0
    integration_steps: int = 0
    kind: Literal["recurrent"] = "recurrent"

    @property
    def ed_referenced(self) -> bool:
        """Whether the motion of every frame points into ED; it points into the frame before."""
        return False


class FeatNet(nn.Module):
    """Computes the image features φ_I at 1/16 of the in-plane resolution."""

    def __init__(self, *, widths: tuple[int, ...]) -> None:
        super().__init__()
        ins = (1, *widths[:-1])
        self.strided = nn.ModuleList(StackConv(a, b, stride=2) for a, b in zip(ins, widths, strict=True))
        self.last = StackConv(widths[-1], widths[-1])

    def forward(self, image: Float[Tensor, "n 1 y x"], stacks: Stacks) -> Float[Tensor, "n c yo xo"]:
        for layer in self.strided:
            image = leaky_relu(layer(image, stacks))
        return leaky_relu(self.last(image, stacks))


class GaussianNet(nn.Module):
    """Predicts a diagonal Gaussian: InferZ gives the posterior of Z, and PriorZ gives its prior."""

    def __init__(self, *, channels: tuple[int, ...], latent: int) -> None:
        super().__init__()
        self.body = nn.ModuleList(StackConv(a, b) for a, b in pairwise(channels))
        self.mean = StackConv(channels[-1], latent)
        self.log_variance = StackConv(channels[-1], latent)

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks) -> Gaussian:
        for layer in self.body:
            slices = leaky_relu(layer(slices, stacks))
        log_variance = _soft_clamp(self.log_variance(slices, stacks), MAX_LATENT_LOG_VARIANCE)
        return Gaussian(self.mean(slices, stacks).float(), log_variance)


def _soft_clamp(values: Tensor, bound: float) -> Tensor:
    """Keep values within ± bound by a scaled tanh, which leaves values near 0 almost unchanged."""
    return bound * torch.tanh(values.float() / bound)


class DeformNet(nn.Module):
    """Predicts q(D_t): a U-Net on both frames, with φ_Z concatenated at the bottleneck.

    Args:
        widths: Channels of each level, finest first; the last level is the bottleneck.
        latent_features: Channels of φ_Z.
        rank: Number of columns of the low-rank factor V.
        output_level: Level of the motion: 0 for full in-plane resolution, 1 for half.
    """

    def __init__(self, widths: tuple[int, ...], *, latent_features: int, rank: int, output_level: int) -> None:
        super().__init__()
        self.first = StackConv(2, widths[0])
        self.down = nn.ModuleList(StackConv(a, b, stride=2) for a, b in pairwise(widths))
        self.join = StackConv(widths[-1] + latent_features, widths[-1])
        levels = range(len(widths) - 2, output_level - 1, -1)
        self.up = nn.ModuleList(StackConv(widths[level + 1] + widths[level], widths[level]) for level in levels)
        self.last = StackConv(widths[output_level], widths[output_level])
        self.mean = StackConv(widths[output_level], 3)
        self.log_variance = StackConv(widths[output_level], 1)
        self.factor = StackConv(widths[output_level], 3 * rank)
        self.rank = rank
        # The initial motion is almost zero and its variance small, so that every warp has a useful gradient.
        for head in (self.mean, self.factor):
            nn.init.normal_(head.weight, std=1e-4)
        nn.init.normal_(self.log_variance.weight, std=1e-3)
        nn.init.constant_(self.log_variance.bias, -5.0)

    def forward(
        self,
        moving: Float[Tensor, "n 1 y x"],
        fixed: Float[Tensor, "n 1 y x"],
        latent_features: Float[Tensor, "n c yl xl"],
        stacks: Stacks,
    ) -> MotionPosterior:
        slices = leaky_relu(self.first(torch.cat([moving, fixed], dim=1), stacks))
        skips = [slices]
        for layer in self.down:
            slices = leaky_relu(layer(slices, stacks))
            skips.append(slices)
        slices = leaky_relu(self.join(torch.cat([slices, latent_features.to(slices.dtype)], dim=1), stacks))
        for layer, skip in zip(self.up, reversed(skips[:-1]), strict=False):
            slices = leaky_relu(layer(torch.cat([upsample(slices, factor=2), skip], dim=1), stacks))
        slices = leaky_relu(self.last(slices, stacks))
        return MotionPosterior(
            _soft_clamp(self.mean(slices, stacks), MAX_MOTION_VOXELS),
            _soft_clamp(self.log_variance(slices, stacks), MAX_MOTION_LOG_VARIANCE),
            torch.unflatten(_soft_clamp(self.factor(slices, stacks), MAX_MOTION_VOXELS), 1, (3, self.rank)),
        )


class DecNet(nn.Module):
    """Reconstructs the image from φ_Z."""

    def __init__(self, *, channels_in: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        ins = (channels_in, *widths[:-1])
        self.up = nn.ModuleList(StackUpConv(a, b) for a, b in zip(ins, widths, strict=True))
        self.last = StackConv(widths[-1], 1)

    def forward(self, features: Float[Tensor, "n c y x"], stacks: Stacks) -> Float[Tensor, "n 1 yo xo"]:
        for layer in self.up:
            features = leaky_relu(layer(features, stacks))
        image: Tensor = self.last(features, stacks).float()
        return image


LSTMState = list[tuple[Tensor, Tensor]]
"""Hidden and cell state of each layer of RecNet."""


class RecNet(nn.Module):
    """Updates the memory h_t by layers of convolutional LSTM on [φ_I, φ_Z]."""

    def __init__(self, *, channels_in: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        ins = (channels_in, *hidden[:-1])
        self.layers = nn.ModuleList(StackConvLSTM(a, b) for a, b in zip(ins, hidden, strict=True))
        self.hidden = hidden

    def start(self, features: Float[Tensor, "n c y x"]) -> LSTMState:
        """Return a state of zeros."""
        n, _, y, x = features.shape
        return [(features.new_zeros(n, c, y, x), features.new_zeros(n, c, y, x)) for c in self.hidden]

    def forward(self, features: Float[Tensor, "n c y x"], state: LSTMState, stacks: Stacks) -> LSTMState:
        updated: LSTMState = []
        for layer, before in zip(self.layers, state, strict=True):
            updated.append(layer(features, before, stacks))
            features = updated[-1][0]
        return updated


@dataclass(frozen=True, slots=True, eq=False)
class StepOutput:
    """What one time step of the model returns.

    Attributes:
        latent: The posterior q(Z_t).
        latent_prior: The prior p(Z_t), predicted from the memory h_{t−1}.
        motion: The posterior q(D_t), defined on frame t and pointing into frame t−1.
        sample: D_t, a sample of this posterior where a generator was given, otherwise its mean.
        reconstruction: The reconstructed image Î_t; None outside of training.
        state: The memory h_t.
    """

    latent: Gaussian
    latent_prior: Gaussian
    motion: MotionPosterior
    sample: Float[Tensor, "n 3 ym xm"]
    reconstruction: Float[Tensor, "n 1 y x"] | None
    state: LSTMState


class CardioMorphNet(nn.Module):
    """The model of the article, one time step at a time.

    Args:
        sizes: Sizes of the sub-networks, and whether the motion is a displacement or a velocity.
    """

    def __init__(self, sizes: MotionSizes) -> None:
        super().__init__()
        self.sizes = sizes
        channels, memory = sizes.features[-1], sizes.hidden[-1]
        # Random weights depend on the order in which the networks are built.
        self.feat_net = FeatNet(widths=sizes.features)
        self.infer_z = GaussianNet(channels=(channels + memory, channels), latent=sizes.latent)
        self.prior_z = GaussianNet(channels=(memory, channels, channels), latent=sizes.latent)
        self.feat_z = StackConv(sizes.latent, channels)
        self.deform_net = DeformNet(
            sizes.deform, latent_features=channels, rank=sizes.rank, output_level=sizes.output_level
        )
        self.dec_net = DecNet(channels_in=channels, widths=sizes.decoder)
        self.rec_net = RecNet(channels_in=2 * channels, hidden=sizes.hidden)

    def forward(
        self,
        moving: Float[Tensor, "n 1 y x"],
        fixed: Float[Tensor, "n 1 y x"],
        state: LSTMState,
        stacks: Stacks,
        generator: torch.Generator | None,
    ) -> StepOutput:
        """Estimate the motion of frame t and update the memory.

        Args:
            moving: Frame t−1, into which the motion points.
            fixed: Frame t.
            state: The memory h_{t−1}, at first that of :meth:`start`.
            stacks: The stacks to which the slices belong.
            generator: Draws Z and the motion; None takes their means, as inference does.
        """
        latent_prior = self.prior_z(state[-1][0], stacks)
        latent, latent_features, updated = self._infer_latent(self.feat_net(fixed, stacks), state, stacks, generator)
        motion: MotionPosterior = self.deform_net(moving, fixed, latent_features, stacks)
        return StepOutput(
            latent=latent,
            latent_prior=latent_prior,
            motion=motion,
            sample=motion.mean if generator is None else motion.sample(generator),
            reconstruction=self.dec_net(latent_features, stacks) if self.training else None,
            state=updated,
        )

    def start(self, frame: Float[Tensor, "n 1 y x"], stacks: Stacks, generator: torch.Generator | None) -> LSTMState:
        """Return the memory after the first frame of a sequence."""
        features = self.feat_net(frame, stacks)
        return self._infer_latent(features, self.rec_net.start(features.float()), stacks, generator)[2]

    def _infer_latent(
        self, features: Float[Tensor, "n c y x"], state: LSTMState, stacks: Stacks, generator: torch.Generator | None
    ) -> tuple[Gaussian, Tensor, LSTMState]:
        """Infer q(Z_t), φ_Z and h_t from φ_I and h_{t−1}."""
        latent = self.infer_z(torch.cat([features, state[-1][0].to(features.dtype)], dim=1), stacks)
        z = latent.mean if generator is None else latent.sample(generator)
        latent_features = leaky_relu(self.feat_z(z, stacks))
        return latent, latent_features, self.rec_net(torch.cat([features, latent_features], dim=1), state, stacks)

    def displacements(self, motion: Float[Tensor, "n 3 ym xm"], stacks: Stacks) -> list[Float[Tensor, "1 3 _ y x"]]:
        """Return the displacement of each stack, on the image grid and in its voxels.

        Args:
            motion: Mean or sample of the posterior of the motion.
            stacks: The stacks to which the slices belong.
        """
        integrated = (exponential(volume, steps=self.sizes.integration_steps) for volume in stacks.volumes(motion))
        return [upsample_displacement(volume, factor=2**self.sizes.output_level) for volume in integrated]


def iterate_cycle(
    model: CardioMorphNet,
    frames: list[Float[Tensor, "n 1 y x"]],
    stacks: Stacks,
    generator: torch.Generator | None,
    *,
    step_function: Callable[..., StepOutput] | None = None,
) -> Iterator[StepOutput]:
    """Apply the model to the frames t = 1 … T of a closed cycle of T frames, the last of which is frame 0 again.

    The memory is first updated with frame 0. Since the cycle closes, ED is supervised like every other frame.

    Args:
        model: The model.
        frames: Images of the frames from ED on.
        stacks: The stacks to which the slices belong.
        generator: Draws Z and the motion; None takes their means, as inference does.
        step_function: Replaces the model's forward pass, with the same arguments.
    """
    state = model.start(frames[0], stacks, generator)
    for moving, fixed in pairwise([*frames, frames[0]]):
        output = (step_function or model)(moving, fixed, state, stacks, generator)
        state = output.state
        yield output
