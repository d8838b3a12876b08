"""The standard orientation of a short-axis stack in the body, in which the networks see every heart.

The same heart can be stored with any order of its slices, rows and columns, and the affine says which. In the standard
orientation slices run from base to apex, columns from the septum to the lateral wall, and rows from the anterior to the
inferior wall: the usual display, in which the right ventricle is on the left of the viewer.
"""

import itertools
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

from cmnet_core.flags import QCFlag
from cmnet_core.types import CineSequence, Spacing

APEX_FROM_BASE_RAS = (-(3.0**-0.5), 3.0**-0.5, -(3.0**-0.5))
"""Unit vector of the long axis of a heart in its usual position: left, anterior and inferior."""

SHORT_AXIS_COSINE = 0.7
"""Least cosine of the angle between a stack's normal and this axis: those of short-axis stacks are within 30 degrees of
it, and the axes of the body 55 degrees away from it."""

_LATERAL_FROM_SEPTUM_RAS = (-0.7, -0.7, 0.0)
_INFERIOR_FROM_ANTERIOR_RAS = (0.0, -0.3, -1.0)
_SUPERIOR_RAS = (0.0, 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class StackOrientation:
    """How a stack is brought to the standard orientation.

    Attributes:
        slices_reversed: The order of the slices is reversed.
        transposed: Rows become columns.
        rows_reversed: The order of the rows is then reversed.
        columns_reversed: The order of the columns is then reversed.
    """

    slices_reversed: bool = False
    transposed: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    def orient(self, values: Shaped[Tensor, "*n z y x"]) -> Shaped[Tensor, "*n z yo xo"]:
        """Bring values to the standard orientation; what is in it already is not copied."""
        oriented = values.mT if self.transposed else values
        return self._reversed(oriented).contiguous()

    def restore(self, values: Shaped[Tensor, "*n z yo xo"]) -> Shaped[Tensor, "*n z y x"]:
        """Bring values back to the order in which the stack is stored."""
        stored = self._reversed(values)
        return (stored.mT if self.transposed else stored).contiguous()

    def orient_vectors(self, vectors: Shaped[Tensor, "*n z y x"], dim: int) -> Shaped[Tensor, "*n z yo xo"]:
        """Bring vectors along (z, y, x) to the standard orientation: their positions and their components.

        Args:
            vectors: Vectors, such as displacements.
            dim: Axis of the three components.
        """
        z, y, x = self.orient(vectors).unbind(dim)
        y, x = (x, y) if self.transposed else (y, x)
        return torch.stack(self._signed(z, y, x), dim)

    def restore_vectors(self, vectors: Shaped[Tensor, "*n z yo xo"], dim: int) -> Shaped[Tensor, "*n z y x"]:
        """Reverse :meth:`orient_vectors`."""
        z, y, x = self._signed(*self.restore(vectors).unbind(dim))
        return torch.stack((z, x, y) if self.transposed else (z, y, x), dim)

    def orient_affine(self, affine: Float64[Tensor, "4 4"], shape: tuple[int, int, int]) -> Float64[Tensor, "4 4"]:
        """Return the affine of the oriented stack from that of the stored one.

        Args:
            affine: Maps a voxel index (z, y, x, 1) of the stored stack to mm.
            shape: Number of voxels of the stored stack along (z, y, x).
        """
        order = (0, 2, 1) if self.transposed else (0, 1, 2)
        oriented = affine[:, [*order, 3]]
        for axis, is_reversed in enumerate(self._reversed_axes):
            if is_reversed:
                oriented[:3, 3] += (shape[order[axis]] - 1) * oriented[:3, axis]
                oriented[:3, axis] *= -1.0
        return oriented

    def orient_cine(self, cine: CineSequence) -> CineSequence:
        """Bring a cine to the standard orientation, with its spacing and affine."""
        if self == StackOrientation():
            return cine
        depth, rows, columns = cine.voxels.shape[1:]
        return replace(
            cine,
            voxels=self.orient(cine.voxels),
            spacing=self.swapped(cine.spacing),
            affine=self.orient_affine(cine.affine, (depth, rows, columns)),
        )

    def swapped(self, spacing: Spacing) -> Spacing:
        """Exchange the spacings of rows and columns where these are transposed, in either direction."""
        return Spacing(spacing.z, spacing.x, spacing.y) if self.transposed else spacing

    @property
    def _reversed_axes(self) -> tuple[bool, bool, bool]:
        return self.slices_reversed, self.rows_reversed, self.columns_reversed

    def _reversed(self, values: Tensor) -> Tensor:
        axes = [axis for axis, is_reversed in zip((-3, -2, -1), self._reversed_axes, strict=True) if is_reversed]
        return values.flip(axes) if axes else values

    def _signed(self, *components: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            -component if is_reversed else component
            for component, is_reversed in zip(components, self._reversed_axes, strict=True)
        )


def standard_orientation(affine: Float64[Tensor, "4 4"], flags: Collection[str] = ()) -> StackOrientation:
    """Determine from its affine how a stack is brought to the standard orientation.

    Rows and columns are exchanged and reversed so that they are most similar to their usual directions. A stack that is
    no short axis by its affine was placed by a converter: ACDC's images, with their slices from base to apex, have
    transversal axes that point to the left, to the back and to the head, and those are their standard orientation.

    Args:
        affine: Maps a voxel index (z, y, x, 1) to scanner mm (RAS+).
        flags: Quality flags of the image. Where its header states no orientation, it is taken as it is stored.
    """
    if QCFlag.ORIENTATION_MISSING in flags or is_unplaced(affine):
        return StackOrientation()
    along_z, along_y, along_x = (affine[:3, :3] / affine[:3, :3].norm(dim=0)).T
    towards_apex = float(along_z @ _vector(APEX_FROM_BASE_RAS))
    is_short_axis = abs(towards_apex) >= SHORT_AXIS_COSINE
    forwards = towards_apex if is_short_axis else float(along_z @ _vector(_SUPERIOR_RAS))

    def similarity(choice: tuple[bool, bool, bool]) -> float:
        transposed, rows_reversed, columns_reversed = choice
        down, right = (along_x, along_y) if transposed else (along_y, along_x)
        return float(
            (-1.0 if rows_reversed else 1.0) * (down @ _vector(_INFERIOR_FROM_ANTERIOR_RAS))
            + (-1.0 if columns_reversed else 1.0) * (right @ _vector(_LATERAL_FROM_SEPTUM_RAS))
        )

    either = (False, True)
    in_plane = max(itertools.product(either, either, either), key=similarity)
    return StackOrientation(forwards < 0, *in_plane)


def is_unplaced(affine: Float64[Tensor, "4 4"]) -> bool:
    """Whether an affine is that of an array without any place in the body: parallel axes in their order, from 0."""
    directions = affine[:3, :3] / affine[:3, :3].norm(dim=0)
    return bool((affine[:3, 3] == 0).all()) and torch.allclose(directions, torch.eye(3, dtype=affine.dtype).flip(1))


def _vector(direction: tuple[float, float, float]) -> Float64[Tensor, "3"]:
    return torch.tensor(direction, dtype=torch.float64)
