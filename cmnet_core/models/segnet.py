"""SegNet: the segmentation of every frame, q(M_t | I_t), by one pass of one network.

The image is rearranged to half the in-plane resolution, with the four voxels of each 2 × 2 block as channels, and the
logits are rearranged back (sub-pixel convolution, Shi et al., CVPR 2016): no convolution works at full resolution. The
fine levels process each slice by itself, and the coarse levels include the neighbouring slices: with 8 to 10 mm between
slices, fine detail does not continue from one slice to the next, but whether a slice contains a ventricle depends on
its neighbours. The encoder is a module of its own, so that other networks can use its features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cmnet_core.models.layers import LEAKY_SLOPE, Stacks, leaky_relu, sum_of_neighbours, upsample

SUBPIXELS = 2
"""Number of rows, and of columns, of voxels that become channels of one position at half the in-plane resolution."""

NORM_MOMENTUM = 0.02
"""Momentum of BatchNorm's running statistics. It is small because a batch has few stacks, each with an appearance of
its own."""


@dataclass(frozen=True, slots=True, eq=False)
class FeaturePyramid:
    """Features of every slice at four resolutions.

    Attributes:
        half: Features at half the in-plane resolution.
        quarter: Features at a quarter.
        eighth: Features at an eighth.
        sixteenth: Features at a sixteenth.
    """

    half: Float[Tensor, "n c2 y2 x2"]
    quarter: Float[Tensor, "n c4 y4 x4"]
    eighth: Float[Tensor, "n c8 y8 x8"]
    sixteenth: Float[Tensor, "n c16 y16 x16"]


class CrossConv(nn.Module):
    """A convolution whose kernel is 3×3 in-plane, with the central voxel of each neighbouring slice.

    It has 11 of the 27 weights of a 3×3×3 kernel. Slices are about five times as far apart as voxels, so that the
    surroundings of that voxel add little.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.in_plane = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.neighbours = nn.Conv2d(channels_in, 2 * channels_out, 1, bias=False)

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks) -> Float[Tensor, "n k y x"]:
        before, after = self.neighbours(slices).chunk(2, dim=1)
        return sum_of_neighbours([before, self.in_plane(slices), after], stacks)


class ResidualBlock(nn.Module):
    """A normalised convolution with a residual connection.

    Args:
        channels: Channels of the input and of the output.
        through_plane: Whether the convolution includes the neighbouring slices.
    """

    def __init__(self, channels: int, *, through_plane: bool) -> None:
        super().__init__()
        self.conv: nn.Module = (
            CrossConv(channels, channels) if through_plane else nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        )
        self.norm = nn.BatchNorm2d(channels, momentum=NORM_MOMENTUM)

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks) -> Float[Tensor, "n c y x"]:
        inner = self.conv(slices, stacks) if isinstance(self.conv, CrossConv) else self.conv(slices)
        out: Tensor = slices + leaky_relu(self.norm(inner))
        return out


class ResidualLevel(nn.Module):
    """Residual blocks at one resolution."""

    def __init__(self, channels: int, *, depth: int, through_plane: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels, through_plane=through_plane) for _ in range(depth))

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks) -> Float[Tensor, "n c y x"]:
        for block in self.blocks:
            slices = block(slices, stacks)
        return slices


class ConvNorm(nn.Module):
    """A normalised 3×3 convolution of each slice by itself."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out, momentum=NORM_MOMENTUM)

    def forward(self, slices: Float[Tensor, "n c y x"]) -> Float[Tensor, "n k yo xo"]:
        return leaky_relu(self.norm(self.conv(slices)))


class Encoder(nn.Module):
    """From images to a pyramid of features.

    Args:
        widths: Channels at 1/2, 1/4, 1/8 and 1/16 of the in-plane resolution.
        depths: Number of residual blocks at each of these levels.
        through_plane_from: First level, from 0, whose residual blocks include the neighbouring slices.
    """

    def __init__(self, *, widths: tuple[int, ...], depths: tuple[int, ...], through_plane_from: int) -> None:
        super().__init__()
        self.stem = ConvNorm(SUBPIXELS**2, widths[0], stride=1)
        self.downsample = nn.ModuleList(ConvNorm(a, b, stride=2) for a, b in pairwise(widths))
        self.levels = nn.ModuleList(
            ResidualLevel(width, depth=depth, through_plane=level >= through_plane_from)
            for level, (width, depth) in enumerate(zip(widths, depths, strict=True))
        )

    def forward(self, slices: Float[Tensor, "n 1 y x"], stacks: Stacks) -> FeaturePyramid:
        """Compute the features of every slice; both in-plane sizes must be divisible by 16."""
        blocks = functional.pixel_unshuffle(slices, SUBPIXELS).contiguous(memory_format=torch.channels_last)
        features = [self.levels[0](self.stem(blocks), stacks)]
        for downsample, level in zip(self.downsample, self.levels[1:], strict=True):
            features.append(level(downsample(features[-1]), stacks))
        return FeaturePyramid(*features)


class Merge(nn.Module):
    """Reduce the channels of coarse features, upsample them to the next finer level and add them to its features."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out, momentum=NORM_MOMENTUM)

    def forward(self, coarse: Float[Tensor, "n c y x"], fine: Float[Tensor, "n k yo xo"]) -> Float[Tensor, "n k yo xo"]:
        return leaky_relu(fine + upsample(self.norm(self.conv(coarse)), factor=2))


class Decoder(nn.Module):
    """From a pyramid of features to the logits of each class at full resolution.

    Args:
        widths: Channels of the encoder's levels.
        depths: Number of residual blocks at 1/2, 1/4 and 1/8 of the in-plane resolution.
        through_plane_from: First level, from 0, whose residual blocks include the neighbouring slices.
        classes: Number of classes, background included.
    """

    def __init__(
        self, *, widths: tuple[int, ...], depths: tuple[int, ...], through_plane_from: int, classes: int
    ) -> None:
        super().__init__()
        levels = list(reversed(range(len(widths) - 1)))
        self.merge = nn.ModuleList(Merge(widths[level + 1], widths[level]) for level in levels)
        self.levels = nn.ModuleList(
            ResidualLevel(widths[level], depth=depths[level], through_plane=level >= through_plane_from)
            for level in levels
        )
        self.head = nn.Conv2d(widths[0], classes * SUBPIXELS**2, 3, padding=1)

    def forward(self, pyramid: FeaturePyramid, stacks: Stacks) -> Float[Tensor, "n k y x"]:
        slices = pyramid.sixteenth
        finer = (pyramid.eighth, pyramid.quarter, pyramid.half)
        for merge, level, fine in zip(self.merge, self.levels, finer, strict=True):
            slices = level(merge(slices, fine), stacks)
        return functional.pixel_shuffle(self.head(slices), SUBPIXELS)


class SegNet(nn.Module):
    """Segmentation of every slice.

    Args:
        encoder: From images to features.
        decoder: From features to logits.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # He et al., ICCV 2015, for the leaky activation.
                nn.init.kaiming_normal_(module.weight, a=LEAKY_SLOPE, nonlinearity="leaky_relu")

    def logits(self, slices: Float[Tensor, "n 1 y x"], stacks: Stacks) -> Float[Tensor, "n k y x"]:
        """Return the logits of each class; both in-plane sizes must be divisible by 16."""
        logits: Tensor = self.decoder(self.encoder(slices, stacks), stacks)
        return logits

    def forward(self, slices: Float[Tensor, "n 1 y x"], stacks: Stacks) -> Float[Tensor, "n k y x"]:
        """Return the probability of each class."""
        return self.logits(slices, stacks).float().softmax(1)


class SegNetEnsemble(nn.Module):
    """Networks whose probabilities are averaged (Lakshminarayanan et al., NeurIPS 2017): the teacher of SegNet.

    Args:
        members: The networks.
    """

    def __init__(self, members: Sequence[SegNet]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, slices: Float[Tensor, "n 1 y x"], stacks: Stacks) -> Float[Tensor, "n k y x"]:
        """Return the probability of each class."""
        return torch.stack([member(slices, stacks) for member in self.members]).mean(0)


@torch.no_grad()
def class_probabilities(
    model: nn.Module, voxels: Float[Tensor, "t z y x"], *, frames_at_once: int
) -> Float[Tensor, "t z k y x"]:
    """Segment every frame of a cine.

    Args:
        model: SegNet, or another module with the same forward pass.
        voxels: Normalised intensities at the network's in-plane spacing.
        frames_at_once: Number of frames in one forward pass.
    """
    batches = []
    for chunk in torch.split(voxels, frames_at_once):
        stacks = Stacks((int(chunk.shape[1]),) * len(chunk))
        slices = chunk.flatten(0, 1)[:, None]
        batches.append(model(slices, stacks).unflatten(0, chunk.shape[:2]))
    return torch.cat(batches)
