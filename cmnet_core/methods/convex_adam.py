"""ConvexAdam by its authors' package: discrete convex optimisation, then Adam.

Siebert et al., IEEE TMI 44 (2025) 738.
"""

import warnings

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.methods.thin_stacks import pad_slices
from cmnet_core.types import Spacing

GRID_VOXELS = 4
"""Distance of the control points of the discrete search, in voxels; it finds displacements up to four times as long."""


def register(
    fixed: Float[Tensor, "z y x"], moving: Float[Tensor, "z y x"], spacing: Spacing
) -> Float[Tensor, "3 z y x"]:
    """Register two images.

    Args:
        fixed: Fixed image.
        moving: Moving image.
        spacing: Voxel spacing in mm.
    """
    # The package changes the filters of warnings of the whole process when it is imported, and relies on a default of
    # PyTorch about which PyTorch warns.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from convexAdam.convex_adam_MIND import convex_adam_pt

        (target, own), (source, _) = pad_slices(fixed), pad_slices(moving)
        voxels = convex_adam_pt(target, source, grid_sp=GRID_VOXELS, dtype=torch.float32)
    displacement = np.moveaxis(voxels, -1, 0)[:, own] * np.array(spacing.zyx)[:, None, None, None]
    return torch.from_numpy(np.ascontiguousarray(displacement, dtype=np.float32))
