"""Greedy diffeomorphic registration by picsl-greedy (Yushkevich et al., Alzheimer's & Dementia 12 (2016) P126)."""

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.methods.simpleitk_demons import from_simpleitk, to_simpleitk
from cmnet_core.methods.thin_stacks import pad_slices
from cmnet_core.types import Spacing

OPTIONS = "-m NCC 4x4x1 -n 100x50x25 -s 1.7vox 0.7vox"
"""Local cross-correlation in windows of 9 × 9 × 3 voxels; iterations of each level; smoothing of update and field.

The smoothing is greedy's default. In mm it would not reach the next slice, and through-plane motion would be invented.
"""


def register(
    fixed: Float[Tensor, "z y x"], moving: Float[Tensor, "z y x"], spacing: Spacing
) -> Float[Tensor, "3 z y x"]:
    """Register two images.

    Args:
        fixed: Fixed image.
        moving: Moving image.
        spacing: Voxel spacing in mm.
    """
    from picsl_greedy import Greedy3D

    (target, own), (source, _) = pad_slices(fixed), pad_slices(moving)
    greedy = Greedy3D()
    greedy.execute(
        f"-i fixed moving {OPTIONS} -threads {torch.get_num_threads()} -o warp -V 0",
        fixed=to_simpleitk(target, spacing),
        moving=to_simpleitk(source, spacing),
        warp=None,
    )
    return from_simpleitk(greedy["warp"])[:, own]
