"""Warping of label maps by the nearest neighbour, for evaluation protocols that prescribe it."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from cmnet_core.registration.displacement import identity_grid, to_voxels
from cmnet_core.types import MotionField


def warp_labels_nearest(labels: UInt8[Tensor, "z y x"], field: MotionField) -> UInt8[Tensor, "z y x"]:
    """Warp a label map from the field's moving frame to its fixed frame; the border value is replicated.

    Args:
        labels: Label map of the moving frame, on the grid of the field.
        field: Displacement field.
    """
    displacement = to_voxels(field)[0]
    shape = (labels.shape[0], labels.shape[1], labels.shape[2])
    points = (identity_grid(shape, displacement) + displacement).round().long()
    z, y, x = (axis.clamp(0, size - 1) for axis, size in zip(points, shape, strict=True))
    warped: Tensor = labels[z, y, x]
    return warped.to(torch.uint8)
