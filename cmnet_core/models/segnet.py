"""SegNet: what is where in one frame, q(M_t given I_t).

A residual U-Net whose fine levels see a slice and whose coarse levels see its neighbours as well: at 8 to 10 mm between
slices fine detail does not carry over, but the decision whether a slice still holds a ventricle does.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cmnet_core.models.layers import Stacks, enlarge, leaky, with_neighbours


class ConvBlock(nn.Module):
    """Two normalised convolutions with a short cut; ``deep`` ones also see the neighbouring slices."""

    def __init__(self, channels_in: int, channels_out: int, *, deep: bool) -> None:
        super().__init__()
        self.deep = deep
        self.first = nn.Conv2d(channels_in * (3 if deep else 1), channels_out, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels_out)
        self.second = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels_out)
        self.short_cut = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks) -> Float[Tensor, "n k y x"]:
        seen = with_neighbours(slices, stacks) if self.deep else slices
        inner = leaky(self.first_norm(self.first(seen)))
        return leaky(self.second_norm(self.second(inner)) + self.short_cut(slices))


class SegNet(nn.Module):
    """Segmentation of every slice of a batch of stacks.

    Args:
        widths: Channels of each level, finest first; the plane is halved between levels.
        deep_from: The first level (from 0) whose blocks see neighbouring slices.
        classes: Number of classes, background included.
    """

    def __init__(self, *, widths: tuple[int, ...], deep_from: int, classes: int) -> None:
        super().__init__()
        ins = (1, *widths[:-1])
        self.down = nn.ModuleList(
            ConvBlock(before, width, deep=level >= deep_from)
            for level, (before, width) in enumerate(zip(ins, widths, strict=True))
        )
        self.up = nn.ModuleList(
            ConvBlock(widths[level + 1] + widths[level], widths[level], deep=level >= deep_from)
            for level in reversed(range(len(widths) - 1))
        )
        self.head = nn.Conv2d(widths[0], classes, 1)
        self.multiple = 2 ** (len(widths) - 1)

    def forward(self, slices: Float[Tensor, "n 1 y x"], stacks: Stacks) -> Float[Tensor, "n k y x"]:
        """Logits of each class; the plane's sides must be multiples of ``multiple``."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            slices = block(functional.max_pool2d(slices, 2) if level else slices, stacks)
            skips.append(slices)
        for block, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            slices = block(torch.cat([enlarge(slices, factor=2), skip], dim=1), stacks)
        logits: Tensor = self.head(slices)
        return logits
