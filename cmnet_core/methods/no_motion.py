"""No motion: every displacement is 0. A method that is not better than this one has found nothing."""

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.types import Spacing


def register(
    fixed: Float[Tensor, "z y x"], moving: Float[Tensor, "z y x"], spacing: Spacing
) -> Float[Tensor, "3 z y x"]:
    """Return a displacement of 0 everywhere."""
    del moving, spacing
    return torch.zeros(3, *fixed.shape)
