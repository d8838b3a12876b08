"""Stacks of few slices for libraries whose pyramids halve every axis."""

import torch
from jaxtyping import Float
from torch import Tensor

LEAST_SLICES = 16
"""Number of slices that a pyramid of three levels, and the filters at its coarsest one, can take."""


def pad_slices(image: Float[Tensor, "z y x"]) -> tuple[Float[Tensor, "z2 y x"], slice]:
    """Repeat the first and the last slice until there are :data:`LEAST_SLICES`.

    Returns:
        The padded stack, and the range of its own slices in it.
    """
    slices = image.shape[0]
    missing = max(0, LEAST_SLICES - slices)
    first = missing // 2
    index = (torch.arange(slices + missing) - first).clamp(0, slices - 1)
    return image[index], slice(first, first + slices)
