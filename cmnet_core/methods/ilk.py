"""Optical flow by iterative Lucas-Kanade with scikit-image (Le Besnerais and Champagnat, ICIP 2005), slice by slice."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.types import Spacing

RADIUS_MM = 10.5
"""Radius of the window in which the flow is constant, in mm."""

WARPS = 10
"""Number of times that the moving image is warped, at each level of the pyramid."""


def register(
    fixed: Float[Tensor, "z y x"], moving: Float[Tensor, "z y x"], spacing: Spacing
) -> Float[Tensor, "3 z y x"]:
    """Compute the optical flow of each slice; through-plane it is 0.

    Args:
        fixed: Fixed image.
        moving: Moving image.
        spacing: Voxel spacing in mm.
    """
    from skimage.registration import optical_flow_ilk

    displacement = np.zeros((3, *fixed.shape), dtype=np.float32)
    radius = max(1, round(RADIUS_MM / spacing.x))
    for number, (target, source) in enumerate(zip(fixed.cpu().numpy(), moving.cpu().numpy(), strict=True)):
        flow = optical_flow_ilk(target, source, radius=radius, num_warp=WARPS, gaussian=True, prefilter=True)
        displacement[1:, number] = flow * np.array([spacing.y, spacing.x])[:, None, None]
    return torch.from_numpy(displacement)
