"""Transmural depth of the LV wall's voxels, measured between contours that are finer than voxels."""

from typing import cast

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from cmnet_core.labels import Label
from cmnet_core.types import Spacing

_SMOOTHING_VOXELS = 1.0
_POINT_SPACING = 0.2  # of contour points, as a fraction of the edges that contourpy returns
_MARGIN_VOXELS = 5


def wall_depth(
    labels: NDArray[np.uint8], ventricular: NDArray[np.bool_], spacing: Spacing
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Compute the wall, and each wall voxel's in-plane distances to the endocardium and to the epicardium in mm.

    Args:
        labels: Label map ``[z y x]``.
        ventricular: Whether each slice belongs to the ventricle.
        spacing: Voxel spacing in mm.

    Returns:
        The wall; distances to the endocardium and to the epicardium, NaN outside the wall.
    """
    wall = np.zeros(labels.shape, bool)
    inner, outer = np.full(labels.shape, np.nan), np.full(labels.shape, np.nan)
    for z in np.flatnonzero(ventricular):
        ventricle = _largest_component((labels[z] == Label.LV) | (labels[z] == Label.MYO))
        cavity = ventricle & (labels[z] == Label.LV)
        endocardium, epicardium = _contour_mm(cavity, spacing), _contour_mm(ventricle, spacing)
        myocardium = ventricle & ~cavity
        if len(endocardium) and len(epicardium) and myocardium.any():
            positions = np.argwhere(myocardium) * (spacing.y, spacing.x)
            wall[z] = myocardium
            inner[z][myocardium] = cKDTree(endocardium).query(positions)[0]
            outer[z][myocardium] = cKDTree(epicardium).query(positions)[0]
    return wall, inner, outer


def _largest_component(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    components, count = ndimage.label(mask)
    if count < 2:
        return mask
    largest: NDArray[np.bool_] = components == 1 + np.bincount(components[components > 0] - 1).argmax()
    return largest


def _contour_mm(mask: NDArray[np.bool_], spacing: Spacing) -> NDArray[np.float64]:
    """Densely spaced points (y, x) along a region's contour in mm; none for a region that is too small.

    The contour is the level 0.5 of the smoothed mask. That of the mask itself would have the corners of voxels, to
    which every distance would be attracted.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return np.empty((0, 2))
    box = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(float), _MARGIN_VOXELS)
    smooth = ndimage.gaussian_filter(box, _SMOOTHING_VOXELS)
    lines = cast("list[NDArray[np.float64]]", contour_generator(z=smooth).lines(0.5))
    fractions = np.arange(0.0, 1.0, _POINT_SPACING)[:, None, None]
    dense = [(line[:-1] + fractions * (line[1:] - line[:-1])).reshape(-1, 2) for line in lines]
    voxels = np.concatenate([np.empty((0, 2)), *dense])[:, ::-1] + [rows[0], columns[0]] - _MARGIN_VOXELS
    points: NDArray[np.float64] = voxels * (spacing.y, spacing.x)
    return points
