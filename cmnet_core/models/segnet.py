"""SegNet: what is where in one frame, q(M_t given I_t).

A few residual U-Nets, each trained from random weights of its own, whose probabilities are averaged: where they have
seen too few hearts to know, as at the base of the right ventricle, they err apart. The fine levels of each see a slice
and the coarse levels its neighbours as well: at 8 to 10 mm between slices fine detail does not carry over, but the
decision whether a slice still holds a ventricle does.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cmnet_core.models.layers import StackConv, Stacks, enlarge, leaky


class ConvBlock(nn.Module):
    """Two normalised convolutions with a short cut; the first of a ``deep`` one also sees the neighbouring slices."""

    def __init__(self, channels_in: int, channels_out: int, *, deep: bool) -> None:
        super().__init__()
        self.first = PlanarConv(channels_in, channels_out) if not deep else StackConv(channels_in, channels_out)
        self.first_norm = nn.BatchNorm2d(channels_out)
        self.second = PlanarConv(channels_out, channels_out)
        self.second_norm = nn.BatchNorm2d(channels_out)
        self.short_cut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks) -> Float[Tensor, "n k y x"]:
        inner = leaky(self.first_norm(self.first(slices, stacks)))
        return leaky(self.second_norm(self.second(inner, stacks)) + self.short_cut(slices))


class PlanarConv(nn.Module):
    """A 3×3 convolution of each slice alone, with the call of StackConv."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks) -> Float[Tensor, "n k y x"]:
        out: Tensor = self.conv(slices)
        return out


class UNet(nn.Module):
    """One member: its own segmentation of every slice of a batch of stacks."""

    def __init__(self, *, widths: tuple[int, ...], through_plane_from: int, classes: int) -> None:
        super().__init__()
        ins = (1, *widths[:-1])
        self.down = nn.ModuleList(
            ConvBlock(before, width, deep=level >= through_plane_from)
            for level, (before, width) in enumerate(zip(ins, widths, strict=True))
        )
        self.up = nn.ModuleList(
            ConvBlock(widths[level + 1] + widths[level], widths[level], deep=level >= through_plane_from)
            for level in reversed(range(len(widths) - 1))
        )
        self.head = nn.Conv2d(widths[0], classes, 1)

    def forward(self, slices: Float[Tensor, "n 1 y x"], stacks: Stacks) -> Float[Tensor, "n k y x"]:
        """Logits of each class."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            slices = block(functional.max_pool2d(slices, 2) if level else slices, stacks)
            skips.append(slices)
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            slices = block(torch.cat([enlarge(slices, factor=2), skip], dim=1), stacks)
        logits: Tensor = self.head(slices)
        return logits


class SegNet(nn.Module):
    """Segmentation of every slice of a batch of stacks, by several networks that were trained apart.

    Their mean is a deep ensemble (Lakshminarayanan et al., NeurIPS 2017).

    Args:
        widths: Channels of each level, finest first; the plane is halved between levels.
        through_plane_from: The first level (from 0) whose blocks see neighbouring slices.
        members: Number of networks.
        classes: Number of classes, background included.
    """

    def __init__(self, *, widths: tuple[int, ...], through_plane_from: int, members: int, classes: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            UNet(widths=widths, through_plane_from=through_plane_from, classes=classes) for _ in range(members)
        )

    def logits_of_each(self, slices: Float[Tensor, "n 1 y x"], stacks: Stacks) -> list[Float[Tensor, "n k y x"]]:
        """Logits of each class by each member; the plane's sides can be halved once less than there are levels."""
        return [member(slices, stacks) for member in self.members]

    def forward(self, slices: Float[Tensor, "n 1 y x"], stacks: Stacks) -> Float[Tensor, "n k y x"]:
        """Probability of each class, the mean of what the members give it."""
        each = [logits.float().softmax(1) for logits in self.logits_of_each(slices, stacks)]
        return torch.stack(each).mean(0)


@torch.no_grad()
def class_probabilities(
    model: SegNet, voxels: Float[Tensor, "t z y x"], *, frames_at_once: int
) -> Float[Tensor, "t z k y x"]:
    """SegNet's probabilities for every frame of a window, ``frames_at_once`` in one pass."""
    parts = []
    for chunk in torch.split(voxels, frames_at_once):
        stacks = Stacks((int(chunk.shape[1]),) * len(chunk))
        slices = chunk.flatten(0, 1)[:, None].contiguous(memory_format=torch.channels_last)
        parts.append(model(slices, stacks).unflatten(0, chunk.shape[:2]))
    return torch.cat(parts)
