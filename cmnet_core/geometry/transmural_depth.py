"""How deep in the LV's wall a voxel lies, and how thick the wall is there, between contours finer than voxels."""

from typing import cast

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from cmnet_core.labels import Label
from cmnet_core.types import Spacing

_SMOOTHING_VOXELS = 1.0
_CONTOUR_STEP_VOXELS = 0.2
_MARGIN_VOXELS = 5


def wall_depth(
    labels: NDArray[np.uint8], ventricular: NDArray[np.bool_], spacing: Spacing
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """The wall, and every wall voxel's distances in mm to the endocardium and to the epicardium within its slice."""
    wall = np.zeros(labels.shape, bool)
    inner, outer = np.full(labels.shape, np.nan), np.full(labels.shape, np.nan)
    for z in np.flatnonzero(ventricular):
        heart = _largest((labels[z] == Label.LV) | (labels[z] == Label.MYO))
        cavity = heart & (labels[z] == Label.LV)
        endocardium, epicardium = _contour_mm(cavity, spacing), _contour_mm(heart, spacing)
        muscle = heart & ~cavity
        if len(endocardium) and len(epicardium) and muscle.any():
            places = np.argwhere(muscle) * (spacing.y, spacing.x)
            wall[z] = muscle
            inner[z][muscle] = cKDTree(endocardium).query(places)[0]
            outer[z][muscle] = cKDTree(epicardium).query(places)[0]
    return wall, inner, outer


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    largest: NDArray[np.bool_] = parts == 1 + np.bincount(parts[parts > 0] - 1).argmax()
    return largest


def _contour_mm(mask: NDArray[np.bool_], spacing: Spacing) -> NDArray[np.float64]:
    """Points along a region's outline, closer together than any thickness matters; none of a region too small.

    The mask is smoothed before it is cut at one half: the corners of voxels would draw every distance to them.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return np.empty((0, 2))
    box = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(float), _MARGIN_VOXELS)
    smooth = ndimage.gaussian_filter(box, _SMOOTHING_VOXELS)
    lines = cast("list[NDArray[np.float64]]", contour_generator(z=smooth).lines(0.5))
    shares = np.arange(0.0, 1.0, _CONTOUR_STEP_VOXELS)[:, None, None]
    dense = [(line[:-1] + shares * (line[1:] - line[:-1])).reshape(-1, 2) for line in lines]
    voxels = np.concatenate([np.empty((0, 2)), *dense])[:, ::-1] + [rows[0], columns[0]] - _MARGIN_VOXELS
    points: NDArray[np.float64] = voxels * (spacing.y, spacing.x)
    return points
