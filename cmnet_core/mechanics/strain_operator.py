"""Strain of many motions of one wall: everything linear in the displacement is one sparse matrix, built once.

Stretches along the LV's directions and positions of contour points are linear in the displacement. Velocities are
coarser than the label map, so the displacement is followed at the grid points of the velocities around the wall alone,
and interpolated to the voxels of the wall within the matrix. A motion then costs a tenth of
:func:`~cmnet_core.mechanics.lagrangian.follow_material`, :func:`~cmnet_core.mechanics.strain.deform` and
:func:`~cmnet_core.mechanics.line_strain.line_strain`, which suits samples of a posterior.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from cmnet_core.imaging.filters import linear_neighbours
from cmnet_core.mechanics.lagrangian import flow_points
from cmnet_core.mechanics.line_strain import LineStrain, closed_rings, contour_points, line_strain_of, nearest_voxels
from cmnet_core.mechanics.strain import Direction, RegionalStrain, WallVoxels, engineering_strain, mean_strain
from cmnet_core.types import Spacing

MEASURED = (Direction.RADIAL, Direction.CIRCUMFERENTIAL)
"""Directions whose strain is computed; the longitudinal one is NaN."""

_PATH_STEPS = 1
"""Midpoint steps of a path: more of them change a sample by a twentieth of the spread over samples."""


@dataclass(frozen=True, slots=True, eq=False)
class WallStrains:
    """Strain of the wall by one motion, in every frame.

    Attributes:
        green: Green-Lagrange strain; longitudinal: NaN.
        engineering: Engineering strain of the wall; longitudinal: NaN.
        lines: Change of length of the contours.
    """

    green: RegionalStrain
    engineering: RegionalStrain
    lines: LineStrain


@dataclass(frozen=True, slots=True, eq=False)
class StrainOperator:
    """The linear part of the strain of a wall, from displacements at grid points of the velocities.

    Attributes:
        wall: Voxels of the wall at ED.
        nodes: Position (z, y, x) of the *m* grid points around the wall, in voxels of the velocities' grid.
        size_mm: Voxel size of that grid in mm.
        matrix: Sparse matrix ``[2n + k, m]`` whose product with displacements is the change of the direction vectors of
            the *n* voxels of the wall, radial first, and then the displacement of the *k* points of the contours.
        directions: Direction vectors at ED in the same order.
        points_mm: Points of the contours at ED in mm.
    """

    wall: WallVoxels
    nodes: Float[Tensor, "m 3"]
    size_mm: Float[Tensor, "3"]
    matrix: Any
    directions: Float[Tensor, "n2 3"]
    points_mm: Float[Tensor, "k 3"]

    def strains(self, velocities: Float[Tensor, "t 3 z yh xh"], *, ed: int) -> WallStrains:
        """Compute the strain by stationary velocities that point from each frame into ED.

        Args:
            velocities: Velocities of the frames from the one after ED on, the last that of ED itself, in voxels of
                their grid.
            ed: End-diastolic frame.
        """
        frames, count = len(velocities), len(self.directions)
        moved = flow_points(velocities[:-1], self.nodes, path_steps=_PATH_STEPS) * self.size_mm
        moved = torch.cat([moved, torch.zeros_like(moved[:1])]).roll(ed + 1, dims=0)
        columns = moved.permute(1, 2, 0).reshape(len(self.nodes), 3 * frames)
        product = torch.from_numpy(self.matrix @ columns.numpy()).view(-1, 3, frames)
        length = (product[:count] + self.directions[:, :, None]).square().sum(1)
        green = torch.full((3, frames, count // 2), torch.nan)
        green[: len(MEASURED)] = (0.5 * (length - 1.0)).view(2, -1, frames).movedim(2, 1)
        lines = (product[count:] + self.points_mm[:, :, None]).movedim(2, 0)
        return WallStrains(
            mean_strain(self.wall, green),
            mean_strain(self.wall, engineering_strain(green)),
            line_strain_of(lines, ed=ed),
        )


def strain_operator(
    wall: WallVoxels, mask: Bool[Tensor, "z y x"], spacing: Spacing, *, size: tuple[int, int]
) -> StrainOperator:
    """Build the operator of a wall.

    Args:
        wall: Voxels of the wall at ED.
        mask: The mask whose voxels they are, in the part of the window that the velocities cover.
        spacing: Voxel spacing of the mask in mm.
        size: Rows and columns of the velocities' grid, whose voxels are whole multiples of those of the mask.
    """
    interpolation, nodes = _interpolation(mask, size)
    gradient = [matrix @ interpolation for matrix in wall.gradient.along]
    directions = wall.directions[:, list(MEASURED)].movedim(1, 0).reshape(-1, 3)
    stretch = [
        sum(sparse.diags_array(wall.directions[:, d, axis].numpy()) @ gradient[axis] for axis in range(3))
        for d in MEASURED
    ]
    points, displaced = _contours(wall, interpolation, gradient)
    factor = [1.0, *(mask.shape[axis + 1] / size[axis] for axis in (0, 1))]
    return StrainOperator(
        wall=wall,
        nodes=torch.from_numpy(nodes).float(),
        size_mm=torch.tensor([mm * scale for mm, scale in zip(spacing.zyx, factor, strict=True)]),
        matrix=sparse.vstack([*stretch, *displaced], format="csr").astype(np.float32),
        directions=directions.float(),
        points_mm=points.float(),
    )


def _interpolation(mask: Bool[Tensor, "z y x"], size: tuple[int, int]) -> tuple[Any, NDArray[np.int64]]:
    """The matrix that interpolates the mask's voxels from grid points of the velocities, and these grid points."""
    z, *in_plane = mask.nonzero().numpy().T
    # Both grids have the same outer edges, so that their voxel centres differ by a fraction of a voxel.
    positions = [
        (index + 0.5) * count / voxels - 0.5
        for index, count, voxels in zip(in_plane, size, mask.shape[1:], strict=True)
    ]
    (top, bottom, down), (left, right, along) = (
        linear_neighbours(position, count) for position, count in zip(positions, size, strict=True)
    )
    corners = [
        (row, column, weight_y * weight_x)
        for row, weight_y in ((top, 1.0 - down), (bottom, down))
        for column, weight_x in ((left, 1.0 - along), (right, along))
    ]
    shape = (len(mask), *size)
    flat = np.stack([np.ravel_multi_index((z, row, column), shape) for row, column, _ in corners])
    nodes, index = np.unique(flat, return_inverse=True)
    weights = np.concatenate([weight for _, _, weight in corners])
    voxels = np.tile(np.arange(len(z)), len(corners))
    matrix = sparse.coo_array((weights, (voxels, index.ravel())), shape=(len(z), len(nodes))).tocsr()
    return matrix, np.stack(np.unravel_index(nodes, shape), axis=1)


def _contours(wall: WallVoxels, interpolation: Any, gradient: list[Any]) -> tuple[Float[Tensor, "k 3"], list[Any]]:
    """The contours' points, and the matrices of their displacements, extrapolated from the nearest voxel each."""
    points, matrices = [torch.zeros(0, 3, dtype=torch.float64)], []
    for ring in closed_rings(wall):
        at = contour_points(wall, ring)
        positions = wall.position_mm[ring]
        nearest = nearest_voxels(at, positions)
        chosen = ring.nonzero()[:, 0][nearest].numpy()
        offset = (at - positions[nearest]).numpy()
        along = (sparse.diags_array(offset[:, axis]) @ gradient[axis][chosen] for axis in range(3))
        matrices.append(sum(along, start=interpolation[chosen]))
        points.append(at)
    return torch.cat(points), matrices
