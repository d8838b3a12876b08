"""Agreement of two methods, and paired tests between them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of an index with its reference (Bland and Altman, Lancet 327 (1986) 307).

    Attributes:
        bias: Mean of estimate - reference.
        lower: Lower limit of agreement, bias - 1.96 SD; None with fewer than two subjects.
        upper: Upper limit of agreement, bias + 1.96 SD.
        rmse: Root of the mean squared difference.
        r: Pearson's correlation coefficient; None where it is undefined.
        n: Number of subjects with both values.
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
    """The pairs in which both values are finite."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    both = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    both = both[np.isfinite(both).all(axis=1)]
    return both[:, 0], both[:, 1]


def _pearson(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Paired comparison of two methods on the same subjects.

    Attributes:
        mean_difference: Mean of first - second.
        t_test_p: Two-sided p of the paired t-test; None with fewer than two subjects.
        wilcoxon_p: Two-sided p of the Wilcoxon signed-rank test.
        n: Number of subjects with both values.
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
    """Adjust p-values for multiple testing by Holm's method (Scand J Stat 6 (1979) 65), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    steps = [(len(order) - rank) * p_values[index] for rank, index in enumerate(order)]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else []
    return tuple(float(p) for p in adjusted)
