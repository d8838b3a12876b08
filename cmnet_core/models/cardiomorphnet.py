"""CardioMorphNet: a recurrent variational autoencoder whose latent variable conditions a posterior of the motion.

Movahed et al., Medical Image Analysis 113 (2026) 104149. The file reads from top to bottom: first the sub-networks,
then one time step of the model, then the iteration over a cardiac cycle. All tensors are ragged batches of slices (see
:mod:`cmnet_core.models.layers`). Motion is in voxels of its own grid and is a pull-back: it is defined on the fixed
frame and points into the moving frame, ``moving(p + u(p)) ≈ fixed(p)``.
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
    leaky_relu,
    upsample,
    upsample_displacement,
)
from cmnet_core.models.rotation_net import RotationNet, locate_lv, rotation_velocity
from cmnet_core.models.velocity_fit import fit_velocity
from cmnet_core.registration.displacement import compose_displacements, exponential, warp

MAX_LATENT_LOG_VARIANCE = 4.0
"""Bound of the absolute log variance of Z. A prior that collapses would make KL_Z, and its gradient, diverge."""

MAX_MOTION_LOG_VARIANCE = 8.0
"""Bound of the absolute log variance of the motion: its standard deviation is between 0.02 and 55 voxels."""

MAX_MOTION_VOXELS = 16.0
"""Bound of the mean and of the low-rank factor of the motion, in voxels of the motion's grid."""

MATCH_FEATURES = 16
"""Number of feature channels from which MatchNet computes the cost volume."""


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


class MatchNet(nn.Module):
    """Encodes a cost volume of the fixed and the moving frame at half the in-plane resolution.

    The same network computes the features of both frames. Their correlation over all in-plane shifts up to ``radius``
    voxels indicates motion along the wall, which a segmentation does not constrain (a cost volume as in Dosovitskiy et
    al., ICCV 2015). No loss term compares the two images: the features are learnt from simulated cines, whose motion is
    known, and from the segmentations.

    Args:
        channels_in: Channels of one frame.
        radius: Largest shift along y and x, in voxels of half the in-plane resolution.
        channels_out: Channels of the encoded cost volume.
    """

    def __init__(self, *, channels_in: int, radius: int, channels_out: int) -> None:
        super().__init__()
        self.radius = radius
        self.fine = nn.Conv2d(channels_in, MATCH_FEATURES, 3, padding=1)
        self.coarse = nn.Conv2d(MATCH_FEATURES, MATCH_FEATURES, 3, stride=2, padding=1)
        self.read = nn.Conv2d((2 * radius + 1) ** 2, channels_out, 3, padding=1)
        # The encoding starts at zero, so that training can continue from weights without MatchNet.
        for weight in self.read.parameters():
            nn.init.zeros_(weight)

    def forward(self, moving: Float[Tensor, "n c y x"], fixed: Float[Tensor, "n c y x"]) -> Tensor:
        encoded: Tensor = self.read(cost_volume(self._features(fixed), self._features(moving), radius=self.radius))
        return encoded

    def _features(self, frame: Tensor) -> Float[Tensor, "n k yo xo"]:
        features: Tensor = self.coarse(leaky_relu(self.fine(frame))).float()
        return features - features.mean(dim=(2, 3), keepdim=True)


def cost_volume(
    fixed: Float[Tensor, "n c y x"], moving: Float[Tensor, "n c y x"], *, radius: int
) -> Float[Tensor, "n s y x"]:
    """Compute the cosine similarity of each voxel's features with those of the other map's voxels nearby.

    Args:
        fixed: Features at whose voxels the similarities are given.
        moving: Features that are shifted against them; positions outside the image have zero similarity.
        radius: Largest shift along y and x, in voxels. The channels of the result are the shifts from −radius to
            radius along both axes; the shift along x varies fastest.
    """
    height, width = fixed.shape[2:]
    fixed, moving = functional.normalize(fixed, dim=1), functional.normalize(moving, dim=1)
    padded = functional.pad(moving, (radius,) * 4)
    shifts = range(2 * radius + 1)
    similarity = [(fixed * padded[:, :, y : y + height, x : x + width]).sum(1) for y in shifts for x in shifts]
    return torch.stack(similarity, dim=1)


class DeformNet(nn.Module):
    """Predicts the posterior of the motion: a U-Net on both frames, with φ_Z concatenated at the bottleneck.

    Args:
        widths: Channels of each level, finest first; the last level is the bottleneck.
        channels_in: Channels of both frames together.
        latent_features: Channels of φ_Z.
        rank: Number of columns of the low-rank factor V.
        output_level: Level of the motion: 0 for full in-plane resolution, 1 for half.
        match: Network whose encoded cost volume is added at the second level; None for none.
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
        # The initial motion is almost zero and its variance small, so that every warp has a useful gradient.
        for head in (self.mean, self.factor):
            nn.init.normal_(head.weight, std=1e-4)
        nn.init.normal_(self.log_variance.weight, std=1e-3)
        nn.init.constant_(self.log_variance.bias, -5.0)

    def forward(self, moving: Tensor, fixed: Tensor, latent_features: Tensor, stacks: Stacks) -> MotionPosterior:
        slices = leaky_relu(self.first(torch.cat([moving, fixed], dim=1), stacks))
        skips = [slices]
        for level, layer in enumerate(self.down):
            slices = layer(slices, stacks)
            if level == 0 and self.match is not None:
                slices = slices + self.match(moving, fixed)
            slices = leaky_relu(slices)
            skips.append(slices)
        slices = leaky_relu(self.join(torch.cat([slices, latent_features.to(slices.dtype)], dim=1), stacks))
        for layer, skip in zip(self.up, reversed(skips[:-1]), strict=False):
            slices = leaky_relu(layer(torch.cat([upsample(slices, factor=2), skip], dim=1), stacks))
        slices = leaky_relu(self.refine(slices, stacks))
        return MotionPosterior(
            _soft_clamp(self.mean(slices, stacks), MAX_MOTION_VOXELS),
            _soft_clamp(self.log_variance(slices, stacks), MAX_MOTION_LOG_VARIANCE),
            torch.unflatten(_soft_clamp(self.factor(slices, stacks), MAX_MOTION_VOXELS), 1, (3, self.rank)),
        )


@dataclass(frozen=True, slots=True, eq=False)
class StepOutput:
    """What one time step of the model returns.

    Attributes:
        latent: The posterior q(Z_t).
        latent_prior: The prior p(Z_t), predicted from the memory.
        motion: The posterior q(D_t), defined on frame t and pointing into the moving frame.
        rotation: Angle in radians, from axis x towards axis y, by which each slice of frame t is rotated into the
            moving frame; None without RotationNet.
        reconstruction: The reconstructed image Î_t; None outside of training.
        state: The memory h_t.
    """

    latent: Gaussian
    latent_prior: Gaussian
    motion: MotionPosterior
    rotation: Float[Tensor, " n"] | None
    reconstruction: Float[Tensor, "n 1 y x"] | None
    state: LSTMState


@dataclass(frozen=True, slots=True)
class SubNetworks:
    """The sub-networks of a CardioMorphNet."""

    feat_net: FeatNet
    infer_z: GaussianNet
    prior_z: GaussianNet
    feat_z: StackConv
    dec_net: DecNet
    rec_net: RecNet
    deform_net: DeformNet
    rotation_net: RotationNet | None


class CardioMorphNet(nn.Module):
    """The model of the article, one time step at a time.

    Four extensions are not in the article. DeformNet may take SegNet's probabilities of both frames as input beside the
    images; q(D_t) remains a function of the images alone. RotationNet may estimate the rotation of each slice about the
    long axis first. DeformNet may be applied recursively: the moving frame is warped by the current velocity, and the
    predicted residual is added to it (a recursive cascade as in Zhao et al., ICCV 2019, with one network and one
    velocity). Last, the velocity may be fitted to the texture and the segmentations of both frames
    (:mod:`cmnet_core.models.velocity_fit`).

    Args:
        networks: The sub-networks.
        integration_steps: 0 takes the motion as a displacement, as in the article; n > 0 takes it as a stationary
            velocity, which is integrated by n squarings.
        output_level: Level of DeformNet's output: 0 for full in-plane resolution, 1 for half.
        cascade_iterations: Number of times that DeformNet is applied to each step.
        fit: Whether the velocity is fitted to texture and segmentations after the cascade. The fit is skipped while the
            velocity requires a gradient, which it does not pass.
        ed_referenced: Whether the moving frame is ED, frame 0, at every step, so that no motion is composed over the
            cycle; otherwise it is frame t−1, as in the article.
    """

    def __init__(
        self,
        networks: SubNetworks,
        *,
        integration_steps: int,
        output_level: int,
        cascade_iterations: int,
        fit: bool,
        ed_referenced: bool,
    ) -> None:
        super().__init__()
        self.feat_net = networks.feat_net
        self.infer_z = networks.infer_z
        self.prior_z = networks.prior_z
        self.feat_z = networks.feat_z
        self.dec_net = networks.dec_net
        self.rec_net = networks.rec_net
        self.deform_net = networks.deform_net
        self.rotation_net = networks.rotation_net
        self.integration_steps = integration_steps
        self.scale = 2**output_level
        self.cascade_iterations = cascade_iterations
        self.fit = fit
        self.ed_referenced = ed_referenced

    def forward(
        self,
        moving: Float[Tensor, "n c y x"],
        fixed: Float[Tensor, "n c y x"],
        state: LSTMState,
        stacks: Stacks,
        generator: torch.Generator | None,
    ) -> StepOutput:
        """Estimate the motion of frame t and update the memory.

        Args:
            moving: The frame into which the motion points, ED or frame t−1: the image in the first channel, followed by
                SegNet's probabilities of the structures if DeformNet was built for them.
            fixed: Frame t, with the same channels.
            state: The memory h_{t−1}, at first that of :meth:`start`.
            stacks: The stacks to which the slices belong.
            generator: Draws Z; None takes the mean of Z, as inference does.
        """
        features = self.feat_net(fixed[:, :1], stacks)
        latent, latent_features, updated = self._update_memory(features, state, stacks, generator)
        rotation, initial_velocity = self._estimate_rotation(moving, fixed, stacks)
        return StepOutput(
            latent=latent,
            latent_prior=self.prior_z(state[-1][0], stacks),
            motion=self._estimate_velocity(moving, fixed, initial_velocity, latent_features, stacks),
            rotation=rotation,
            reconstruction=self.dec_net(latent_features, stacks) if self.training else None,
            state=updated,
        )

    def start(self, frame: Float[Tensor, "n c y x"], stacks: Stacks, generator: torch.Generator | None) -> LSTMState:
        """Return the memory after the first frame of a sequence."""
        features = self.feat_net(frame[:, :1], stacks)
        return self._update_memory(features, self.rec_net.start(features.float()), stacks, generator)[2]

    def _update_memory(
        self, features: Tensor, state: LSTMState, stacks: Stacks, generator: torch.Generator | None
    ) -> tuple[Gaussian, Tensor, LSTMState]:
        """Infer q(Z_t), φ_Z and h_t from φ_I and h_{t−1}."""
        latent = self.infer_z(torch.cat([features, state[-1][0].to(features.dtype)], dim=1), stacks)
        z = latent.mean if generator is None else latent.sample(generator)
        latent_features = leaky_relu(self.feat_z(z, stacks))
        return latent, latent_features, self.rec_net(torch.cat([features, latent_features], dim=1), state, stacks)

    def _estimate_rotation(self, moving: Tensor, fixed: Tensor, stacks: Stacks) -> tuple[Tensor | None, Tensor | None]:
        """Estimate the rotation of each slice in radians, and the velocity that rotates it so."""
        if self.rotation_net is None:
            return None, None
        lv = locate_lv(fixed, stacks)
        rotation = self.rotation_net(moving, fixed, lv, stacks)
        size = (int(fixed.shape[2]) // self.scale, int(fixed.shape[3]) // self.scale)
        return rotation, rotation_velocity(rotation, lv, size, scale=self.scale)

    def _estimate_velocity(
        self, moving: Tensor, fixed: Tensor, velocity: Tensor | None, latent_features: Tensor, stacks: Stacks
    ) -> MotionPosterior:
        """Estimate the velocity by the cascade and the fit; the variance is that of the last cascade iteration."""
        for _ in range(self.cascade_iterations):
            warped = moving if velocity is None else self._warp_moving(moving, velocity, stacks)
            motion: MotionPosterior = self.deform_net(warped, fixed, latent_features, stacks)
            velocity = motion.mean if velocity is None else velocity + motion.mean
        assert velocity is not None, "the cascade has at least one iteration"
        # The fit passes no gradient: where the mean is trained, it is trained without the fit.
        if self.fit and not velocity.requires_grad:
            velocity = fit_velocity(moving, fixed, velocity, stacks, integration_steps=self.integration_steps)
        return MotionPosterior(velocity, motion.log_variance, motion.factor)

    def _warp_moving(self, moving: Tensor, velocity: Tensor, stacks: Stacks) -> Tensor:
        """Warp the moving frame by the current velocity; no gradient passes."""
        return self.warp_frame(moving, self.integrate(velocity.detach(), stacks), stacks)

    def integrate(self, motion: Float[Tensor, "n 3 y x"], stacks: Stacks) -> list[Float[Tensor, "1 3 _ y x"]]:
        """Integrate a motion to one displacement per stack, on the motion's own grid and in its voxels.

        Args:
            motion: Mean or sample of the posterior of the motion.
            stacks: The stacks to which the slices belong.
        """
        return [exponential(volume, steps=self.integration_steps) for volume in stacks.volumes(motion)]

    def displacements(
        self, motion: Float[Tensor, "n 3 y x"], stacks: Stacks, *, backward: bool = False
    ) -> list[Float[Tensor, "1 3 _ yo xo"]]:
        """Integrate a motion to one displacement per stack, on the image grid and in its voxels.

        Args:
            motion: Mean or sample of the posterior of the motion.
            stacks: The stacks to which the slices belong.
            backward: Return the inverse displacement; it is exact only where the motion is a velocity.
        """
        return self.upsample_displacements(self.integrate(-motion if backward else motion, stacks))

    def upsample_displacements(
        self, displacements: list[Float[Tensor, "1 3 _ y x"]]
    ) -> list[Float[Tensor, "1 3 _ yo xo"]]:
        """Upsample displacements from the motion's own grid to the image grid."""
        return [upsample_displacement(volume, factor=self.scale) for volume in displacements]

    @torch.no_grad()
    def warp_frame(
        self, frame: Float[Tensor, "n c y x"], displacements: list[Float[Tensor, "1 3 _ yh xh"]], stacks: Stacks
    ) -> Float[Tensor, "n c y x"]:
        """Warp a frame along displacements on the motion's own grid; no gradient passes."""
        volumes = zip(stacks.volumes(frame), self.upsample_displacements(displacements), strict=True)
        warped = stacks.slices([warp(volume, displacement) for volume, displacement in volumes])
        return warped.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True, slots=True, eq=False)
class CycleStep:
    """One time step of the iteration over a cardiac cycle.

    Attributes:
        t: Number of the fixed frame; the last step has the number of frames, which stands for frame 0.
        output: What the model returned.
        motion: A sample of the posterior where a generator was given, otherwise its mean.
        displacement: D_t, integrated from ``motion``, one volume per stack on the motion's own grid. It points into ED
            where the model is ED-referenced, otherwise into frame t−1.
        to_ed: Displacement from frame t into ED: D_t itself where the model is ED-referenced, otherwise the composition
            of all steps so far.
    """

    t: int
    output: StepOutput
    motion: Float[Tensor, "n 3 yh xh"]
    displacement: list[Float[Tensor, "1 3 _ yh xh"]]
    to_ed: list[Float[Tensor, "1 3 _ yh xh"]]


def iterate_cycle(
    model: CardioMorphNet,
    frames: list[Float[Tensor, "n c y x"]],
    stacks: Stacks,
    generator: torch.Generator | None,
    *,
    step_function: Callable[..., StepOutput] | None = None,
) -> Iterator[CycleStep]:
    """Apply the model to the frames t = 1 … T of a cycle of T frames, the last of which is frame 0 again.

    The memory is first updated with frame 0.

    Args:
        model: The motion model.
        frames: The frames from ED on, as :class:`CardioMorphNet` takes them.
        stacks: The stacks to which the slices belong.
        generator: Draws Z and the motion; None takes their means, as inference does.
        step_function: Replaces the model's forward pass, with the same arguments.
    """
    step_function = step_function or model
    state = model.start(frames[0], stacks, generator)
    to_ed: list[Tensor] = []
    for t in range(1, len(frames) + 1):
        moving = frames[0] if model.ed_referenced else frames[t - 1]
        output = step_function(moving, frames[t % len(frames)], state, stacks, generator)
        state = output.state
        motion = output.motion.mean if generator is None else output.motion.sample(generator)
        displacement = model.integrate(motion, stacks)
        if model.ed_referenced or t == 1:
            to_ed = displacement
        else:
            to_ed = [compose_displacements(*pair) for pair in zip(displacement, to_ed, strict=True)]
        yield CycleStep(t, output, motion, displacement, to_ed)
