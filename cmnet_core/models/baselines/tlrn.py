"""Motion after TLRN: velocities of a sequence, whose latent features are corrected by residual blocks over time.

Wu, Xing and Zhang, MICCAI 2024, arXiv 2407.11219: every frame is registered with the first one by a U-Net, in each
slice; at its bottleneck, the features of a frame are corrected from those of the frame before. The velocity is
integrated by seven squarings. The loss is the mean squared difference of the images and 0.03 ‖∇v‖²; no masks are used.
The motion is at half the in-plane resolution.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cmnet_core.models.baselines.blocks import (
    WIDTHS,
    SliceConv,
    UNet,
    as_slices,
    as_volumes,
    double_motion,
    integrate_slices,
    shrink_last_layer,
    warp_slices,
)
from cmnet_core.models.baselines.interface import Baseline, FrameSequence, SequenceMotion
from cmnet_core.models.baselines.terms import diffusion, mean_square
from cmnet_core.models.layers import Stacks, leaky_relu

SQUARINGS = 7
SMOOTHNESS = 0.03
BLOCKS = 3
"""Number of residual blocks between two frames."""


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = SliceConv(channels, channels)
        self.second = SliceConv(channels, channels)
        shrink_last_layer(self.second)

    def forward(self, slices: Float[Tensor, "n c y x"]) -> Float[Tensor, "n c y x"]:
        out: Tensor = leaky_relu(slices + self.second(leaky_relu(self.first(slices))))
        return out


class TLRN(Baseline):
    """The network and its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet(SliceConv, 2, last=(16, 16))
        latent = WIDTHS[-1]
        self.join = SliceConv(2 * latent, latent)
        self.residual = nn.Sequential(*(_ResidualBlock(latent) for _ in range(BLOCKS)))
        self.flow = SliceConv(16, 2)
        shrink_last_layer(self.flow)

    def _motion(self, voxels: Float[Tensor, "t z y x"]) -> tuple[Tensor, Float[Tensor, "n 2 y x"]]:
        """Return the velocities at half the resolution, and the displacements of all slices."""
        count = len(voxels) - 1
        pairs = torch.cat([as_slices(voxels[:1]).repeat(count, 1, 1, 1), as_slices(voxels[1:])], dim=1)
        stacks = Stacks((len(pairs),))
        levels = self.unet.encoder(pairs, stacks)
        latents = list(levels[-1].chunk(count))
        for frame in range(1, count):
            joined = leaky_relu(self.join(torch.cat([latents[frame - 1], latents[frame]], dim=1)))
            latents[frame] = latents[frame] + self.residual(joined)
        features = self.unet.decoder([*levels[:-1], torch.cat(latents)], stacks)
        velocity = self.flow(features).float()
        return velocity, double_motion(integrate_slices(velocity, steps=SQUARINGS))

    def forward(self, voxels: Float[Tensor, "t z y x"]) -> SequenceMotion:
        return SequenceMotion(as_volumes(self._motion(voxels)[1], voxels.shape[1]))

    def loss(self, sequence: FrameSequence, generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        del generator
        velocity, motion = self._motion(sequence.voxels)
        moving = as_slices(sequence.voxels[:1]).repeat(len(sequence.voxels) - 1, 1, 1, 1)
        image = mean_square(warp_slices(moving, motion), as_slices(sequence.voxels[1:]))
        smoothness = diffusion(velocity)
        return {"loss": image + SMOOTHNESS * smoothness, "image": image, "smoothness": smoothness}
