"""Layers on ragged stacks of slices, compared with PyTorch's three-dimensional convolutions."""

import pytest
import torch
from torch import Tensor, nn

from cmnet_core.models.layers import StackConv, Stacks, StackUpConv
from tests.textures import random_slices

DEPTHS = (3, 1, 4)


def stack_by_stack(reference: nn.Module, slices: Tensor, stacks: Stacks) -> Tensor:
    return stacks.slices([reference(volume) for volume in stacks.volumes(slices)])


@pytest.mark.parametrize("stride", [1, 2])
def test_stack_convolution_equals_conv3d(stride: int) -> None:
    layer = StackConv(4, 5, stride=stride).double()
    reference = nn.Conv3d(4, 5, 3, padding=1, stride=(1, stride, stride)).double()
    reference.weight.data = layer.weight.data.movedim(0, 2).clone()
    reference.bias = layer.bias
    slices, stacks = random_slices(4, depths=DEPTHS, size=6, seed=1).double(), Stacks(DEPTHS)
    torch.testing.assert_close(layer(slices, stacks), stack_by_stack(reference, slices, stacks))


def test_stack_up_convolution_equals_conv_transpose3d() -> None:
    layer = StackUpConv(4, 5).double()
    reference = nn.ConvTranspose3d(4, 5, 3, stride=(1, 2, 2), padding=1, output_padding=(0, 1, 1), dtype=torch.float64)
    # A transposed convolution scatters: the first through-plane tap writes to the slice before its input.
    reference.weight.data = layer.weight.data.flip(0).movedim(0, 2).clone()
    reference.bias = layer.bias
    slices, stacks = random_slices(4, depths=DEPTHS, size=3, seed=2).double(), Stacks(DEPTHS)
    torch.testing.assert_close(layer(slices, stacks), stack_by_stack(reference, slices, stacks))


def test_stack_convolution_has_correct_gradients() -> None:
    layer = StackConv(2, 2).double()
    slices = random_slices(2, depths=DEPTHS, size=3, seed=3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda values: layer(values, Stacks(DEPTHS)), (slices,))
