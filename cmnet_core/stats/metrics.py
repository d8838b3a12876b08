"""How well masks, motion and indices agree with a reference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from scipy import ndimage, stats
from torch import Tensor

from cmnet_core.errors import ErrorCode, GeometryError, LabelError
from cmnet_core.labels import Label
from cmnet_core.types import Spacing

# ── overlap ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Overlap:
    """Voxels of one structure. The sum of two overlaps pools their voxels.

    Attributes:
        common: Voxels in both masks.
        predicted: Voxels of the prediction.
        reference: Voxels of the reference.
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


# ── surfaces ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class SurfaceDistance:
    """Symmetric distances between two surfaces.

    Attributes:
        hd95_mm: The larger of the two directed 95th percentiles.
        msd_mm: Mean over the voxels of both surfaces.
        failure: None, or why there is no distance: ``empty-prediction`` or ``empty-reference``.
    """

    hd95_mm: float | None
    msd_mm: float | None
    failure: str | None = None


def surface_distances_mm(
    prediction: Bool[Tensor, "z y x"], reference: Bool[Tensor, "rz ry rx"], spacing: Spacing
) -> SurfaceDistance:
    """Distances between the surfaces of two masks in the subject's real spacing.

    A surface voxel has a face neighbour outside the mask. Same definitions as MONAI's ``compute_hausdorff_distance``
    (percentile 95) and ``compute_average_surface_distance`` (symmetric); but an empty mask is a failure, not a figure.

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
    """Both masks within the box that holds either: nothing beyond it changes a distance."""
    both = [mask.cpu().numpy().astype(bool) for mask in (a, b)]
    box = ndimage.find_objects((both[0] | both[1]).astype(np.uint8))[0]
    return both[0][box], both[1][box]


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask & ~ndimage.binary_erosion(mask)


def _distances(start: NDArray[np.bool_], target: NDArray[np.bool_], spacing: Spacing) -> NDArray[np.float64]:
    """From each voxel of one surface to the nearest of the other."""
    nearest: NDArray[np.float64] = np.asarray(ndimage.distance_transform_edt(~target, sampling=spacing.zyx))
    return nearest[start]


# ── folding ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Folding:
    """Voxels where a motion folds space onto itself (NJD), and their share in %."""

    count: int
    share_pct: float


def folded_voxels(jacobian: Float[Tensor, "z y x"], within: Bool[Tensor, "wz wy wx"] | None = None) -> Folding:
    """Count the voxels with a Jacobian determinant that is not positive, in the whole field or within a mask.

    Raises:
        GeometryError: The mask has another shape, or no voxel.
    """
    if within is not None and (within.shape != jacobian.shape or not bool(within.any())):
        raise GeometryError(
            f"The mask within which folding is counted must have a voxel and shape {tuple(jacobian.shape)}.",
            hint="Give the heart's mask on the grid of the motion.",
            code=ErrorCode.GEOMETRY,
        )
    looked_at = jacobian if within is None else jacobian[within]
    count = int((~(looked_at > 0)).sum())  # a determinant that is not a number folds too
    return Folding(count, 100 * count / looked_at.numel())


def dilated(mask: Bool[Tensor, "z y x"], spacing: Spacing, *, by_mm: float) -> Bool[Tensor, "z y x"]:
    """The mask and all voxels whose centre lies within ``by_mm`` of one of its voxel centres."""
    if not bool(mask.any()):
        return mask.clone()
    away = np.asarray(ndimage.distance_transform_edt(~mask.cpu().numpy(), sampling=spacing.zyx))
    return torch.from_numpy(away <= by_mm).to(mask.device)


# ── ranks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def auroc(low: Float[Tensor, " n"], high: Float[Tensor, " m"]) -> float | None:
    """Area under the receiver operating characteristic: how often a value of ``high`` exceeds one of ``low``.

    Ties count half (Hanley and McNeil, Radiology 143(1), 1982). 0.5 says that the two are not told apart; None where
    one of them is empty.
    """
    if not (len(low) and len(high)):
        return None
    ranks = stats.rankdata(torch.cat([high, low]).cpu().numpy())
    above = float(ranks[: len(high)].sum()) - len(high) * (len(high) + 1) / 2
    return above / (len(high) * len(low))


# ── agreement ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of an index with its reference (Bland and Altman, Lancet 327 (1986) 307).

    Attributes:
        bias: Mean of estimate - reference.
        lower: Lower limit of agreement, bias - 1.96 SD; None with fewer than two subjects.
        upper: Upper limit of agreement, bias + 1.96 SD.
        rmse: Root of the mean squared difference.
        r: Pearson's correlation; None where it is not defined.
        n: Subjects with both values.
    """

    bias: float | None
    lower: float | None
    upper: float | None
    rmse: float | None
    r: float | None
    n: int


def agreement(estimate: Sequence[float | None], reference: Sequence[float | None]) -> Agreement:
    """Compare two series over the subjects that have both values.

    Raises:
        ValueError: The series differ in length.
    """
    found, expected = _complete_pairs(estimate, reference)
    n = len(found)
    if n == 0:
        return Agreement(None, None, None, None, None, 0)
    difference = found - expected
    bias = float(difference.mean())
    half_width = 1.96 * float(difference.std(ddof=1)) if n > 1 else None
    return Agreement(
        bias=bias,
        lower=None if half_width is None else bias - half_width,
        upper=None if half_width is None else bias + half_width,
        rmse=math.sqrt(float((difference**2).mean())),
        r=_pearson(found, expected),
        n=n,
    )


def _complete_pairs(
    first: Sequence[float | None], second: Sequence[float | None]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The pairs that have both values; a NaN is no value."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    both = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    both = both[np.isfinite(both).all(axis=1)]
    return both[:, 0], both[:, 1]


def _pearson(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


# ── comparison of two methods ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Two methods on the same subjects.

    Attributes:
        mean_difference: Mean of first - second.
        t_test_p: Two-sided p of the paired t-test; None with fewer than two subjects.
        wilcoxon_p: Two-sided p of the Wilcoxon signed-rank test.
        n: Subjects with both values.
    """

    mean_difference: float | None
    t_test_p: float | None
    wilcoxon_p: float | None
    n: int


def compare_paired(first: Sequence[float | None], second: Sequence[float | None]) -> PairedComparison:
    """Test whether two methods differ over the subjects that have both values.

    Raises:
        ValueError: The series differ in length.
    """
    a, b = _complete_pairs(first, second)
    if len(a) < 2:
        return PairedComparison(float((a - b).mean()) if len(a) else None, None, None, len(a))
    difference = a - b
    if not difference.any():
        return PairedComparison(0.0, 1.0, 1.0, len(a))
    t_test: Any = stats.ttest_1samp(difference, 0.0) if np.ptp(difference) > 0 else None
    wilcoxon: Any = stats.wilcoxon(difference)
    return PairedComparison(
        mean_difference=float(difference.mean()),
        t_test_p=0.0 if t_test is None else float(t_test.pvalue),
        wilcoxon_p=float(wilcoxon.pvalue),
        n=len(a),
    )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values for their number (Holm, Scand J Stat 6 (1979) 65), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    steps = [(len(order) - rank) * p_values[index] for rank, index in enumerate(order)]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else []
    return tuple(float(p) for p in adjusted)
