"""Corrections: edited label maps of some frames, and what they mean for the other frames of the cycle."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cmnet_core.imaging.preprocess import Window, bounding_slice, extract, restore_labels
from cmnet_core.labels import Label
from cmnet_core.registration.displacement import propagate
from cmnet_core.types import MotionField, Spacing

COMMON_ERROR = 0.5
"""Correlation of the errors of a contour in two distant frames of a cycle. The errors of SegNet's volumes at ED and ES
have a correlation of 0.4 (LV) and 0.6 (RV) in 34 patients of ACDC."""

CORRELATION_CYCLES = 0.1
"""Fraction of a cycle after which the remaining correlation of the errors of two frames has fallen to 1/e."""

FARTHEST_MM = 20.0
"""Largest signed distance in mm that is distinguished."""

_MARGIN_MM = 15.0


def error_correlation(first: Sequence[int], second: Sequence[int], *, frames: int) -> Float64[Tensor, "a b"]:
    """Correlation of the segmentation errors of pairs of frames.

    With τ, the shorter time between the frames as a fraction of the cycle, it is c + (1 − c) exp(−τ / L), where c is
    :data:`COMMON_ERROR` and L is :data:`CORRELATION_CYCLES`.

    Args:
        first: Frames of the rows.
        second: Frames of the columns.
        frames: Number of frames in the cycle.
    """
    apart = (torch.tensor(first, dtype=torch.float64)[:, None] - torch.tensor(second, dtype=torch.float64)).abs()
    cycles = torch.minimum(apart, frames - apart) / frames
    return COMMON_ERROR + (1.0 - COMMON_ERROR) * (-cycles / CORRELATION_CYCLES).exp()


def correction_weights(edited: Sequence[int], *, frames: int) -> Float64[Tensor, "t e"]:
    """Weights with which the errors of the edited frames predict the error of each frame of the cycle.

    They are those of the best linear prediction (simple kriging) with the correlation :func:`error_correlation`: 1 and
    0 at the edited frames themselves, :data:`COMMON_ERROR` far from a single edited frame.

    Args:
        edited: The edited frames.
        frames: Number of frames in the cycle.
    """
    between = error_correlation(range(frames), edited, frames=frames)
    weights: Tensor = torch.linalg.solve(error_correlation(edited, edited, frames=frames), between.T).T
    return weights


def propagate_correction(
    automatic: UInt8[Tensor, "t z y x"],
    edited: Mapping[int, UInt8[Tensor, "z y x"]],
    field_between: Callable[[int, int], MotionField],
    spacing: Spacing,
) -> UInt8[Tensor, "t z y x"]:
    """Replace the label maps of edited frames, and correct those of all other frames accordingly.

    The signed distance to each structure's surface is d; the difference that an edit makes to it is warped to the other
    frames by the motion and is added there with the weights of :func:`correction_weights`. A contour is thus moved by
    half of what it was moved at a distant edited frame. Each voxel takes the label of the smallest distance.

    Args:
        automatic: Automatic label maps of all frames.
        edited: Edited label maps by frame, which the result has unchanged.
        field_between: Returns the field on the grid of the second frame that points into the first one.
        spacing: Voxel spacing in mm.
    """
    frames, corrected = list(edited), automatic.clone()
    everything = torch.cat([automatic, torch.stack(list(edited.values()))]).amax(0)
    box = _box_around(everything, spacing)
    changes = {
        frame: _distances(labels[box], spacing) - _distances(automatic[frame][box], spacing)
        for frame, labels in edited.items()
    }
    for frame, weights in enumerate(correction_weights(frames, frames=len(automatic))):
        if frame in edited:
            corrected[frame] = edited[frame]
            continue
        distances = _distances(automatic[frame][box], spacing)
        for source, weight in zip(frames, weights, strict=True):
            field = field_between(source, frame)
            inside = MotionField(field.displacement_mm[:, *box], spacing, fixed=frame, moving=source)
            distances += float(weight) * propagate(changes[source], inside)
        corrected[frame][box] = distances.argmin(0).to(torch.uint8)
    return corrected


def _box_around(heart: UInt8[Tensor, "z y x"], spacing: Spacing) -> tuple[slice, slice, slice]:
    """The voxels around the heart that a correction can change; all slices."""
    rows, columns = (
        slice(max(found.start - margin, 0), found.stop + margin)
        for axis, mm in ((1, spacing.y), (2, spacing.x))
        for found, margin in [(bounding_slice(heart, axis), math.ceil(_MARGIN_MM / mm))]
    )
    return slice(None), rows, columns


def _distances(labels: UInt8[Tensor, "z y x"], spacing: Spacing) -> Float[Tensor, "k z y x"]:
    """Signed distance in mm to the surface of each structure and of the background, negative inside."""
    maps = []
    for label in Label:
        inside = (labels == label).numpy()
        outer, inner = (_distance_to_end(mask, spacing) for mask in (~inside, inside))
        maps.append(outer - inner)
    return torch.from_numpy(np.stack(maps)).float()


def _distance_to_end(mask: NDArray[np.bool_], spacing: Spacing) -> NDArray[np.float64]:
    """Distance in mm of each voxel of a mask to the surface of the mask, 0 outside of it."""
    if mask.all():
        return np.full(mask.shape, FARTHEST_MM)
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(mask, sampling=spacing.zyx)
    # The surface is half a voxel before the centre of the nearest voxel outside.
    half_mm = 0.5 * min(spacing.y, spacing.x)
    return np.clip(distance - half_mm, 0.0, FARTHEST_MM)


def correct_probabilities(
    probabilities: Float[Tensor, "t k z yw xw"], corrected: UInt8[Tensor, "t z y x"], window: Window
) -> None:
    """Change SegNet's probabilities in place where corrected label maps differ from its own.

    There, probabilities are those of the corrected maps: the fractions of a voxel of the window with each label.

    Args:
        probabilities: Probabilities of all frames in the window.
        corrected: Corrected label maps of all frames on the subject's own grid.
        window: Position of the window on that grid.
    """
    for frame, labels in zip(probabilities, corrected, strict=True):
        differs = labels != restore_labels(frame[None], window)[0]
        if not bool(differs.any()):
            continue
        changed = extract(differs[None].float(), window)[0] > 0
        fractions = torch.cat([extract((labels == label)[None].float(), window) for label in Label])
        fractions[Label.BACKGROUND] = 1.0 - fractions[Label.LV :].sum(0)
        frame[:, changed] = fractions[:, changed]
