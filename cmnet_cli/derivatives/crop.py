"""The part of the window around the heart: velocities are stored on the whole window and integrated near the heart."""

from dataclasses import dataclass, replace

from jaxtyping import Bool, UInt8
from torch import Tensor

from cmnet_cli.derivatives.tracking import StoredTracking, read_velocities
from cmnet_cli.runs.paths import CaseFolder
from cmnet_core.imaging.preprocess import Window
from cmnet_core.inference.composition import fields_to_ed
from cmnet_core.labels import Label
from cmnet_core.types import MotionField

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


@dataclass(frozen=True, slots=True, eq=False)
class HeartMotion:
    """The stored motion of a case, integrated near the heart.

    Attributes:
        crop: The part of the window that the fields cover.
        to_ed: For every frame the field that is fixed at it and points into ED; the last one is fixed at ED itself,
            once round the cycle.
    """

    crop: Crop
    to_ed: tuple[MotionField, ...]


def read_heart_motion(
    folder: CaseFolder, stored: StoredTracking, labels_ed: UInt8[Tensor, "z y x"]
) -> HeartMotion | None:
    """Read the motion of a case and integrate it near the heart; None where no motion was stored.

    Args:
        folder: Files of the case.
        stored: What infer stored of it.
        labels_ed: Label map at ED on the window's grid.

    Raises:
        ImageError: The stored motion is damaged.
    """
    if not stored.has_steps:
        return None
    facts = stored.facts
    crop = crop_around(labels_ed != Label.BACKGROUND, 2**facts.motion.output_level)
    velocities = crop.of_velocities(read_velocities(folder.motion))
    return HeartMotion(crop, fields_to_ed(velocities, facts.window.spacing, ed=facts.ed, sizes=facts.motion))
