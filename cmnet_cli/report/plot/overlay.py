"""From a cine and its label maps to the pictures of a subject page: which slices, which crop, which contours."""

import itertools
from dataclasses import dataclass

import contourpy
import numpy as np
from jaxtyping import Float, Float64, Shaped, UInt8
from numpy.typing import NDArray
from scipy import ndimage

from cmnet_core.imaging.filters import linear_neighbours
from cmnet_core.labels import Label

HEART = (Label.LV, Label.MYO, Label.RV)

# Where along the left ventricle the three levels are shown, from its base (0) to its apex (1).
LEVELS = (("basal", 0.15), ("mid", 0.5), ("apical", 0.85))

# From the septum to the side wall, and from the front wall to the lower wall, in RAS.
_RIGHT = np.array([-0.7, -0.7, 0.0])
_DOWN = np.array([0.0, -0.3, -1.0])

_SMOOTHING_VOXELS = 0.8


@dataclass(frozen=True, slots=True)
class Slice:
    """One level of the left ventricle.

    Attributes:
        name: basal, mid or apical.
        index: Position in the stack.
    """

    name: str
    index: int


@dataclass(frozen=True, slots=True)
class Box:
    """The part of a slice that is shown: rows ``top`` to ``bottom`` and columns ``left`` to ``right``, end excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def cut(self, picture: Shaped[np.ndarray, "*n y x"]) -> Shaped[np.ndarray, "*n height width"]:
        """That part of a picture."""
        return picture[..., self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True, slots=True, eq=False)
class Contour:
    """The outline of one structure in a picture.

    Attributes:
        structure: What it encloses.
        lines: Closed lines, each a list of (column, row) in voxels, voxel centres at whole numbers.
    """

    structure: Label
    lines: tuple[Float64[np.ndarray, "points 2"], ...]


def choose_slices(belongs: Float[np.ndarray, "c z y x"]) -> tuple[Slice, ...]:
    """A basal, a mid and an apical slice of the left ventricle; fewer where fewer slices hold one.

    The base is the end of the stack where both cavities together are wider.

    Args:
        belongs: Memberships at ED, see :func:`memberships`.
    """
    inside = belongs > 0.5
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
    return tuple(Slice(name, names[name]) for name, _ in LEVELS if name in names)


def memberships(
    labels: UInt8[np.ndarray, "z y x"],
    *,
    labels_affine: Float64[np.ndarray, "4 4"],
    picture_affine: Float64[np.ndarray, "4 4"],
    shape: tuple[int, int, int],
) -> Float[np.ndarray, "c z y x"]:
    """How much each voxel of the picture belongs to LV, myocardium and RV, by linear interpolation of the label map.

    Args:
        labels: A label map on its own grid.
        labels_affine: That grid, (z, y, x, 1) to mm.
        picture_affine: The picture's grid, (z, y, x, 1) to mm.
        shape: The picture's size (z, y, x).
    """
    to_labels = np.linalg.inv(labels_affine) @ picture_affine
    channels = [
        ndimage.affine_transform(
            (labels == label).astype(np.float32), to_labels[:3, :3], to_labels[:3, 3], output_shape=shape, order=1
        )
        for label in HEART
    ]
    return np.stack(channels)


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """One slice of the picture's grid, to which other grids are brought whose axes run along its own.

    They do: the network's window is cut from the subject's own stack along its axes.

    Attributes:
        affine: The picture's grid, (z, y, x, 1) to mm.
        index: The slice.
        shape: Its rows and columns.
    """

    affine: Float64[np.ndarray, "4 4"]
    index: int
    shape: tuple[int, int]

    def memberships(
        self, labels: UInt8[np.ndarray, "t z y x"], labels_affine: Float64[np.ndarray, "4 4"]
    ) -> Float[np.ndarray, "t c y2 x2"]:
        """How much each voxel belongs to LV, myocardium and RV in every frame; see :func:`memberships`."""
        there = np.linalg.inv(labels_affine) @ self.affine
        near = self._near(labels, there)
        inside = (sum(share * (volume == label) for volume, share in near) for label in HEART)
        return np.stack([self._sampled(np.asarray(slices), there) for slices in inside], axis=1)

    def values(
        self, values: Shaped[np.ndarray, "t z y x"], affine: Float64[np.ndarray, "4 4"]
    ) -> Float[np.ndarray, "t y2 x2"]:
        """Values of another grid in this slice, by linear interpolation."""
        there = np.linalg.inv(affine) @ self.affine
        return self._sampled(np.asarray(sum(share * volume for volume, share in self._near(values, there))), there)

    def _near(
        self, volumes: Shaped[np.ndarray, "t z y x"], there: Float64[np.ndarray, "4 4"]
    ) -> list[tuple[Shaped[np.ndarray, "t y x"], np.float32]]:
        """The one or two slices of the other grid that this one lies on or between, and how much each counts."""
        low, high, share = linear_neighbours(round(there[0, 0] * self.index + there[0, 3], 6), volumes.shape[1])
        shares = ((low, np.float32(1.0 - share)), (high, np.float32(share)))
        return [(volumes[:, place], counts) for place, counts in shares if counts]

    def _sampled(
        self, slices: Float[np.ndarray, "t y x"], there: Float64[np.ndarray, "4 4"]
    ) -> Float[np.ndarray, "t y2 x2"]:
        for axis, size in ((1, self.shape[0]), (2, self.shape[1])):
            at = there[axis, axis] * np.arange(size) + there[axis, 3]
            low, high, share = linear_neighbours(at, slices.shape[axis])
            along = share.reshape((-1, 1) if axis == 1 else (-1,)).astype(np.float32)
            slices = slices.take(low, axis) * (1 - along) + slices.take(high, axis) * along
        return slices


def heart_box(belongs: Float[np.ndarray, "c z y x"], *, margin: int) -> Box:
    """A square around the heart; the whole slice where there is none.

    Args:
        belongs: Memberships, see :func:`memberships`.
        margin: Voxels left free on each side.
    """
    height, width = belongs.shape[-2:]
    rows, columns = np.nonzero((belongs > 0.5).any(axis=(0, 1)))
    if not rows.size:
        return Box(0, height, 0, width)
    side = int(max(np.ptp(rows), np.ptp(columns))) + 1 + 2 * margin
    top = _start((int(rows.min()) + int(rows.max())) // 2, side, height)
    left = _start((int(columns.min()) + int(columns.max())) // 2, side, width)
    return Box(top, min(top + side, height), left, min(left + side, width))


def _start(centre: int, side: int, size: int) -> int:
    return max(0, min(centre - side // 2, size - side))


def contours(belongs: Float[np.ndarray, "c y x"]) -> tuple[Contour, ...]:
    """The outlines of LV, LV with myocardium (the epicardium) and RV, smoothed by less than a voxel for the eye.

    Args:
        belongs: Memberships in one slice.
    """
    lv, myo, rv = belongs
    outlined = ((Label.MYO, lv + myo), (Label.LV, lv), (Label.RV, rv))
    return tuple(Contour(structure, _outline(inside)) for structure, inside in outlined)


def _outline(inside: Float[np.ndarray, "y x"]) -> tuple[NDArray[np.float64], ...]:
    # A border of zeros closes the lines of a structure that is cut by the picture's edge.
    smooth = ndimage.gaussian_filter(np.pad(inside, 1), _SMOOTHING_VOXELS)
    return tuple(np.asarray(line) - 1.0 for line in contourpy.contour_generator(z=smooth).lines(0.5))


def grey_levels(voxels: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Intensities as 8-bit grey, black and white at the 1st and 99.5th percentile of all that is given."""
    dark, bright = np.percentile(voxels, (1.0, 99.5))
    scaled = (voxels - dark) / max(float(bright - dark), 1e-6)
    return np.asarray(np.rint(255.0 * np.clip(scaled, 0.0, 1.0)), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class View:
    """How a slice is laid on the page.

    Attributes:
        turned: Rows become columns.
        upside_down: Rows are then reversed.
        mirrored: Columns are then reversed.
    """

    turned: bool
    upside_down: bool
    mirrored: bool

    def of(self, array: Shaped[np.ndarray, "*n y x"]) -> Shaped[np.ndarray, "*n rows columns"]:
        """The array as it is seen."""
        seen = np.swapaxes(array, -2, -1) if self.turned else array
        reversed_axes = [axis for axis, wanted in ((-2, self.upside_down), (-1, self.mirrored)) if wanted]
        return np.flip(seen, axis=tuple(reversed_axes))

    def vectors(self, zyx: Float[np.ndarray, "t 3 y x"]) -> Float[np.ndarray, "t 3 y x"]:
        """Vectors along slices, rows and columns as they point on the page: down, across, out of it.

        Where they stand is not changed; :meth:`of` does that.
        """
        down, across = (zyx[:, 2], zyx[:, 1]) if self.turned else (zyx[:, 1], zyx[:, 2])
        signs = (-1.0 if self.upside_down else 1.0, -1.0 if self.mirrored else 1.0)
        return np.stack([signs[0] * down, signs[1] * across, zyx[:, 0]], axis=1)


def usual_view(affine: Float64[np.ndarray, "4 4"]) -> View:
    """The view that readers of short-axis images know: from the apex, the septum on the left, the front wall on top.

    Args:
        affine: The picture's grid, (z, y, x, 1) to RAS mm.
    """
    along_y, along_x = (affine[:3, axis] / np.linalg.norm(affine[:3, axis]) for axis in (1, 2))

    def likeness(view: View) -> float:
        down, right = (along_x, along_y) if view.turned else (along_y, along_x)
        signs = (-1.0 if view.upside_down else 1.0, -1.0 if view.mirrored else 1.0)
        return float(signs[0] * down @ _DOWN + signs[1] * right @ _RIGHT)

    return max((View(*choice) for choice in itertools.product((False, True), repeat=3)), key=likeness)
