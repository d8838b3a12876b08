"""Motion after VoxelMorph: a U-Net on two stacks returns the displacement, or a stationary velocity that is integrated.

Balakrishnan et al., IEEE TMI 38 (2019) 1788: similarity of images, smoothness, and Dice of masks that are used in
training only; Dalca et al., Medical Image Analysis 57 (2019) 226: the diffeomorphic form. The network is the article's,
with motion at half the in-plane resolution, as in the authors' code. Each frame is registered with the first one by
itself.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.models.baselines.blocks import UNet, double_motion, shrink_last_layer
from cmnet_core.models.baselines.interface import Baseline, FrameSequence, SequenceMotion
from cmnet_core.models.baselines.terms import diffusion, mean_square, warped_mask_dice
from cmnet_core.models.layers import StackConv, Stacks
from cmnet_core.registration.displacement import exponential, warp

SMOOTHNESS, MASKS = 0.02, 0.1
"""Weights λ of the smoothness and γ of Dice beside the mean squared difference."""


class VoxelMorph(Baseline):
    """The network and its loss.

    Args:
        integration_steps: Number of squarings of the velocity; with 0 the output is the displacement.
    """

    pairwise = True

    def __init__(self, integration_steps: int) -> None:
        super().__init__()
        self.integration_steps = integration_steps
        self.unet = UNet(StackConv, 2, last=(16, 16))
        self.flow = StackConv(16, 3)
        shrink_last_layer(self.flow)

    def _motion(self, voxels: Float[Tensor, "t z y x"]) -> tuple[Tensor, Float[Tensor, "n 3 z y x"]]:
        """Return what the network estimates at half the resolution, and the displacements."""
        fixed = voxels[1:]
        count, depth = fixed.shape[:2]
        stacks = Stacks((depth,) * count)
        pairs = torch.stack([voxels[:1].expand_as(fixed), fixed], dim=2).flatten(0, 1)
        pairs = pairs.contiguous(memory_format=torch.channels_last)
        flow = self.flow(self.unet(pairs, stacks), stacks).float()
        volumes = torch.unflatten(flow, 0, (count, depth)).movedim(1, 2)
        moved = exponential(volumes, steps=self.integration_steps).movedim(2, 1).flatten(0, 1)
        return flow, torch.unflatten(double_motion(moved), 0, (count, depth)).movedim(1, 2)

    def forward(self, voxels: Float[Tensor, "t z y x"]) -> SequenceMotion:
        return SequenceMotion(self._motion(voxels)[1])

    def loss(self, sequence: FrameSequence, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        del generator
        voxels, masks = sequence.voxels, sequence.masks
        flow, displacements = self._motion(voxels)
        moving = voxels[:1, None].expand(len(displacements), -1, -1, -1, -1)
        image = mean_square(warp(moving, displacements)[:, 0], voxels[1:])
        first = masks[0].movedim(0, 1)[None]
        warped = {frame: warp(first, displacements[frame - 1 : frame])[0].movedim(1, 0) for frame in masks if frame > 0}
        smoothness, overlap = diffusion(flow), warped_mask_dice(warped, masks)
        total = image + SMOOTHNESS * smoothness + MASKS * overlap
        return {"loss": total, "image": image, "smoothness": smoothness, "dice": overlap}
