"""SegNet: the segmentation of every frame, q(M_t | I_t).

SegNet is an ensemble of residual U-Nets, each trained from its own random weights, whose probabilities are averaged.
The fine levels of a U-Net process each slice by itself, and the coarse levels include the neighbouring slices: with 8
to 10 mm between slices, fine detail does not continue from one slice to the next, but whether a slice contains a
ventricle depends on its neighbours.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cmnet_core.models.layers import StackConv, Stacks, leaky_relu, upsample


class ConvBlock(nn.Module):
    """Two normalised convolutions with a residual connection.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        through_plane: Whether the first convolution includes the neighbouring slices.
    """

    def __init__(self, channels_in: int, channels_out: int, *, through_plane: bool) -> None:
        super().__init__()
        convolution = StackConv if through_plane else InPlaneConv
        self.first = convolution(channels_in, channels_out)
        self.first_norm = nn.BatchNorm2d(channels_out)
        self.second = InPlaneConv(channels_out, channels_out)
        self.second_norm = nn.BatchNorm2d(channels_out)
        self.short_cut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks) -> Float[Tensor, "n k y x"]:
        inner = leaky_relu(self.first_norm(self.first(slices, stacks)))
        return leaky_relu(self.second_norm(self.second(inner, stacks)) + self.short_cut(slices))


class InPlaneConv(nn.Module):
    """A 3×3 convolution of each slice by itself, with the call signature of StackConv."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks) -> Float[Tensor, "n k y x"]:
        out: Tensor = self.conv(slices)
        return out


class UNet(nn.Module):
    """One member of the ensemble."""

    def __init__(self, *, widths: tuple[int, ...], through_plane_from: int, classes: int) -> None:
        super().__init__()
        ins = (1, *widths[:-1])
        self.down = nn.ModuleList(
            ConvBlock(before, width, through_plane=level >= through_plane_from)
            for level, (before, width) in enumerate(zip(ins, widths, strict=True))
        )
        self.up = nn.ModuleList(
            ConvBlock(widths[level + 1] + widths[level], widths[level], through_plane=level >= through_plane_from)
            for level in reversed(range(len(widths) - 1))
        )
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, slices: Float[Tensor, "n 1 y x"], stacks: Stacks) -> Float[Tensor, "n k y x"]:
        """Return the logits of each class."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            slices = block(functional.max_pool2d(slices, 2) if level else slices, stacks)
            skips.append(slices)
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            slices = block(torch.cat([upsample(slices, factor=2), skip], dim=1), stacks)
        logits: Tensor = self.head(slices)
        return logits


class SegNet(nn.Module):
    """Segmentation of every slice by a deep ensemble (Lakshminarayanan et al., NeurIPS 2017).

    Args:
        widths: Channels of each level, finest first; each level has half the in-plane resolution of the previous one.
        through_plane_from: First level, from 0, whose blocks include the neighbouring slices.
        members: Number of U-Nets.
        classes: Number of classes, background included.
    """

    def __init__(self, *, widths: tuple[int, ...], through_plane_from: int, members: int, classes: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            UNet(widths=widths, through_plane_from=through_plane_from, classes=classes) for _ in range(members)
        )

    def member_logits(self, slices: Float[Tensor, "n 1 y x"], stacks: Stacks) -> list[Float[Tensor, "n k y x"]]:
        """Return each member's logits; both in-plane sizes must be divisible by 2 to the number of levels minus 1."""
        return [member(slices, stacks) for member in self.members]

    def forward(self, slices: Float[Tensor, "n 1 y x"], stacks: Stacks) -> Float[Tensor, "n k y x"]:
        """Return the probability of each class, averaged over the members."""
        each = [logits.float().softmax(1) for logits in self.member_logits(slices, stacks)]
        return torch.stack(each).mean(0)


@torch.no_grad()
def class_probabilities(
    model: SegNet, voxels: Float[Tensor, "t z y x"], *, frames_at_once: int
) -> Float[Tensor, "t z k y x"]:
    """Segment every frame of a cine.

    Args:
        model: SegNet.
        voxels: Normalised intensities at the network's in-plane spacing.
        frames_at_once: Number of frames in one forward pass.
    """
    batches = []
    for chunk in torch.split(voxels, frames_at_once):
        stacks = Stacks((int(chunk.shape[1]),) * len(chunk))
        slices = chunk.flatten(0, 1)[:, None].contiguous(memory_format=torch.channels_last)
        batches.append(model(slices, stacks).unflatten(0, chunk.shape[:2]))
    return torch.cat(batches)
