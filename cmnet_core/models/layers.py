"""Layers that act on stacks of slices of any depth.

A batch is ragged: the slices of all its stacks lie one after the other in the first axis, ``[n c y x]``, and a
:class:`Stacks` says where each stack begins. Nothing is padded, so a stack's result cannot depend on its company,
and a 3×3×3 convolution becomes a planar one over a slice and its two neighbours, which CPUs run several times faster.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

LEAK = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Stacks:
    """Where the stacks of a ragged batch begin and end.

    Attributes:
        depths: Number of slices of each stack.
        below: 1 where a slice has a neighbour before it in its own stack, else 0.
        above: 1 where a slice has a neighbour after it in its own stack, else 0.
    """

    depths: tuple[int, ...]
    below: Float[Tensor, "n 1 1 1"]
    above: Float[Tensor, "n 1 1 1"]

    @staticmethod
    def of(depths: tuple[int, ...], *, device: torch.device) -> "Stacks":
        """Describe a batch of stacks with these depths."""
        ends = torch.tensor(depths, device=device).cumsum(0)
        below = torch.ones(int(ends[-1]), device=device)
        above = below.clone()
        above[ends - 1] = 0.0
        below[ends[:-1]] = 0.0
        below[0] = 0.0
        return Stacks(depths, below.view(-1, 1, 1, 1), above.view(-1, 1, 1, 1))

    def volumes(self, slices: Float[Tensor, "n c y x"]) -> list[Float[Tensor, "1 c z y x"]]:
        """Cut a ragged batch into one volume a stack."""
        return [part.movedim(0, 1)[None] for part in slices.split(self.depths)]

    def slices(self, volumes: list[Float[Tensor, "1 c z y x"]]) -> Float[Tensor, "n c y x"]:
        """Undo :meth:`volumes`."""
        return torch.cat([volume[0].movedim(1, 0) for volume in volumes])


def with_neighbours(slices: Float[Tensor, "n c y x"], stacks: Stacks) -> Float[Tensor, "n c3 y x"]:
    """Each slice with the one before and the one after it, zero beyond the ends of its stack."""
    below = torch.cat([slices[:1], slices[:-1]]) * stacks.below.to(slices.dtype)
    above = torch.cat([slices[1:], slices[-1:]]) * stacks.above.to(slices.dtype)
    return torch.cat([below, slices, above], dim=1)


class StackConv(nn.Module):
    """A 3×3×3 convolution with stride 1 along depth and ``stride`` in the plane, zero-padded."""

    def __init__(self, channels_in: int, channels_out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.planar = nn.Conv2d(3 * channels_in, channels_out, kernel_size=3, stride=stride, padding=1)

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks) -> Float[Tensor, "n k yo xo"]:
        out: Tensor = self.planar(with_neighbours(slices, stacks))
        return out


class StackUpConv(nn.Module):
    """A 3×3×3 transposed convolution that doubles the plane and keeps the depth."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.planar = nn.ConvTranspose2d(
            3 * channels_in, channels_out, kernel_size=3, stride=2, padding=1, output_padding=1
        )

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks) -> Float[Tensor, "n k yo xo"]:
        out: Tensor = self.planar(with_neighbours(slices, stacks))
        return out


class StackConvLSTM(nn.Module):
    """One layer of a convolutional LSTM (Shi et al., NeurIPS 2015) without peepholes."""

    def __init__(self, channels_in: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = StackConv(channels_in + hidden, 4 * hidden)

    def forward(
        self, slices: Float[Tensor, "n c y x"], state: tuple[Tensor, Tensor], stacks: Stacks
    ) -> tuple[Tensor, Tensor]:
        """Advance by one frame.

        Args:
            slices: The input of this frame.
            state: Hidden and cell state of the frame before, each ``[n hidden y x]``.
            stacks: Where the stacks begin.

        Returns:
            Hidden and cell state of this frame.
        """
        hidden, cell = state
        gates = self.gates(torch.cat([slices, hidden.to(slices.dtype)], dim=1), stacks).float()
        take, keep, show, candidate = gates.chunk(4, dim=1)
        cell = torch.sigmoid(keep) * cell + torch.sigmoid(take) * torch.tanh(candidate)
        return torch.sigmoid(show) * torch.tanh(cell), cell


def leaky(slices: Tensor) -> Tensor:
    """The activation of every network of the method, LeakyReLU(0.2)."""
    return functional.leaky_relu(slices, LEAK)


def enlarge(slices: Float[Tensor, "n c y x"], *, factor: int) -> Float[Tensor, "n c yo xo"]:
    """Enlarge the plane linearly; voxel edges, not centres, stay aligned."""
    if factor == 1:
        return slices
    return functional.interpolate(slices, scale_factor=factor, mode="bilinear", align_corners=False)
