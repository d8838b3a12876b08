"""Motion and segmentation after SegMorph: a recurrent variational autoencoder with a branch for each of the two.

Bi et al., IEEE TMI 44 (2025) 3515. A latent variable with a prior that is learnt from a ConvLSTM's state describes the
sequence; one branch segments each frame, the other estimates the displacement into the frame before from the features
and the segmentations of both. Frames without masks are taught by labels that the motion propagates; the similarity of
images is kept. There is no public code, and of the article only the abstract is free: sizes and weights are ours, and
so is Dice of propagated masks in the loss, which the article may not have. Everything acts in each slice, and the
motion is at half the in-plane resolution.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.labels import Label
from cmnet_core.models.baselines.blocks import (
    WIDTHS,
    Decoder,
    Encoder,
    SliceConv,
    SliceConvLSTM,
    as_slices,
    as_volumes,
    compose_slices,
    double_motion,
    shrink_last_layer,
    subpixels,
    warp_slices,
)
from cmnet_core.models.baselines.interface import Baseline, FrameSequence, SequenceMotion
from cmnet_core.models.baselines.terms import diffusion, mean_square
from cmnet_core.models.gaussian import Gaussian
from cmnet_core.models.layers import Stacks, leaky_relu
from cmnet_core.models.losses import dice_loss, kl_latent, segmentation_loss

LATENT = 8
HIDDEN = 32
MAX_LOG_VARIANCE = 8.0
"""Bound of the absolute log variance of Z."""

KL_LATENT, SMOOTHNESS, SEGMENTATION, PSEUDO_LABELS, PROPAGATED = 1e-4, 0.02, 0.1, 0.02, 0.1
"""Weights of the terms beside the mean squared difference of the images."""


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """What the network infers at a frame; the first frame has no motion."""

    posterior: Gaussian
    prior: Gaussian
    logits: Float[Tensor, "z k y x"]
    motion: Float[Tensor, "z 2 yh xh"] | None


class SegMorph(Baseline):
    """The network and its loss."""

    def __init__(self) -> None:
        super().__init__()
        coarsest = WIDTHS[-1]
        self.encoder = Encoder(SliceConv, 1, WIDTHS)
        self.posterior = SliceConv(coarsest + HIDDEN, 2 * LATENT)
        self.prior = SliceConv(HIDDEN, 2 * LATENT)
        self.latent = SliceConv(LATENT, 16)
        self.recurrent = SliceConvLSTM(coarsest + 16, HIDDEN)
        self.segmentation = Decoder(SliceConv, (*WIDTHS[:-1], coarsest + 16), (32, 32, 32, 32), ())
        self.classes = SliceConv(32, 4 * len(Label))
        pairs = [2 * width for width in WIDTHS]
        pairs[0] += 2 * len(Label)
        pairs[-1] += 16
        self.motion = Decoder(SliceConv, pairs, (32, 32, 32, 32), (16,))
        self.flow = SliceConv(16, 2)
        shrink_last_layer(self.flow)

    def _steps(self, voxels: Float[Tensor, "t z y x"], generator: torch.Generator | None) -> Iterator[_Step]:
        """Go through the frames. Without a generator Z is the mean of its posterior."""
        depth = voxels.shape[1]
        stacks = Stacks((depth,))
        levels = [
            torch.split(level, depth) for level in self.encoder(as_slices(voxels), Stacks((len(voxels) * depth,)))
        ]
        y, x = levels[-1][0].shape[2:]
        state = (levels[-1][0].new_zeros(depth, HIDDEN, y, x, dtype=torch.float32),) * 2
        before: list[Tensor] = []
        for number in range(len(voxels)):
            frame = [level[number] for level in levels]
            hidden = state[0].to(frame[-1].dtype)
            posterior = _gaussian(self.posterior(torch.cat([frame[-1], hidden], dim=1)))
            prior = _gaussian(self.prior(hidden))
            latent = posterior.mean
            if generator is not None:
                noise = torch.randn(latent.shape, generator=generator).to(latent.device)
                latent = latent + (0.5 * posterior.log_variance).exp() * noise
            spatial = leaky_relu(self.latent(latent)).to(hidden.dtype)
            features = self.segmentation([*frame[:-1], torch.cat([frame[-1], spatial], dim=1)], stacks)
            logits = subpixels(self.classes(features)).float()
            # The anatomy conditions the motion; the motion's loss does not change the segmentation.
            anatomy = functional.avg_pool2d(logits.detach().softmax(1), 2).to(hidden.dtype)
            now = [torch.cat([frame[0], anatomy], dim=1), *frame[1:]]
            motion = None
            if before:
                pairs = [torch.cat([a, b], dim=1) for a, b in zip(before, now, strict=True)]
                pairs[-1] = torch.cat([pairs[-1], spatial], dim=1)
                motion = self.flow(self.motion(pairs, stacks)).float()
            yield _Step(posterior, prior, logits, motion)
            before, state = now, self.recurrent(torch.cat([frame[-1], spatial], dim=1), state)

    def forward(self, voxels: Float[Tensor, "t z y x"]) -> SequenceMotion:
        motions: list[Tensor] = []
        probabilities = []
        for step in self._steps(voxels, None):
            probabilities.append(step.logits.softmax(1))
            if step.motion is not None:
                motion = double_motion(step.motion)
                motions.append(compose_slices(motion, motions[-1]) if motions else motion)
        return SequenceMotion(as_volumes(torch.cat(motions), voxels.shape[1]), torch.stack(probabilities))

    def loss(self, sequence: FrameSequence, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        frames = [as_slices(frame[None]) for frame in sequence.voxels]
        masks = sequence.masks
        names = ("image", "kl_latent", "smoothness", "segmentation", "pseudo_labels", "dice")
        terms: dict[str, list[Tensor]] = {name: [] for name in names}
        whole: Tensor | None = None
        for frame, step in enumerate(self._steps(sequence.voxels, generator)):
            terms["kl_latent"].append(kl_latent(step.posterior, step.prior))
            if frame in masks:
                terms["segmentation"].append(segmentation_loss(step.logits, masks[frame]))
            if step.motion is None:
                continue
            motion = double_motion(step.motion)
            whole = motion if whole is None else compose_slices(motion, whole)
            terms["image"].append(mean_square(warp_slices(frames[frame - 1], motion), frames[frame]))
            terms["smoothness"].append(diffusion(step.motion))
            propagated = warp_slices(masks[0], whole)
            if frame in masks:
                terms["dice"].append(dice_loss(propagated, masks[frame]))
            else:
                terms["pseudo_labels"].append(functional.cross_entropy(step.logits, propagated.detach()))
        zero = sequence.voxels.new_zeros(())
        means = {name: torch.stack(values).mean() if values else zero for name, values in terms.items()}
        total = (
            means["image"]
            + KL_LATENT * means["kl_latent"]
            + SMOOTHNESS * means["smoothness"]
            + SEGMENTATION * means["segmentation"]
            + PSEUDO_LABELS * means["pseudo_labels"]
            + PROPAGATED * means["dice"]
        )
        return {"loss": total} | means


def _gaussian(heads: Float[Tensor, "n c2 y x"]) -> Gaussian:
    mean, log_variance = heads.float().chunk(2, dim=1)
    return Gaussian(mean, log_variance.clamp(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE))
