"""Slices, orientation, crop and contours for the images of a subject's page, from a cine and its label maps."""

from dataclasses import dataclass

import contourpy
import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped, UInt8
from numpy.typing import NDArray
from scipy import ndimage

from cmnet_core.imaging.filters import linear_neighbours
from cmnet_core.io import orientation
from cmnet_core.labels import Label

HEART = (Label.LV, Label.MYO, Label.RV)

# Positions of the three levels along the left ventricle, from its base (0) to its apex (1).
LEVELS = (("basal", 0.15), ("mid", 0.5), ("apical", 0.85))

_SMOOTHING_VOXELS = 0.8


@dataclass(frozen=True, slots=True)
class SliceLevel:
    """One level of the left ventricle.

    Attributes:
        name: basal, mid or apical.
        index: Position in the stack.
    """

    name: str
    index: int


@dataclass(frozen=True, slots=True)
class CropBox:
    """The part of a slice that is shown: rows ``top`` to ``bottom`` and columns ``left`` to ``right``, end excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def crop(self, image: Shaped[np.ndarray, "*n y x"]) -> Shaped[np.ndarray, "*n height width"]:
        """Crop an image."""
        return image[..., self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True, slots=True, eq=False)
class Contour:
    """The outline of one structure in an image.

    Attributes:
        structure: The structure that it encloses.
        lines: Closed lines, each a list of (column, row) in voxels, with voxel centres at whole numbers.
    """

    structure: Label
    lines: tuple[Float64[np.ndarray, "points 2"], ...]


def choose_slices(membership: Float[np.ndarray, "c z y x"]) -> tuple[SliceLevel, ...]:
    """Choose a basal, a mid and an apical slice of the left ventricle; fewer where it extends over fewer slices.

    The base is the end of the stack where the area of both cavities together is larger.

    Args:
        membership: Memberships at ED, see :func:`memberships`.
    """
    inside = membership > 0.5
    slices = np.flatnonzero(inside[HEART.index(Label.LV)].any(axis=(1, 2)))
    if not slices.size:
        return ()
    cavities = inside[[HEART.index(Label.LV), HEART.index(Label.RV)]].sum(axis=(0, 2, 3))
    half = (slices.size + 1) // 2
    if cavities[slices[:half]].sum() < cavities[slices[-half:]].sum():
        slices = slices[::-1]
    # The middle goes first, so that it keeps its slice where the stack is too short for three.
    by_index: dict[int, str] = {}
    for name, fraction in (LEVELS[1], LEVELS[0], LEVELS[2]):
        by_index.setdefault(int(slices[round(fraction * (slices.size - 1))]), name)
    names = {name: index for index, name in by_index.items()}
    return tuple(SliceLevel(name, names[name]) for name, _ in LEVELS if name in names)


def memberships(
    labels: UInt8[np.ndarray, "z y x"],
    *,
    labels_affine: Float64[np.ndarray, "4 4"],
    image_affine: Float64[np.ndarray, "4 4"],
    shape: tuple[int, int, int],
) -> Float[np.ndarray, "c z y x"]:
    """Interpolate a label map linearly: the membership of each voxel of the image in LV, myocardium and RV.

    Args:
        labels: A label map on its own grid.
        labels_affine: Affine of that grid, (z, y, x, 1) to mm.
        image_affine: Affine of the image's grid, (z, y, x, 1) to mm.
        shape: The image's size (z, y, x).
    """
    to_labels = np.linalg.inv(labels_affine) @ image_affine
    channels = [
        ndimage.affine_transform(
            (labels == label).astype(np.float32), to_labels[:3, :3], to_labels[:3, 3], output_shape=shape, order=1
        )
        for label in HEART
    ]
    return np.stack(channels)


@dataclass(frozen=True, slots=True, eq=False)
class SliceGrid:
    """One slice of the image's grid, to which arrays on other grids with parallel axes are resampled.

    The axes are parallel because the network's window is cut from the subject's own stack along its axes.

    Attributes:
        affine: Affine of the image's grid, (z, y, x, 1) to mm.
        index: The slice.
        shape: Number of rows and columns.
    """

    affine: Float64[np.ndarray, "4 4"]
    index: int
    shape: tuple[int, int]

    def memberships(
        self, labels: UInt8[np.ndarray, "t z y x"], labels_affine: Float64[np.ndarray, "4 4"]
    ) -> Float[np.ndarray, "t c y2 x2"]:
        """Return the membership of each voxel in LV, myocardium and RV in every frame; see :func:`memberships`."""
        there = np.linalg.inv(labels_affine) @ self.affine
        near = self._near(labels, there)
        inside = (sum(weight * (volume == label) for volume, weight in near) for label in HEART)
        return np.stack([self._resample(np.asarray(slices), there) for slices in inside], axis=1)

    def values(
        self, values: Shaped[np.ndarray, "t z y x"], affine: Float64[np.ndarray, "4 4"]
    ) -> Float[np.ndarray, "t y2 x2"]:
        """Interpolate values of another grid linearly in this slice."""
        there = np.linalg.inv(affine) @ self.affine
        return self._resample(np.asarray(sum(weight * volume for volume, weight in self._near(values, there))), there)

    def _near(
        self, volumes: Shaped[np.ndarray, "t z y x"], there: Float64[np.ndarray, "4 4"]
    ) -> list[tuple[Shaped[np.ndarray, "t y x"], np.float32]]:
        """Return the one or two slices of the other grid on or between which this one is located, and their weights."""
        low, high, weight = linear_neighbours(round(there[0, 0] * self.index + there[0, 3], 6), volumes.shape[1])
        weights = ((low, np.float32(1.0 - weight)), (high, np.float32(weight)))
        return [(volumes[:, number], weight) for number, weight in weights if weight]

    def _resample(
        self, slices: Float[np.ndarray, "t y x"], there: Float64[np.ndarray, "4 4"]
    ) -> Float[np.ndarray, "t y2 x2"]:
        for axis, size in ((1, self.shape[0]), (2, self.shape[1])):
            at = there[axis, axis] * np.arange(size) + there[axis, 3]
            low, high, weight = linear_neighbours(at, slices.shape[axis])
            along = weight.reshape((-1, 1) if axis == 1 else (-1,)).astype(np.float32)
            slices = slices.take(low, axis) * (1 - along) + slices.take(high, axis) * along
        return slices


def heart_box(membership: Float[np.ndarray, "c z y x"], *, margin: int) -> CropBox:
    """Return a square around the heart; the whole slice where there is no heart.

    Args:
        membership: Memberships, see :func:`memberships`.
        margin: Margin on each side in voxels.
    """
    height, width = membership.shape[-2:]
    rows, columns = np.nonzero((membership > 0.5).any(axis=(0, 1)))
    if not rows.size:
        return CropBox(0, height, 0, width)
    side = int(max(np.ptp(rows), np.ptp(columns))) + 1 + 2 * margin
    top = _start((int(rows.min()) + int(rows.max())) // 2, side, height)
    left = _start((int(columns.min()) + int(columns.max())) // 2, side, width)
    return CropBox(top, min(top + side, height), left, min(left + side, width))


def _start(centre: int, side: int, size: int) -> int:
    return max(0, min(centre - side // 2, size - side))


def contours(membership: Float[np.ndarray, "c y x"]) -> tuple[Contour, ...]:
    """Return the outlines of LV, LV with myocardium (the epicardium) and RV, smoothed by less than a voxel.

    Args:
        membership: Memberships in one slice.
    """
    lv, myo, rv = membership
    outlined = ((Label.MYO, lv + myo), (Label.LV, lv), (Label.RV, rv))
    return tuple(Contour(structure, _outline(inside)) for structure, inside in outlined)


def _outline(inside: Float[np.ndarray, "y x"]) -> tuple[NDArray[np.float64], ...]:
    # A border of zeros closes the lines of a structure that is cut by the image's edge.
    smooth = ndimage.gaussian_filter(np.pad(inside, 1), _SMOOTHING_VOXELS)
    return tuple(np.asarray(line) - 1.0 for line in contourpy.contour_generator(z=smooth).lines(0.5))


def grey_levels(voxels: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Scale intensities to 8-bit grey, with black and white at the 1st and 99.5th percentile of all voxels."""
    dark, bright = np.percentile(voxels, (1.0, 99.5))
    scaled = (voxels - dark) / max(float(bright - dark), 1e-6)
    return np.asarray(np.rint(255.0 * np.clip(scaled, 0.0, 1.0)), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Orientation:
    """The orientation of a slice on the page.

    Attributes:
        transposed: Rows become columns.
        rows_reversed: Rows are then reversed.
        columns_reversed: Columns are then reversed.
    """

    transposed: bool
    rows_reversed: bool
    columns_reversed: bool

    def apply(self, array: Shaped[np.ndarray, "*n y x"]) -> Shaped[np.ndarray, "*n rows columns"]:
        """Orient an array."""
        oriented = np.swapaxes(array, -2, -1) if self.transposed else array
        reversed_axes = [axis for axis, wanted in ((-2, self.rows_reversed), (-1, self.columns_reversed)) if wanted]
        return np.flip(oriented, axis=tuple(reversed_axes))

    def vectors(self, zyx: Float[np.ndarray, "t 3 y x"]) -> Float[np.ndarray, "t 3 y x"]:
        """Convert vectors along slices, rows and columns to vectors down and across the page and through-plane.

        The components are converted, not their positions; :meth:`apply` moves those.
        """
        down, across = (zyx[:, 2], zyx[:, 1]) if self.transposed else (zyx[:, 1], zyx[:, 2])
        signs = (-1.0 if self.rows_reversed else 1.0, -1.0 if self.columns_reversed else 1.0)
        return np.stack([signs[0] * down, signs[1] * across, zyx[:, 0]], axis=1)


def standard_orientation(affine: Float64[np.ndarray, "4 4"]) -> Orientation:
    """Return the standard short-axis orientation: seen from the apex, septum on the left, anterior wall on top.

    Args:
        affine: Affine of the image's grid, (z, y, x, 1) to RAS mm.
    """
    found = orientation.standard_orientation(torch.from_numpy(affine))
    return Orientation(found.transposed, found.rows_reversed, found.columns_reversed)
