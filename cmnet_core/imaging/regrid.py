"""Resampling of whole volumes to another voxel spacing, for evaluation protocols that prescribe one."""

import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor

from cmnet_core.imaging.filters import linear_weights
from cmnet_core.types import MotionField, Spacing


def regrid_labels(labels: UInt8[Tensor, "z y x"], spacing: Spacing, target: Spacing) -> UInt8[Tensor, "z2 y2 x2"]:
    """Resample a label map to another spacing by the nearest neighbour; the first voxels' outer faces coincide.

    Args:
        labels: Label map.
        spacing: Its spacing in mm.
        target: The new spacing in mm.
    """
    for axis, (step, new) in enumerate(zip(spacing.zyx, target.zyx, strict=True)):
        nearest = _positions(labels.shape[axis], step, new).round().long()
        labels = labels.index_select(axis, nearest.clamp(0, labels.shape[axis] - 1))
    return labels


def regrid_motion(field: MotionField, target: Spacing) -> MotionField:
    """Resample a displacement field linearly to another spacing; the first voxels' outer faces coincide."""
    displacement: Float[Tensor, "3 z2 y2 x2"] = field.displacement_mm
    for axis, (step, new) in enumerate(zip(field.spacing.zyx, target.zyx, strict=True), start=1):
        voxels = displacement.shape[axis]
        weights = linear_weights(_positions(voxels, step, new), voxels, extend=True).to(displacement)
        displacement = torch.tensordot(weights, displacement.movedim(axis, 0), dims=1).movedim(0, axis)
    return MotionField(displacement, target, fixed=field.fixed, moving=field.moving)


def _positions(voxels: int, step: float, new: float) -> Float64[Tensor, " n"]:
    """Positions of the new voxels in old voxels."""
    count = max(1, round(voxels * step / new))
    return (torch.arange(count, dtype=torch.float64) + 0.5) * new / step - 0.5
