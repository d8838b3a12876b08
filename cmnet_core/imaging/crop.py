"""The part of a window around a mask, on the window's grid and on the coarser grid of the velocities."""

from dataclasses import dataclass, replace

from jaxtyping import Bool
from torch import Tensor

from cmnet_core.imaging.preprocess import Window

MARGIN_VOXELS = 12
"""Margin around the mask in voxels of the window; velocities further away do not move anything inside the mask."""


@dataclass(frozen=True, slots=True)
class Crop:
    """Rows and columns of a window, in whole voxels of the coarser grid on which velocities are stored.

    Attributes:
        rows: Rows of the grid of the velocities.
        columns: Columns of the grid of the velocities.
        factor: Voxels of the window to one voxel of the velocities.
    """

    rows: slice
    columns: slice
    factor: int

    def of_velocities(self, values: Tensor) -> Tensor:
        """Crop values on the grid of the velocities."""
        return values[..., self.rows, self.columns]

    def of_window(self, values: Tensor) -> Tensor:
        """Crop values on the window's grid."""
        rows, columns = (slice(part.start * self.factor, part.stop * self.factor) for part in (self.rows, self.columns))
        return values[..., rows, columns]

    def refined(self, by: int) -> "Crop":
        """Return the same part for a grid of the velocities whose voxels are smaller by a whole factor."""
        rows, columns = (slice(part.start * by, part.stop * by) for part in (self.rows, self.columns))
        return Crop(rows, columns, self.factor // by)

    def narrowed(self, window: Window) -> Window:
        """Return the window that covers this part alone."""
        starts = [part.start * self.factor for part in (self.rows, self.columns)]
        y, x = (
            origin + start * mm
            for origin, start, mm in zip(window.origin_mm, starts, window.spacing.zyx[1:], strict=True)
        )
        height, width = ((part.stop - part.start) * self.factor for part in (self.rows, self.columns))
        return replace(window, origin_mm=(y, x), size=(height, width))


def crop_around(mask: Bool[Tensor, "z y x"], factor: int) -> Crop:
    """Return the part of the window that contains a mask and a margin; the whole window where the mask is empty.

    Args:
        mask: On the window's grid.
        factor: Voxels of the window to one voxel of the velocities.
    """
    rows, columns = (_span(mask.movedim(axis, 0).flatten(1).any(1), factor) for axis in (1, 2))
    return Crop(rows, columns, factor)


def _span(occupied: Bool[Tensor, " n"], factor: int) -> slice:
    indices, whole = occupied.nonzero()[:, 0], len(occupied) // factor
    if not len(indices):
        return slice(0, whole)
    first, last = int(indices[0]) - MARGIN_VOXELS, int(indices[-1]) + MARGIN_VOXELS
    return slice(max(first, 0) // factor, min(last // factor + 1, whole))
