"""Segmentation and motion metrics: overlap, surface distance, folding, and the area under the ROC curve."""

from dataclasses import dataclass

import numpy as np
import scipy  # scipy.stats takes a second to import, and is imported where it is first used
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from cmnet_core.errors import ErrorCode, GeometryError, LabelError
from cmnet_core.labels import Label
from cmnet_core.types import Spacing


@dataclass(frozen=True, slots=True)
class Overlap:
    """Voxel counts of one structure in a prediction and its reference. The sum of two overlaps pools their voxels.

    Attributes:
        common: Number of voxels in both masks.
        predicted: Number of voxels in the prediction.
        reference: Number of voxels in the reference.
    """

    common: int
    predicted: int
    reference: int

    def __add__(self, other: "Overlap") -> "Overlap":
        return Overlap(self.common + other.common, self.predicted + other.predicted, self.reference + other.reference)

    @property
    def dice_pct(self) -> float | None:
        """Dice similarity, ``100 · 2|A∩B| / (|A| + |B|)``; None without a reference."""
        return 200 * self.common / (self.predicted + self.reference) if self.reference else None

    @property
    def jaccard_pct(self) -> float | None:
        """Jaccard index, ``100 · |A∩B| / (|A| + |B| - |A∩B|)``; None without a reference."""
        return 100 * self.common / (self.predicted + self.reference - self.common) if self.reference else None


def overlap(prediction: UInt8[Tensor, "..."], reference: UInt8[Tensor, "..."], label: Label) -> Overlap:
    """Count the voxels of one structure in two label maps.

    Raises:
        LabelError: The maps differ in shape.
    """
    _check_same_shape(prediction, reference)
    predicted, expected = prediction == label, reference == label
    return Overlap(int((predicted & expected).sum()), int(predicted.sum()), int(expected.sum()))


def dice_pct(prediction: UInt8[Tensor, "..."], reference: UInt8[Tensor, "..."], label: Label) -> float | None:
    """Dice similarity of one structure in %; None without a reference."""
    return overlap(prediction, reference, label).dice_pct


def jaccard_pct(prediction: UInt8[Tensor, "..."], reference: UInt8[Tensor, "..."], label: Label) -> float | None:
    """Jaccard index of one structure in %; None without a reference."""
    return overlap(prediction, reference, label).jaccard_pct


def _check_same_shape(prediction: Tensor, reference: Tensor) -> None:
    if prediction.shape != reference.shape:
        raise LabelError(
            f"The mask has shape {tuple(prediction.shape)}, its reference {tuple(reference.shape)}.",
            hint="Compare masks on the subject's own grid; check that image and reference belong together.",
            code=ErrorCode.LABEL_GEOMETRY,
        )


@dataclass(frozen=True, slots=True)
class SurfaceDistance:
    """Symmetric distances between two surfaces.

    Attributes:
        hd95_mm: The larger of the two directed 95th percentiles, in mm.
        msd_mm: Mean over the voxels of both surfaces, in mm.
        failure: None, or the reason for a missing distance: ``empty-prediction`` or ``empty-reference``.
    """

    hd95_mm: float | None
    msd_mm: float | None
    failure: str | None = None


def surface_distances_mm(
    prediction: Bool[Tensor, "z y x"], reference: Bool[Tensor, "rz ry rx"], spacing: Spacing
) -> SurfaceDistance:
    """Compute the distances between the surfaces of two masks, in mm.

    A surface voxel has a face neighbour outside the mask. The definitions are those of MONAI's
    ``compute_hausdorff_distance`` (95th percentile; the larger of both directions) and
    ``compute_average_surface_distance`` (symmetric), except that an empty mask is a failure and not a number.

    Raises:
        LabelError: The masks differ in shape.
    """
    _check_same_shape(prediction, reference)
    for name, mask in (("reference", reference), ("prediction", prediction)):
        if not bool(mask.any()):
            return SurfaceDistance(None, None, f"empty-{name}")
    predicted, expected = (_surface(mask) for mask in _cropped(prediction, reference))
    to_reference = _distances(predicted, expected, spacing)
    to_prediction = _distances(expected, predicted, spacing)
    return SurfaceDistance(
        hd95_mm=float(max(np.percentile(to_reference, 95), np.percentile(to_prediction, 95))),
        msd_mm=float(np.concatenate([to_reference, to_prediction]).mean()),
    )


def _cropped(a: Tensor, b: Tensor) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Crop both masks to the bounding box of their union; voxels outside it change no distance."""
    both = [mask.cpu().numpy().astype(bool) for mask in (a, b)]
    box = ndimage.find_objects((both[0] | both[1]).astype(np.uint8))[0]
    return both[0][box], both[1][box]


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask & ~ndimage.binary_erosion(mask)


def _distances(start: NDArray[np.bool_], target: NDArray[np.bool_], spacing: Spacing) -> NDArray[np.float64]:
    """Distance from each voxel of one surface to the nearest voxel of the other, in mm."""
    nearest: NDArray[np.float64] = np.asarray(ndimage.distance_transform_edt(~target, sampling=spacing.zyx))
    return nearest[start]


@dataclass(frozen=True, slots=True)
class Folding:
    """Voxels with a non-positive Jacobian determinant (NJD).

    Attributes:
        count: Their number.
        fraction_pct: Their fraction of all voxels, in %.
    """

    count: int
    fraction_pct: float


def folded_voxels(jacobian: Float[Tensor, "z y x"], within: Bool[Tensor, "wz wy wx"] | None = None) -> Folding:
    """Count the voxels with a non-positive Jacobian determinant, in the whole field or within a mask.

    Raises:
        GeometryError: The mask has another shape, or no voxel.
    """
    if within is not None and (within.shape != jacobian.shape or not bool(within.any())):
        raise GeometryError(
            f"The mask within which folding is counted must have a voxel and shape {tuple(jacobian.shape)}.",
            hint="Give the heart's mask on the grid of the motion.",
            code=ErrorCode.GEOMETRY,
        )
    determinants = jacobian if within is None else jacobian[within]
    count = int((~(determinants > 0)).sum())  # NaN counts as folded
    return Folding(count, 100 * count / determinants.numel())


def dilated(mask: Bool[Tensor, "z y x"], spacing: Spacing, *, by_mm: float) -> Bool[Tensor, "z y x"]:
    """Dilate a mask by all voxels whose centre is within ``by_mm`` of the centre of one of its voxels."""
    if not bool(mask.any()):
        return mask.clone()
    distance_mm = np.asarray(ndimage.distance_transform_edt(~mask.cpu().numpy(), sampling=spacing.zyx))
    return torch.from_numpy(distance_mm <= by_mm).to(mask.device)


def auroc(low: Float[Tensor, " n"], high: Float[Tensor, " m"]) -> float | None:
    """Area under the ROC curve: the probability that a value of ``high`` exceeds a value of ``low``.

    Ties count half (Hanley and McNeil, Radiology 143(1), 1982). 0.5 means no discrimination; None if one is empty.
    """
    if not (len(low) and len(high)):
        return None
    ranks = scipy.stats.rankdata(torch.cat([high, low]).cpu().numpy())
    above = float(ranks[: len(high)].sum()) - len(high) * (len(high) + 1) / 2
    return above / (len(high) * len(low))
