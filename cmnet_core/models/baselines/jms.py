"""Motion and segmentation after JMS: a siamese encoder serves a recurrent motion branch and a segmentation branch.

Qin et al., MICCAI 2018, arXiv 1806.04066. Features of the first frame and of another one, at four scales, are joined; a
recurrent unit goes through the frames, and tanh of its output is the motion in units of half the window. The second
branch segments each frame from the same features. The loss is the mean squared difference of the images, the Huber loss
of the motion's derivatives in space and time, the cross-entropy at ED and ES, and that of the first frame's
segmentation warped to a frame with a mask. Everything acts in each slice. The scale at full resolution is left out: the
motion is at half the in-plane resolution, and the segmentation doubles it by sub-pixel convolution.
Batch normalisation is left out, since a step has one stack.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cmnet_core.labels import Label
from cmnet_core.models.baselines.blocks import (
    SliceConv,
    as_slices,
    as_volumes,
    double_motion,
    in_stack_order,
    shrink_last_layer,
    subpixels,
    warp_slices,
)
from cmnet_core.models.baselines.interface import Baseline, FrameSequence, SequenceMotion
from cmnet_core.models.baselines.terms import huber_smoothness, mean_square
from cmnet_core.models.layers import leaky_relu, upsample

WIDTHS = (16, 32, 64, 64)
JOINED = 16
"""Channels to which the features of each scale are reduced."""

LARGEST_MOTION = 32.0
"""Bound of the motion in voxels of half the resolution: half the size of a window of 128 voxels. The slope of tanh at
0 is scaled to 1, so that the learning rate of the other methods fits."""

SPACE, TIME, SEGMENTATION, WARPED = 0.01, 0.001, 0.1, 0.01
"""Weights of the terms beside the mean squared difference."""


class _ScaleBlock(nn.Module):
    """Two convolutions, the first of which halves the in-plane size."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = SliceConv(channels_in, channels_out, stride=2)
        self.second = SliceConv(channels_out, channels_out)

    def forward(self, slices: Tensor) -> Tensor:
        out: Tensor = leaky_relu(self.second(leaky_relu(self.first(slices))))
        return out


class _JoinScales(nn.Module):
    """Reduces the features of each scale, brings them to the finest scale and joins them."""

    def __init__(self, widths: Sequence[int], channels_out: int) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(SliceConv(width, JOINED) for width in widths)
        self.join = SliceConv(JOINED * len(widths), channels_out)

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        reduced = [
            upsample(leaky_relu(conv(scale)), factor=2**level)
            for level, (conv, scale) in enumerate(zip(self.reduce, scales, strict=True))
        ]
        out: Tensor = leaky_relu(self.join(torch.cat(reduced, dim=1)))
        return out


class JMS(Baseline):
    """The network and its loss."""

    def __init__(self) -> None:
        super().__init__()
        before = [1, *WIDTHS[:-1]]
        self.encoder = nn.ModuleList(_ScaleBlock(a, b) for a, b in zip(before, WIDTHS, strict=True))
        self.motion = _JoinScales([2 * width for width in WIDTHS], 32)
        self.recurrent = SliceConv(64, 32)
        self.flow = SliceConv(32, 2)
        shrink_last_layer(self.flow)
        self.segmentation = _JoinScales(WIDTHS, 32)
        self.classes = SliceConv(32, 4 * len(Label))

    def _infer(self, voxels: Float[Tensor, "t z y x"]) -> tuple[list[Tensor], Tensor]:
        """Return the motion of every frame after the first at half the resolution, and the logits of all slices."""
        depth = voxels.shape[1]
        scales, slices = [], as_slices(voxels)
        for block in self.encoder:
            slices = block(slices)
            scales.append(slices)
        logits = subpixels(self.classes(self.segmentation(scales))).float()
        others = len(voxels) - 1
        pairs = [torch.cat([scale[:depth].repeat(others, 1, 1, 1), scale[depth:]], dim=1) for scale in scales]
        joined = self.motion(pairs)
        state, motions = torch.zeros_like(joined[:depth]), []
        for frame in joined.split(depth):
            state = torch.tanh(self.recurrent(torch.cat([frame, state], dim=1)))
            motions.append(LARGEST_MOTION * torch.tanh(self.flow(state).float() / LARGEST_MOTION))
        return motions, logits

    def forward(self, voxels: Float[Tensor, "t z y x"]) -> SequenceMotion:
        motions, logits = self._infer(voxels)
        depth = voxels.shape[1]
        return SequenceMotion(
            as_volumes(double_motion(torch.cat(motions)), depth), in_stack_order(logits.softmax(1), depth)
        )

    def loss(self, sequence: FrameSequence, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        del generator
        frames = [as_slices(frame[None]) for frame in sequence.voxels]
        motions, logits = self._infer(sequence.voxels)
        full = [double_motion(motion) for motion in motions]
        by_frame = in_stack_order(logits, sequence.voxels.shape[1])
        image = torch.stack(
            [mean_square(warp_slices(frames[0], motion), fixed) for motion, fixed in zip(full, frames[1:], strict=True)]
        ).mean()
        space = huber_smoothness(torch.cat(motions))
        steps = [(after - before).square().mean() for before, after in pairwise(motions)]
        time = torch.stack(steps).mean() if steps else torch.zeros_like(space)
        segmentation = torch.stack(
            [functional.cross_entropy(by_frame[frame], mask) for frame, mask in sequence.masks.items()]
        ).mean()
        warped = [
            functional.cross_entropy(warp_slices(by_frame[0], full[frame - 1]), mask)
            for frame, mask in sequence.masks.items()
            if frame
        ]
        propagated = torch.stack(warped).mean() if warped else torch.zeros_like(space)
        total = image + SPACE * space + TIME * time + SEGMENTATION * segmentation + WARPED * propagated
        return {
            "loss": total,
            "image": image,
            "smoothness": space,
            "smoothness_in_time": time,
            "segmentation": segmentation,
            "warped_segmentation": propagated,
        }
