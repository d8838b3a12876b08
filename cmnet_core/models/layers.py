"""Layers for stacks with any number of slices.

A batch is ragged: the slices of all its stacks are concatenated along the first axis, ``[n c y x]``, and
:class:`Stacks` holds the number of slices of each stack. Nothing is padded, so the result of a stack does not depend on
the other stacks of the batch. A 3×3×3 convolution is computed as the sum of three two-dimensional ones, of a slice and
of its two neighbours; on CPUs, in float32, this is up to ten times as fast as a three-dimensional convolution.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

LEAKY_SLOPE = 0.2
"""Slope of the activation for negative values."""


@dataclass(frozen=True, slots=True)
class Stacks:
    """The stacks to which the slices of a ragged batch belong.

    Attributes:
        depths: Number of slices of each stack.
    """

    depths: tuple[int, ...]

    def volumes(self, slices: Float[Tensor, "n c y x"]) -> list[Float[Tensor, "1 c _ y x"]]:
        """Split a ragged batch into one volume per stack."""
        return [stack.movedim(0, 1)[None] for stack in torch.split(slices, list(self.depths))]

    def slices(self, volumes: list[Float[Tensor, "1 c _ y x"]]) -> Float[Tensor, "n c y x"]:
        """Concatenate volumes to a ragged batch; the inverse of :meth:`volumes`."""
        return torch.cat([volume[0].movedim(1, 0) for volume in volumes])

    def spans(self) -> list[tuple[int, int]]:
        """Return the index of the first slice, and of the one after the last, of each stack."""
        ends = [sum(self.depths[: index + 1]) for index in range(len(self.depths))]
        return [(end - depth, end) for end, depth in zip(ends, self.depths, strict=True)]


class _SumOfNeighbours(torch.autograd.Function):
    """Computes ``out[z] = before[z − 1] + here[z] + after[z + 1]`` within each stack, without padding."""

    @staticmethod
    def forward(ctx: Any, before: Tensor, here: Tensor, after: Tensor, spans: list[tuple[int, int]]) -> Tensor:
        ctx.spans = spans
        out = here.clone()
        for first, end in spans:
            out[first + 1 : end] += before[first : end - 1]
            out[first : end - 1] += after[first + 1 : end]
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        here = gradients[0].contiguous(memory_format=torch.channels_last)
        before, after = torch.zeros_like(here), torch.zeros_like(here)
        for first, end in ctx.spans:
            before[first : end - 1] = here[first + 1 : end]
            after[first + 1 : end] = here[first : end - 1]
        return before, here, after, None


def sum_of_neighbours(terms: list[Tensor], stacks: Stacks) -> Tensor:
    """Return ``terms[0][z − 1] + terms[1][z] + terms[2][z + 1]`` within each stack, which is not padded."""
    out: Tensor = _SumOfNeighbours.apply(*terms, stacks.spans())  # type: ignore[no-untyped-call]
    return out


class StackConv(nn.Module):
    """A zero-padded 3×3×3 convolution with stride 1 through-plane and ``stride`` in-plane.

    ``weight[0]`` acts on the slice before, ``weight[1]`` on the slice itself, and ``weight[2]`` on the slice after.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(3, channels_out, channels_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        _initialise(self.weight, inputs=27 * channels_in)

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks) -> Float[Tensor, "n k yo xo"]:
        terms = [
            functional.conv2d(slices, _channels_last(weight), bias, stride=self.stride, padding=1)
            for weight, bias in zip(self.weight, (None, self.bias, None), strict=True)
        ]
        return sum_of_neighbours(terms, stacks)


class StackUpConv(nn.Module):
    """A 3×3×3 transposed convolution that doubles the in-plane size; ``weight`` is as in :class:`StackConv`."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, channels_in, channels_out, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        _initialise(self.weight, inputs=27 * channels_in // 4)

    def forward(self, slices: Float[Tensor, "n c y x"], stacks: Stacks) -> Float[Tensor, "n k yo xo"]:
        terms = [
            functional.conv_transpose2d(slices, _channels_last(weight), bias, stride=2, padding=1, output_padding=1)
            for weight, bias in zip(self.weight, (None, self.bias, None), strict=True)
        ]
        return sum_of_neighbours(terms, stacks)


def _channels_last(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def _initialise(weight: Tensor, *, inputs: int) -> None:
    """He initialisation for the leaky activation (He et al., ICCV 2015)."""
    nn.init.normal_(weight, std=math.sqrt(2.0 / ((1.0 + LEAKY_SLOPE**2) * inputs)))


class StackConvLSTM(nn.Module):
    """One layer of a convolutional LSTM without peephole connections (Shi et al., NeurIPS 2015)."""

    def __init__(self, channels_in: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = StackConv(channels_in + hidden, 4 * hidden)

    def forward(
        self, slices: Float[Tensor, "n c y x"], state: tuple[Tensor, Tensor], stacks: Stacks
    ) -> tuple[Tensor, Tensor]:
        """Update the state by one frame.

        Args:
            slices: The input of this frame.
            state: Hidden and cell state after the previous frame, each ``[n hidden y x]``.
            stacks: The stacks to which the slices belong.

        Returns:
            Hidden and cell state after this frame.
        """
        hidden, cell = state
        gates = self.gates(torch.cat([slices, hidden.to(slices.dtype)], dim=1), stacks).float()
        input_gate, forget_gate, output_gate, candidate = gates.chunk(4, dim=1)
        cell = torch.sigmoid(forget_gate) * cell + torch.sigmoid(input_gate) * torch.tanh(candidate)
        return torch.sigmoid(output_gate) * torch.tanh(cell), cell


def leaky_relu(slices: Tensor) -> Tensor:
    """Apply LeakyReLU(0.2), the activation of all networks."""
    return functional.leaky_relu(slices, LEAKY_SLOPE)


def upsample(slices: Float[Tensor, "n c y x"], *, factor: int) -> Float[Tensor, "n c yo xo"]:
    """Upsample slices in-plane by bilinear interpolation with aligned voxel edges."""
    if factor == 1:
        return slices
    return functional.interpolate(slices, scale_factor=factor, mode="bilinear", align_corners=False)


def upsample_displacement(displacement: Float[Tensor, "1 3 z y x"], *, factor: int) -> Float[Tensor, "1 3 z yo xo"]:
    """Upsample a displacement in-plane and scale its in-plane components to the smaller voxels."""
    slices = upsample(displacement[0].movedim(1, 0), factor=factor)
    voxels = torch.tensor([1.0, factor, factor], dtype=slices.dtype, device=slices.device).view(1, 3, 1, 1)
    return (slices * voxels).movedim(0, 1)[None]
