"""The part of the window around a heart: motion is stored on all of it, and asked for where the heart is."""

from dataclasses import dataclass, replace

from jaxtyping import Bool
from torch import Tensor

from cmnet_core.imaging.preprocess import Window

MARGIN_VOXELS = 12
"""Of the window around what is asked for: what lies further away moves nothing in it."""


@dataclass(frozen=True, slots=True)
class Crop:
    """Rows and columns of a window, whole voxels of the coarser grid on which velocities are stored.

    Attributes:
        rows: On the grid of the velocities.
        columns: Likewise.
        factor: Voxels of the window to one of the velocities.
    """

    rows: slice
    columns: slice
    factor: int

    def of_velocities(self, values: Tensor) -> Tensor:
        """The part of something on the grid of the velocities."""
        return values[..., self.rows, self.columns]

    def of_window(self, values: Tensor) -> Tensor:
        """The part of something on the window's grid."""
        rows, columns = (slice(part.start * self.factor, part.stop * self.factor) for part in (self.rows, self.columns))
        return values[..., rows, columns]

    def narrowed(self, window: Window) -> Window:
        """The window that shows this part alone."""
        starts = [part.start * self.factor for part in (self.rows, self.columns)]
        y, x = (
            origin + start * mm
            for origin, start, mm in zip(window.origin_mm, starts, window.spacing.zyx[1:], strict=True)
        )
        height, width = ((part.stop - part.start) * self.factor for part in (self.rows, self.columns))
        return replace(window, origin_mm=(y, x), size=(height, width))


def crop_around(mask: Bool[Tensor, "z y x"], factor: int) -> Crop:
    """The part of the window that holds a mask and a margin; all of it where the mask is empty."""
    rows, columns = (_span(mask.movedim(axis, 0).flatten(1).any(1), factor) for axis in (1, 2))
    return Crop(rows, columns, factor)


def _span(seen: Bool[Tensor, " n"], factor: int) -> slice:
    places, whole = seen.nonzero()[:, 0], len(seen) // factor
    if not len(places):
        return slice(0, whole)
    first, last = int(places[0]) - MARGIN_VOXELS, int(places[-1]) + MARGIN_VOXELS
    return slice(max(first, 0) // factor, min(last // factor + 1, whole))
