"""CardioMorphNet: a recurrent variational autoencoder whose latent conditions a posterior over motion.

Movahed et al., Medical Image Analysis 113 (2026) 104149. Read from top to bottom: the networks, then one step of the
model. All tensors are ragged batches of slices (see :mod:`cmnet_core.models.layers`); motion is in voxels.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cmnet_core.models.gaussian import Gaussian, MotionPosterior
from cmnet_core.models.layers import (
    StackConv,
    StackConvLSTM,
    Stacks,
    StackUpConv,
    enlarge,
    enlarge_displacement,
    leaky,
)
from cmnet_core.models.rotation_net import RotationNet, locate_lv, rotation_velocity
from cmnet_core.models.velocity_fit import fit_velocity
from cmnet_core.registration.displacement import compose_displacements, exponential, warp

LATENT_LOG_VARIANCE = 4.0
"""Log variances of Z stay within ± this: a prior that collapses would make KL_Z, and its gradient, explode."""

MOTION_LOG_VARIANCE = 8.0
"""Log variances of the motion stay within ± this: from 0.02 to 55 voxels."""

MOTION_VOXELS = 16.0
"""Means and factors of the motion stay within ± this many voxels of its grid, more than any heart moves in one step."""

MATCHED_FEATURES = 16
"""Channels of the features by which places are found again."""


class FeatNet(nn.Module):
    """Image features φ_I at a sixteenth of the plane."""

    def __init__(self, *, widths: tuple[int, ...]) -> None:
        super().__init__()
        ins = (1, *widths[:-1])
        self.strided = nn.ModuleList(StackConv(a, b, stride=2) for a, b in zip(ins, widths, strict=True))
        self.last = StackConv(widths[-1], widths[-1])

    def forward(self, image: Float[Tensor, "n 1 y x"], stacks: Stacks) -> Float[Tensor, "n c yo xo"]:
        for layer in self.strided:
            image = leaky(layer(image, stacks))
        return leaky(self.last(image, stacks))


class GaussianNet(nn.Module):
    """Convolutions and two heads: InferZ, the posterior of Z, and PriorZ, its prior."""

    def __init__(self, *, channels: tuple[int, ...], latent: int) -> None:
        super().__init__()
        self.body = nn.ModuleList(StackConv(a, b) for a, b in pairwise(channels))
        self.mean = StackConv(channels[-1], latent)
        self.log_variance = StackConv(channels[-1], latent)

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks) -> Gaussian:
        for layer in self.body:
            slices = leaky(layer(slices, stacks))
        log_variance = _within(self.log_variance(slices, stacks), LATENT_LOG_VARIANCE)
        return Gaussian(self.mean(slices, stacks).float(), log_variance)


def _within(values: Tensor, bound: float) -> Tensor:
    """Keep values within ± bound, smoothly, and almost unchanged near 0."""
    return bound * torch.tanh(values.float() / bound)


class DecNet(nn.Module):
    """The image again, from φ_Z."""

    def __init__(self, *, channels_in: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        ins = (channels_in, *widths[:-1])
        self.up = nn.ModuleList(StackUpConv(a, b) for a, b in zip(ins, widths, strict=True))
        self.last = StackConv(widths[-1], 1)

    def forward(self, features: Float[Tensor, "n c y x"], stacks: Stacks) -> Float[Tensor, "n 1 yo xo"]:
        for layer in self.up:
            features = leaky(layer(features, stacks))
        image: Tensor = self.last(features, stacks).float()
        return image


State = list[tuple[Tensor, Tensor]]


class RecNet(nn.Module):
    """The memory h_t: layers of convolutional LSTM on [φ_I, φ_Z]."""

    def __init__(self, *, channels_in: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        ins = (channels_in, *hidden[:-1])
        self.layers = nn.ModuleList(StackConvLSTM(a, b) for a, b in zip(ins, hidden, strict=True))
        self.hidden = hidden

    def start(self, features: Float[Tensor, "n c y x"]) -> State:
        """A state of zeros."""
        n, _, y, x = features.shape
        return [(features.new_zeros(n, c, y, x), features.new_zeros(n, c, y, x)) for c in self.hidden]

    def forward(self, features: Float[Tensor, "n c y x"], state: State, stacks: Stacks) -> State:
        advanced: State = []
        for layer, before in zip(self.layers, state, strict=True):
            advanced.append(layer(features, before, stacks))
            features = advanced[-1][0]
        return advanced


class MatchNet(nn.Module):
    """Where in frame t−1 each place of frame t is found again: correlations of learnt features, at half the plane.

    Features of unit length are learnt for one frame alone, the same for both. Their products over all shifts up to
    ``radius`` voxels of half the plane tell of motion along a wall, which shape does not show (a cost volume, as in
    Dosovitskiy et al., ICCV 2015). Nothing is asked of them but that the motion be right: no loss compares images.

    Args:
        channels_in: Of one frame.
        radius: Largest shift along y and x.
        channels_out: Of what is made of the correlations.
    """

    def __init__(self, *, channels_in: int, radius: int, channels_out: int) -> None:
        super().__init__()
        self.radius = radius
        self.fine = nn.Conv2d(channels_in, MATCHED_FEATURES, 3, padding=1)
        self.coarse = nn.Conv2d(MATCHED_FEATURES, MATCHED_FEATURES, 3, stride=2, padding=1)
        self.read = nn.Conv2d((2 * radius + 1) ** 2, channels_out, 3, padding=1)
        # At first nothing is read out of the correlations, so that a network without them can learn on with them.
        for weight in self.read.parameters():
            nn.init.zeros_(weight)

    def forward(self, previous: Float[Tensor, "n c y x"], current: Float[Tensor, "n c y x"]) -> Tensor:
        found: Tensor = self.read(correlations(self._features(current), self._features(previous), radius=self.radius))
        return found

    def _features(self, frame: Tensor) -> Float[Tensor, "n k yo xo"]:
        features: Tensor = self.coarse(leaky(self.fine(frame))).float()
        return features - features.mean(dim=(2, 3), keepdim=True)


def correlations(
    here: Float[Tensor, "n c y x"], there: Float[Tensor, "n c y x"], *, radius: int
) -> Float[Tensor, "n s y x"]:
    """Cosine between each place of one map and every place of another up to ``radius`` voxels away along y and x.

    Shifts run from −radius, y slowest; beyond the border there is nothing to be like.
    """
    height, width = here.shape[2:]
    here, there = functional.normalize(here, dim=1), functional.normalize(there, dim=1)
    around = functional.pad(there, (radius,) * 4)
    shifts = range(2 * radius + 1)
    like = [(here * around[:, :, y : y + height, x : x + width]).sum(1) for y in shifts for x in shifts]
    return torch.stack(like, dim=1)


class DeformNet(nn.Module):
    """The posterior of the motion: a U-Net on frames t−1 and t with φ_Z joined once, at the bottleneck.

    Args:
        widths: Channels of each level, finest first; the last is the bottleneck at a sixteenth of the plane.
        channels_in: Channels of both frames together.
        latent_features: Channels of φ_Z.
        rank: Columns of V.
        output_level: The level at which the motion leaves: 0 at full resolution, 1 at half of it.
        match: Joins what it finds at the second level; None without.
    """

    def __init__(
        self,
        widths: tuple[int, ...],
        *,
        channels_in: int,
        latent_features: int,
        rank: int,
        output_level: int,
        match: MatchNet | None,
    ) -> None:
        super().__init__()
        self.match = match
        self.first = StackConv(channels_in, widths[0])
        self.down = nn.ModuleList(StackConv(a, b, stride=2) for a, b in pairwise(widths))
        self.join = StackConv(widths[-1] + latent_features, widths[-1])
        levels = range(len(widths) - 2, output_level - 1, -1)
        self.up = nn.ModuleList(StackConv(widths[level + 1] + widths[level], widths[level]) for level in levels)
        self.refine = StackConv(widths[output_level], widths[output_level])
        self.mean = StackConv(widths[output_level], 3)
        self.log_variance = StackConv(widths[output_level], 1)
        self.factor = StackConv(widths[output_level], 3 * rank)
        self.rank = rank
        self._start_still()

    def _start_still(self) -> None:
        """Begin with almost no motion and little doubt: from there every warp has a useful gradient."""
        for head in (self.mean, self.factor):
            nn.init.normal_(head.weight, std=1e-4)
        nn.init.normal_(self.log_variance.weight, std=1e-3)
        nn.init.constant_(self.log_variance.bias, -5.0)

    def forward(self, previous: Tensor, current: Tensor, latent_features: Tensor, stacks: Stacks) -> MotionPosterior:
        slices = leaky(self.first(torch.cat([previous, current], dim=1), stacks))
        skips = [slices]
        for level, layer in enumerate(self.down):
            slices = layer(slices, stacks)
            if level == 0 and self.match is not None:
                slices = slices + self.match(previous, current)
            slices = leaky(slices)
            skips.append(slices)
        slices = leaky(self.join(torch.cat([slices, latent_features.to(slices.dtype)], dim=1), stacks))
        for layer, skip in zip(self.up, reversed(skips[:-1]), strict=False):
            slices = leaky(layer(torch.cat([enlarge(slices, factor=2), skip], dim=1), stacks))
        slices = leaky(self.refine(slices, stacks))
        return MotionPosterior(
            _within(self.mean(slices, stacks), MOTION_VOXELS),
            _within(self.log_variance(slices, stacks), MOTION_LOG_VARIANCE),
            torch.unflatten(_within(self.factor(slices, stacks), MOTION_VOXELS), 1, (3, self.rank)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What one step of the model gives.

    Attributes:
        latent: q(Z_t).
        latent_prior: p(Z_t) from the memory.
        motion: q(D_t), on the grid of frame t, pointing into frame t−1.
        rotation: Radians by which each slice of frame t points into frame t−1, from axis x towards axis y; None where
            it is not looked for.
        reconstruction: Î_t; None but in training, where alone it is looked at.
        state: The memory h_t.
    """

    latent: Gaussian
    latent_prior: Gaussian
    motion: MotionPosterior
    rotation: Float[Tensor, " n"] | None
    reconstruction: Float[Tensor, "n 1 y x"] | None
    state: State


@dataclass(frozen=True, slots=True)
class Parts:
    """The finished networks that make a CardioMorphNet."""

    feat_net: FeatNet
    infer_z: GaussianNet
    prior_z: GaussianNet
    feat_z: StackConv
    dec_net: DecNet
    rec_net: RecNet
    deform_net: DeformNet
    rotation_net: RotationNet | None


@dataclass(frozen=True, slots=True)
class CascadeConfig:
    """How the motion of a step is looked for.

    Attributes:
        cascade_iterations: How often DeformNet looks.
        fit: Whether what the looks give is fitted to texture and shapes. While the mean learns it is not.
    """

    cascade_iterations: int
    fit: bool


class CardioMorphNet(nn.Module):
    """The model of the article, one step at a time.

    Three things are ours. DeformNet may see, beside the images, what SegNet makes of them: q(D_t) remains a function of
    the images alone, and the motion is learnt from far fewer hearts. And it may look several times at a step: what it
    finds is added to the velocity, frame t−1 is warped by that, and what is still amiss is looked for again (as in the
    recursive cascades of Zhao et al., ICCV 2019, but with one network and one velocity). And the rotation of each
    slice, which shapes hardly show, may be found in the images before the first look, and what the looks give be fitted
    to texture and shapes at last.

    Args:
        parts: The networks.
        integration_steps: 0 takes the motion as a displacement, as the article does; n > 0 takes it as a stationary
            velocity and integrates it by n squarings.
        output_level: The level at which the motion leaves DeformNet.
        cascade: How the motion of a step is looked for.
        ed_referenced: Whether a walk round the cycle shows frame 0 in place of frame t−1, so that D_t points from
            frame t into frame 0: nothing adds up over the cycle.
    """

    def __init__(
        self, parts: Parts, *, integration_steps: int, output_level: int, cascade: CascadeConfig, ed_referenced: bool
    ) -> None:
        super().__init__()
        self.feat_net = parts.feat_net
        self.infer_z = parts.infer_z
        self.prior_z = parts.prior_z
        self.feat_z = parts.feat_z
        self.dec_net = parts.dec_net
        self.rec_net = parts.rec_net
        self.deform_net = parts.deform_net
        self.rotation_net = parts.rotation_net
        self.integration_steps = integration_steps
        self.scale = 2**output_level
        self.cascade = cascade
        self.ed_referenced = ed_referenced

    def forward(
        self,
        previous: Float[Tensor, "n c y x"],
        current: Float[Tensor, "n c y x"],
        state: State,
        stacks: Stacks,
        generator: torch.Generator | None,
    ) -> Step:
        """Advance from frame t−1 to frame t.

        Args:
            previous: Frame t−1: its image in the first channel, and behind it the probabilities of the structures where
                DeformNet was built to see them.
            current: Frame t, likewise.
            state: The memory h_{t−1}; that of :meth:`start` at the start of a sequence.
            stacks: Where the stacks of the batch begin.
            generator: Draws Z; None takes its mean, as inference does.
        """
        features = self.feat_net(current[:, :1], stacks)
        latent, latent_features, after = self._update_memory(features, state, stacks, generator)
        rotation, spun = self._estimate_rotation(previous, current, stacks)
        return Step(
            latent=latent,
            latent_prior=self.prior_z(state[-1][0], stacks),
            motion=self._estimate_velocity(previous, current, spun, latent_features, stacks),
            rotation=rotation,
            reconstruction=self.dec_net(latent_features, stacks) if self.training else None,
            state=after,
        )

    def start(self, frame: Float[Tensor, "n c y x"], stacks: Stacks, generator: torch.Generator | None) -> State:
        """The memory of a sequence that begins with a frame, after that frame."""
        features = self.feat_net(frame[:, :1], stacks)
        return self._update_memory(features, self.rec_net.start(features.float()), stacks, generator)[2]

    def _update_memory(
        self, features: Tensor, state: State, stacks: Stacks, generator: torch.Generator | None
    ) -> tuple[Gaussian, Tensor, State]:
        """q(Z_t), φ_Z and h_t, from φ_I and h_{t−1}."""
        latent = self.infer_z(torch.cat([features, state[-1][0].to(features.dtype)], dim=1), stacks)
        z = latent.mean if generator is None else latent.sample(generator)
        latent_features = leaky(self.feat_z(z, stacks))
        return latent, latent_features, self.rec_net(torch.cat([features, latent_features], dim=1), state, stacks)

    def _estimate_rotation(
        self, previous: Tensor, current: Tensor, stacks: Stacks
    ) -> tuple[Tensor | None, Tensor | None]:
        """The rotation of each slice, and the velocity that it makes."""
        if self.rotation_net is None:
            return None, None
        here = locate_lv(current, stacks)
        rotation = self.rotation_net(previous, current, here, stacks)
        size = (int(current.shape[2]) // self.scale, int(current.shape[3]) // self.scale)
        return rotation, rotation_velocity(rotation, here, size, scale=self.scale)

    def _estimate_velocity(
        self, previous: Tensor, current: Tensor, known: Tensor | None, latent_features: Tensor, stacks: Stacks
    ) -> MotionPosterior:
        """The posterior after all looks: the sum of what is known before and of their means, the doubt of the last."""
        for _ in range(self.cascade.cascade_iterations):
            closer = previous if known is None else self._warp_moving(previous, known, stacks)
            motion: MotionPosterior = self.deform_net(closer, current, latent_features, stacks)
            known = motion.mean if known is None else known + motion.mean
        assert known is not None, "a step is looked at once at least"
        # No gradient passes the fit: while the mean learns, it learns without.
        if self.cascade.fit and not known.requires_grad:
            known = fit_velocity(previous, current, known, stacks, integration_steps=self.integration_steps)
        return MotionPosterior(known, motion.log_variance, motion.factor)

    def _warp_moving(self, previous: Tensor, velocity: Tensor, stacks: Stacks) -> Tensor:
        """Frame t−1, moved to where frame t shows it."""
        return self.warp_frame(previous, self.integrate(velocity.detach(), stacks), stacks)

    def integrate(self, motion: Float[Tensor, "n 3 y x"], stacks: Stacks) -> list[Float[Tensor, "1 3 _ y x"]]:
        """Displacements on the motion's own grid, in its voxels, one volume a stack, from a mean or a sample."""
        return [exponential(part, steps=self.integration_steps) for part in stacks.volumes(motion)]

    def displacements(
        self, motion: Float[Tensor, "n 3 y x"], stacks: Stacks, *, backward: bool = False
    ) -> list[Float[Tensor, "1 3 _ yo xo"]]:
        """Displacements on the full grid, in its voxels, one volume a stack.

        Args:
            motion: A mean or a sample of the posterior.
            stacks: Where the stacks of the batch begin.
            backward: The inverse motion, from t−1 to t; exact only where the motion is a velocity.
        """
        return self.enlarged(self.integrate(-motion if backward else motion, stacks))

    def enlarged(self, displacements: list[Float[Tensor, "1 3 _ y x"]]) -> list[Float[Tensor, "1 3 _ yo xo"]]:
        """Bring displacements from the motion's own grid to the full one."""
        return [enlarge_displacement(volume, factor=self.scale) for volume in displacements]

    @torch.no_grad()
    def warp_frame(
        self, frame: Float[Tensor, "n c y x"], displacements: list[Float[Tensor, "1 3 _ yh xh"]], stacks: Stacks
    ) -> Float[Tensor, "n c y x"]:
        """A frame carried along displacements on the motion's own grid; no gradient passes."""
        volumes = zip(stacks.volumes(frame), self.enlarged(displacements), strict=True)
        carried = stacks.slices([warp(volume, displacement) for volume, displacement in volumes])
        return carried.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, slots=True, eq=False)
class CycleStep:
    """One step of a walk round the cycle.

    Attributes:
        t: The frame it leads to, counted on past the cycle's end.
        step: What the model gives.
        motion: A draw from the posterior where a generator was given, else its mean.
        displacement: D_t, one volume a stack, on the motion's own grid, integrated from ``motion``. It points into
            frame t−1, or frame 0 where the model is anchored.
        to_start: Fixed at frame t and pointing into frame 0; where the model is anchored, D_t itself.
    """

    t: int
    step: Step
    motion: Float[Tensor, "n 3 yh xh"]
    displacement: list[Float[Tensor, "1 3 _ yh xh"]]
    to_start: list[Float[Tensor, "1 3 _ yh xh"]]


def iterate_cycle(
    model: CardioMorphNet,
    frames: list[Float[Tensor, "n c y x"]],
    stacks: Stacks,
    generator: torch.Generator | None,
    *,
    step_function: Callable[..., Step] | None = None,
) -> Iterator[CycleStep]:
    """Walk once round the cycle, to frames t = 1 … T; the last step leads from frame T−1 back to frame 0.

    A pass over frame 0 primes the memory first.

    Args:
        model: What walks.
        frames: As :class:`CardioMorphNet` takes them.
        stacks: Where the stacks of the batch begin.
        generator: Draws Z and the motion; None takes their means, as inference does.
        step_function: What takes a step in the model's place.
    """
    step_function = step_function or model
    state = model.start(frames[0], stacks, generator)
    to_start: list[Tensor] = []
    for t in range(1, len(frames) + 1):
        previous = frames[0] if model.ed_referenced else frames[t - 1]
        step = step_function(previous, frames[t % len(frames)], state, stacks, generator)
        state = step.state
        motion = step.motion.mean if generator is None else step.motion.sample(generator)
        displacement = model.integrate(motion, stacks)
        if model.ed_referenced or t == 1:
            to_start = displacement
        else:
            to_start = [compose_displacements(*pair) for pair in zip(displacement, to_start, strict=True)]
        yield CycleStep(t, step, motion, displacement, to_start)
