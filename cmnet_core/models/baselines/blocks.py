"""Layers and fields that several of the learned methods share.

Most of the articles have two-dimensional networks that see each slice alone. Their motion is in-plane, ``[n 2 y x]``,
with components along y and x; it becomes a displacement in three dimensions whose through-plane component is 0.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from cmnet_core.models.layers import LEAKY_SLOPE, Stacks, leaky_relu, upsample

WIDTHS = (16, 32, 32, 32)
"""Channels of the encoders at 1/2, 1/4, 1/8 and 1/16 of the in-plane resolution."""


class SliceConv(nn.Module):
    """A zero-padded 3×3 convolution in each slice, with the interface of :class:`cmnet_core.models.layers.StackConv`.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        stride: In-plane stride.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)
        nn.init.normal_(self.conv.weight, std=math.sqrt(2.0 / ((1.0 + LEAKY_SLOPE**2) * 9 * channels_in)))
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks | None = None) -> Float[Tensor, "n k yo xo"]:
        out: Tensor = self.conv(slices)
        return out


class Encoder(nn.Module):
    """Halves the in-plane size at every level.

    Args:
        conv: Makes a convolution from the numbers of its channels and ``stride``.
        inputs: Channels of the input.
        widths: Channels of the levels, from half the resolution on.
    """

    def __init__(self, conv: Callable[..., nn.Module], inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        before = [inputs, *widths[:-1]]
        self.down = nn.ModuleList(conv(a, b, stride=2) for a, b in zip(before, widths, strict=True))

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks) -> list[Tensor]:
        """Return the features of all levels, the finest first."""
        levels = []
        for conv in self.down:
            slices = leaky_relu(conv(slices, stacks))
            levels.append(slices)
        return levels


class Decoder(nn.Module):
    """Doubles the in-plane size up to that of the finest level, half the size of the images.

    Args:
        conv: Makes a convolution from the numbers of its channels.
        levels: Channels of the features of each level, the finest first.
        widths: Channels of the output of each level, the coarsest first.
        last: Channels of further convolutions at the finest level.
    """

    def __init__(
        self, conv: Callable[..., nn.Module], levels: Sequence[int], widths: Sequence[int], last: Sequence[int]
    ) -> None:
        super().__init__()
        below = [0, *widths[:-1]]
        self.up = nn.ModuleList(conv(a + s, b) for a, s, b in zip(below, reversed(levels), widths, strict=True))
        self.last = nn.ModuleList(conv(a, b) for a, b in pairwise([widths[-1], *last]))

    def forward(self, levels: Sequence[Tensor], stacks: Stacks) -> Float[Tensor, "n k yh xh"]:
        """Return features at half the resolution from those of all levels, the finest first."""
        slices = leaky_relu(self.up[0](levels[-1], stacks))
        for conv, level in zip(list(self.up)[1:], reversed(levels[:-1]), strict=True):
            slices = functional.interpolate(slices, scale_factor=2.0)
            slices = leaky_relu(conv(torch.cat([slices, level], dim=1), stacks))
        for conv in self.last:
            slices = leaky_relu(conv(slices, stacks))
        return slices


class UNet(nn.Module):
    """The U-Net of VoxelMorph, with the output at half resolution (Balakrishnan et al., IEEE TMI 38, 2019).

    Args:
        conv: Makes a convolution from the numbers of its channels and ``stride``.
        inputs: Channels of the input.
        last: Channels of the last convolutions.
    """

    def __init__(self, conv: Callable[..., nn.Module], inputs: int, *, last: Sequence[int]) -> None:
        super().__init__()
        self.encoder = Encoder(conv, inputs, WIDTHS)
        self.decoder = Decoder(conv, WIDTHS, (32, 32, 32, 32), last)

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks) -> Float[Tensor, "n k yh xh"]:
        out: Tensor = self.decoder(self.encoder(slices, stacks), stacks)
        return out


class SliceConvLSTM(nn.Module):
    """One layer of a convolutional LSTM that acts in each slice (Shi et al., NeurIPS 2015).

    Args:
        channels_in: Channels of the input.
        hidden: Channels of the state.
    """

    def __init__(self, channels_in: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = SliceConv(channels_in + hidden, 4 * hidden)

    def forward(self, slices: Float[Tensor, "n c y x"], state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return hidden and cell state after a frame from those before it."""
        hidden, cell = state
        gates = self.gates(torch.cat([slices, hidden.to(slices.dtype)], dim=1)).float()
        input_gate, forget_gate, output_gate, candidate = gates.chunk(4, dim=1)
        cell = torch.sigmoid(forget_gate) * cell + torch.sigmoid(input_gate) * torch.tanh(candidate)
        return torch.sigmoid(output_gate) * torch.tanh(cell), cell


def shrink_last_layer(conv: nn.Module) -> None:
    """Multiply the weights of a layer by 0.01, so that the motion which it returns begins near 0."""
    for weight in conv.parameters():
        weight.data.mul_(0.01)


def subpixels(slices: Float[Tensor, "n k4 y x"]) -> Float[Tensor, "n k y2 x2"]:
    """Double the in-plane size by sub-pixel convolution (Shi et al., CVPR 2016)."""
    return functional.pixel_shuffle(slices, 2)


def as_slices(frames: Float[Tensor, "t z y x"]) -> Float[Tensor, "n 1 y x"]:
    """Return all slices of all frames as a batch, in which those of a frame are consecutive."""
    return frames.flatten(0, 1)[:, None].contiguous(memory_format=torch.channels_last)


def warp_slices(slices: Float[Tensor, "n c y x"], motion: Float[Tensor, "n 2 y x"]) -> Float[Tensor, "n c y x"]:
    """Warp every slice with its in-plane displacement in voxels, ``out(p) = slice(p + u(p))``.

    It is :func:`cmnet_core.registration.displacement.warp` in two dimensions: on CPUs, PyTorch's sampling of planes is
    several times as fast as that of volumes.
    """
    points = []
    for axis, size in enumerate(slices.shape[2:]):
        position = torch.arange(size, dtype=motion.dtype, device=motion.device)
        position = position.view(-1, 1) if axis == 0 else position
        points.append((motion[:, axis] + position) * (2.0 / max(size - 1, 1)) - 1.0)
    # grid_sample expects the coordinates in the last axis, in the order x, y.
    grid = torch.stack(points[::-1], dim=-1)
    return functional.grid_sample(slices, grid, padding_mode="border", align_corners=True)


def integrate_slices(velocity: Float[Tensor, "n 2 y x"], *, steps: int) -> Float[Tensor, "n 2 y x"]:
    """Integrate an in-plane stationary velocity over unit time by scaling and squaring."""
    motion = velocity / 2.0**steps
    for _ in range(steps):
        motion = compose_slices(motion, motion)
    return motion


def compose_slices(outer: Float[Tensor, "n 2 y x"], inner: Float[Tensor, "n 2 y x"]) -> Float[Tensor, "n 2 y x"]:
    """Compose two in-plane displacements: ``u(p) = outer(p) + inner(p + outer(p))``."""
    return outer + warp_slices(inner, outer)


def _with_through_plane(motion: Float[Tensor, "n 2 y x"]) -> Float[Tensor, "n 3 y x"]:
    return functional.pad(motion, (0, 0, 0, 0, 1, 0))


def double_motion(motion: Float[Tensor, "n c y x"]) -> Float[Tensor, "n c y2 x2"]:
    """Upsample a displacement to twice the in-plane size, and scale its in-plane components to the smaller voxels."""
    through = motion.shape[1] - 2
    scale = torch.tensor([1.0] * through + [2.0, 2.0], dtype=motion.dtype, device=motion.device)
    return upsample(motion, factor=2) * scale.view(1, -1, 1, 1)


def as_volumes(motion: Float[Tensor, "n 2 y x"], depth: int) -> Float[Tensor, "b 3 z y x"]:
    """Return in-plane displacements of all slices as displacements of stacks of ``depth`` slices."""
    return torch.unflatten(_with_through_plane(motion), 0, (-1, depth)).movedim(1, 2)


def in_stack_order(slices: Float[Tensor, "n c y x"], depth: int) -> Float[Tensor, "t z c y x"]:
    """Return a batch of slices by frame and slice."""
    return torch.unflatten(slices, 0, (-1, depth))
