"""Gaussian filters and linear interpolation on regular grids, as separable matrices or short kernels.

Each in-plane filter is a matrix per axis: on a CPU a matrix product is the fastest convolution of planes this small.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional


def apply_in_plane(
    values: Float[Tensor, "*n y x"], rows: Float64[Tensor, "out_y y"], columns: Float64[Tensor, "out_x x"]
) -> Float[Tensor, "*n out_y out_x"]:
    """Apply one matrix along y and one along x.

    Args:
        values: Planes to filter or resample.
        rows: Matrix along y.
        columns: Matrix along x.
    """
    return rows.to(values) @ (values @ columns.to(values).T)


def linear_weights(
    positions: Float64[Tensor, " target"], voxels: int, *, extend: bool
) -> Float64[Tensor, "target source"]:
    """Linear interpolation along one axis as a matrix.

    The outer half of a border voxel has the value of that voxel.

    Args:
        positions: Positions to interpolate at, in voxels of the source axis.
        voxels: Number of voxels of the source axis.
        extend: Whether the border value is replicated beyond the border; if not, the weights there are zero.
    """
    inside = (positions >= -0.5) & (positions <= voxels - 0.5)
    clamped = positions.clamp(0, voxels - 1)
    weights = (1 - (clamped[:, None] - torch.arange(voxels, dtype=torch.float64)).abs()).clamp_min(0)
    return weights if extend else weights * inside[:, None]


def linear_neighbours(positions: Any, voxels: int) -> tuple[Any, Any, Any]:
    """Linear interpolation along one axis as two neighbours and a weight; the border value is replicated.

    Args:
        positions: Positions to interpolate at, in voxels; a number or an array.
        voxels: Number of voxels of the axis.

    Returns:
        Index of the voxel below each position, index of the voxel above, and the weight of the latter.
    """
    clamped = np.clip(positions, 0.0, voxels - 1.0)
    below = np.floor(clamped).astype(int)
    return below, np.minimum(below + 1, voxels - 1), clamped - below


def renormalised_gaussian(voxels: int, step_mm: float, sd_mm: float) -> Float64[Tensor, "n n"]:
    """Gaussian smoothing along one axis as a matrix, renormalised at the border.

    Args:
        voxels: Number of voxels of the axis.
        step_mm: Distance between voxels in mm.
        sd_mm: Standard deviation of the Gaussian in mm.
    """
    position_mm = torch.arange(voxels, dtype=torch.float64) * step_mm
    weights = torch.exp(-0.5 * ((position_mm[:, None] - position_mm[None]) / sd_mm) ** 2)
    return weights / weights.sum(1, keepdim=True)


def unit_variance_gaussian(voxels: int, step_mm: float, length_mm: float) -> Float[Tensor, "n n"]:
    """Matrix that turns white noise into noise of unit variance with correlation exp(−d² / 2L²) along one axis.

    Args:
        voxels: Number of voxels of the axis.
        step_mm: Distance between voxels in mm.
        length_mm: Correlation length L in mm.
    """
    position_mm = torch.arange(voxels) * step_mm
    weights = torch.exp(-(((position_mm[:, None] - position_mm[None]) / length_mm) ** 2))
    rows: Tensor = weights / weights.norm(dim=1, keepdim=True)
    return rows


def smooth_in_plane(maps: Float[Tensor, "n c y x"], sd: float) -> Float[Tensor, "n c y x"]:
    """Smooth in-plane by a Gaussian truncated at three standard deviations; the border value is replicated.

    Args:
        maps: Planes to smooth.
        sd: Standard deviation of the Gaussian in voxels.
    """
    along_y, along_x = (_replicated_gaussian(int(size), sd).to(maps.device) for size in maps.shape[2:])
    return along_y @ maps @ along_x.T


@cache
def _replicated_gaussian(voxels: int, sd: float) -> Float[Tensor, "n n"]:
    radius = round(3.0 * sd)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets / sd).square())
    sources = (torch.arange(voxels)[:, None] + offsets).clamp(0, voxels - 1)
    return torch.zeros(voxels, voxels).scatter_add_(1, sources, (kernel / kernel.sum()).expand(voxels, -1))


def blur_in_plane(voxels: Float[Tensor, "t z y x"], sd: float) -> Float[Tensor, "t z y x"]:
    """Blur in-plane by a Gaussian kernel of five voxels; the border value is replicated.

    Args:
        voxels: A cine.
        sd: Standard deviation of the Gaussian in voxels, at most about 1.
    """
    offsets = torch.arange(-2, 3, dtype=torch.float32)
    weights = torch.exp(-0.5 * (offsets / sd) ** 2)
    weights = weights / weights.sum()
    planes = voxels.flatten(0, 1)[:, None]
    planes = functional.conv2d(functional.pad(planes, (0, 0, 2, 2), mode="replicate"), weights.view(1, 1, 5, 1))
    planes = functional.conv2d(functional.pad(planes, (2, 2, 0, 0), mode="replicate"), weights.view(1, 1, 1, 5))
    return planes[:, 0].view_as(voxels)
