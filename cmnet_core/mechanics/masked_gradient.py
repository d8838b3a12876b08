"""Spatial derivatives within a thin wall, from the values of its own voxels only.

At the edge of a wall that is four voxels thick, a finite difference takes half of its values from blood or lung. Here a
polynomial is fitted to the values around every voxel of a mask, with weights that fall with distance and are 0 outside
the mask; the derivative is that of the polynomial. It is a normalised convolution with a polynomial basis (Knutsson and
Westin, CVPR 1993; Savitzky and Golay, Anal. Chem. 36, 1964): centred where there are neighbours on both sides,
one-sided of the same order at the edge, and exact for in-plane cubics.

The weights depend on the mask only, so all frames and all draws of a motion share one sparse matrix.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy import sparse
from torch import Tensor

from cmnet_core.types import Spacing

_IN_PLANE_VOXELS, _THROUGH_SLICES = 3, 2
_SIGMA_VOXELS = 1.5
_SLICE_WEIGHT = 0.5  # weight of a slice relative to the next nearer one
_MAX_SQUARED_DISTANCE = 11.7  # in voxels; leaves out the corners of the 7 x 7 window
_RIDGE = 1e-4
# Powers of (z, y, x) in the basis: cubic in-plane. Slices are too far apart for more than squares through-plane, but
# the in-plane terms may change from slice to slice, because walls taper and twist.
_POWERS = (
    *((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)),
    *((0, 2, 0), (0, 1, 1), (0, 0, 2), (0, 3, 0), (0, 2, 1), (0, 1, 2), (0, 0, 3)),
    *((1, 1, 0), (1, 0, 1), (1, 2, 0), (1, 1, 1), (1, 0, 2), (2, 0, 0), (2, 1, 0), (2, 0, 1)),
)


@dataclass(frozen=True, slots=True, eq=False)
class GradientOperator:
    """Derivatives along z, y and x of values on the voxels of a mask.

    Attributes:
        along: Three sparse matrices ``[n n]`` in 1/mm, one for each axis of the grid; row and column *k* belong to the
            *k*-th voxel of ``mask.nonzero()``.
        has_through_plane: Whether a voxel has neighbours in another slice. Without them its derivative along z is 0.
    """

    along: tuple[Any, Any, Any]
    has_through_plane: Bool[Tensor, " n"]

    def deformation_gradient(self, displacement_mm: Float[Tensor, "t n 3"]) -> Float[Tensor, "t n 3 3"]:
        """Compute the deformation gradient of every voxel in every frame, ``F[i, j] = δ_ij + ∂u_i/∂X_j``.

        Args:
            displacement_mm: Displacement of every voxel in every frame in mm.
        """
        frames, count, _ = displacement_mm.shape
        values = displacement_mm.double().movedim(1, 0).reshape(count, 3 * frames).numpy()
        derivatives = torch.stack([torch.from_numpy(matrix @ values) for matrix in self.along])
        gradient: Tensor = derivatives.view(3, count, frames, 3).permute(2, 1, 3, 0) + torch.eye(3, dtype=torch.float64)
        return gradient


def gradient_operator(mask: Bool[Tensor, "z y x"], spacing: Spacing) -> GradientOperator:
    """Build the operator of a mask; where too few voxels determine a derivative, it tends to 0.

    Args:
        mask: Voxels on which values are given and derivatives are wanted.
        spacing: Voxel spacing in mm.
    """
    offsets = _offsets()
    neighbours = _neighbours(mask, offsets)
    powers = torch.tensor(_POWERS, dtype=torch.float64)
    basis = (offsets.double()[:, None] ** powers).prod(-1)
    weights = (neighbours >= 0).double() * _weights(offsets)
    # The ridge leaves out the constant and is weak on the linear terms, which are the derivatives.
    ridge = torch.diag(_RIDGE * torch.tensor([0.0, *[1e-4] * 3, *[1.0] * (len(powers) - 4)], dtype=torch.float64))
    products = (basis[:, :, None] * basis[:, None, :]).flatten(1)
    normal = (weights @ products).view(-1, len(powers), len(powers)) + ridge
    wanted = torch.eye(len(powers), dtype=torch.float64)[:, 1:4].expand(len(normal), -1, -1)
    taps = torch.einsum("kp,npr->nrk", basis, torch.linalg.solve(normal, wanted)) * weights[:, None]
    taps = taps / torch.tensor(spacing.zyx, dtype=torch.float64)[:, None]
    has_through_plane = ((neighbours >= 0) & (offsets[:, 0] != 0)).any(1)
    return GradientOperator(_sparse(taps, neighbours), has_through_plane)


def _offsets() -> Int64[Tensor, "k 3"]:
    in_plane = torch.arange(-_IN_PLANE_VOXELS, _IN_PLANE_VOXELS + 1)
    through_plane = torch.arange(-_THROUGH_SLICES, _THROUGH_SLICES + 1)
    every = torch.cartesian_prod(through_plane, in_plane, in_plane)
    return every[every[:, 1:].square().sum(1) <= _MAX_SQUARED_DISTANCE]


def _weights(offsets: Int64[Tensor, "k 3"]) -> Float[Tensor, " k"]:
    in_plane = torch.exp(-0.5 * offsets[:, 1:].double().square().sum(1) / _SIGMA_VOXELS**2)
    return in_plane * _SLICE_WEIGHT ** offsets[:, 0].abs().double()


def _neighbours(mask: Bool[Tensor, "z y x"], offsets: Int64[Tensor, "k 3"]) -> Int64[Tensor, "n k"]:
    """Index of the mask's voxel at each offset from each of its voxels, -1 where there is none."""
    margin = torch.tensor([_THROUGH_SLICES, _IN_PLANE_VOXELS, _IN_PLANE_VOXELS])
    depth, rows, columns = (torch.tensor(mask.shape) + 2 * margin).tolist()
    voxels = mask.nonzero() + margin
    index = torch.full((depth, rows, columns), -1)
    index[tuple(voxels.T)] = torch.arange(len(voxels))
    stride = torch.tensor([rows * columns, columns, 1])
    at: Tensor = (voxels @ stride)[:, None] + offsets @ stride
    return index.flatten()[at]


def _sparse(taps: Float[Tensor, "n 3 k"], neighbours: Int64[Tensor, "n k"]) -> tuple[Any, Any, Any]:
    """Filter taps as matrices over the voxels, without the taps outside the mask."""
    count, exists = len(neighbours), neighbours >= 0
    columns = neighbours[exists].numpy()
    ends = np.concatenate([[0], exists.sum(1).cumsum(0).numpy()])
    z, y, x = (sparse.csr_array((part[exists].numpy(), columns, ends), shape=(count, count)) for part in taps.unbind(1))
    return z, y, x
