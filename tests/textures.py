"""Random slices, and textures whose motion can be tracked."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def texture(depth: int, size: int, *, seed: int) -> Float[Tensor, "z 1 y x"]:
    """Return slices of blobs about 10 mm wide that continue over slices, at the contrast of a normalised image."""
    noise = torch.randn(1, 1, depth // 2, size // 6, size // 6, generator=torch.Generator().manual_seed(seed))
    blobs = functional.interpolate(noise, (depth, size, size), mode="trilinear", align_corners=False)
    return blobs[0].movedim(0, 1) / blobs.std()


def random_slices(channels: int, *, depths: tuple[int, ...], size: int, seed: int) -> Float[Tensor, "n c y x"]:
    """Return a ragged batch of slices of white noise."""
    return torch.randn(sum(depths), channels, size, size, generator=torch.Generator().manual_seed(seed))
