"""Motion and segmentation after TCSF: a U-Net over space and time segments, and tracks forward and backward.

Wei et al., MICCAI 2020 (CLAS). The network sees each slice over time; it segments every frame and estimates the motion
between neighbouring frames in both directions, and these steps are composed over the sequence. The loss is cross-
entropy and Dice at ED and ES, local correlation and smoothness of both directions and, from the second phase on, Dice
of the labels that are propagated from both ends: 0.4 at the frames that have masks, and 0.2 at the others, where they
are pseudo-labels. Here all terms act from the beginning. The smoothness acts on displacements in voxels, not on
positions.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from cmnet_core.labels import Label
from cmnet_core.models.baselines.blocks import (
    UNet,
    as_slices,
    as_volumes,
    compose_slices,
    double_motion,
    shrink_last_layer,
    subpixels,
    warp_slices,
)
from cmnet_core.models.baselines.interface import Baseline, FrameSequence, SequenceMotion
from cmnet_core.models.baselines.terms import diffusion, local_correlation
from cmnet_core.models.layers import StackConv, Stacks
from cmnet_core.models.losses import dice_loss, segmentation_loss

SMOOTHNESS, PSEUDO_LABELS, PROPAGATED = 0.5, 0.2, 0.4
"""Weights of the terms beside the segmentation and the local correlation."""


class TCSF(Baseline):
    """The network and its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet(StackConv, 1, last=(32,))
        self.classes = StackConv(32, 4 * len(Label))
        self.flow = StackConv(32, 4)
        shrink_last_layer(self.flow)

    def _infer(self, voxels: Float[Tensor, "t z y x"]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return logits of every frame and slice, and the steps forward and backward at half the resolution.

        A step forward is fixed at a frame and points into the one before; one backward points into the one after.
        """
        count, depth = voxels.shape[:2]
        # The stacks of the layers are the frames of each slice: neighbours are those in time.
        over_time, stacks = as_slices(voxels.movedim(1, 0)), Stacks((count,) * depth)
        features = self.unet(over_time, stacks)
        logits = torch.unflatten(subpixels(self.classes(features, stacks)).float(), 0, (depth, count)).movedim(1, 0)
        steps = torch.unflatten(self.flow(features, stacks).float(), 0, (depth, count)).movedim(1, 0)
        return logits, [step[:, :2] for step in steps[1:]], [step[:, 2:] for step in steps[:-1]]

    def forward(self, voxels: Float[Tensor, "t z y x"]) -> SequenceMotion:
        logits, forward, _ = self._infer(voxels)
        motions = _compose([double_motion(step) for step in forward])
        return SequenceMotion(as_volumes(torch.cat(motions), voxels.shape[1]), logits.softmax(2))

    def loss(self, sequence: FrameSequence, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        del generator
        frames = [as_slices(frame[None]) for frame in sequence.voxels]
        logits, forward, backward = self._infer(sequence.voxels)
        segmentation = torch.stack(
            [segmentation_loss(logits[frame], mask) for frame, mask in sequence.masks.items()]
        ).mean()
        steps = [double_motion(step) for step in forward], [double_motion(step) for step in backward]
        last = max(sequence.masks)
        image = (
            local_correlation(
                torch.cat([warp_slices(a, u) for a, u in zip(frames, steps[0], strict=False)]), torch.cat(frames[1:])
            )
            + local_correlation(
                torch.cat([warp_slices(a, u) for a, u in zip(frames[1:], steps[1], strict=True)]),
                torch.cat(frames[:-1]),
            )
        ) / 2.0
        smoothness = diffusion(torch.cat([*forward, *backward]))
        from_first = {frame: (0, motion) for frame, motion in enumerate(_compose(steps[0]), start=1)}
        returning = _compose(steps[1][:last][::-1])
        from_last = {last - 1 - number: (last, motion) for number, motion in enumerate(returning)}
        known, pseudo = [], []
        for found in (from_first, from_last):
            for frame, (source, motion) in found.items():
                warped = warp_slices(sequence.masks[source], motion)
                if frame in sequence.masks:
                    known.append(dice_loss(warped, sequence.masks[frame]))
                else:
                    label = functional.one_hot(warped.argmax(1), len(Label)).movedim(-1, 1).float()
                    pseudo.append(dice_loss(logits[frame].softmax(1), label))
        propagated = torch.stack(known).mean() if known else torch.zeros_like(image)
        pseudo_labels = torch.stack(pseudo).mean() if pseudo else torch.zeros_like(image)
        total = segmentation + image + SMOOTHNESS * smoothness + PROPAGATED * propagated + PSEUDO_LABELS * pseudo_labels
        return {
            "loss": total,
            "segmentation": segmentation,
            "image": image,
            "smoothness": smoothness,
            "dice": propagated,
            "pseudo_labels": pseudo_labels,
        }


def _compose(steps: list[Tensor]) -> list[Tensor]:
    """Return, for every step, the displacement into the frame that the first step points into."""
    composed: list[Tensor] = []
    for step in steps:
        composed.append(compose_slices(step, composed[-1]) if composed else step)
    return composed
