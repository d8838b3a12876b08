"""Agreement of two methods, and paired tests between them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # scipy.stats takes a second to import, and is imported where it is first used
from jaxtyping import Float64
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of an estimate with its reference.

    All intervals are 95 % confidence intervals. Values are None where they are undefined.

    Attributes:
        n: Number of subjects with both values.
        bias: Mean of estimate - reference.
        bias_low: Lower end of its interval, from the t distribution with n - 1 degrees of freedom.
        bias_high: Upper end of its interval.
        lower: Lower limit of agreement, bias - 1.96 SD (Bland and Altman, Lancet 327 (1986) 307).
        lower_low: Lower end of its interval; the standard error of a limit is SD √(1/n + 1.96² / (2n - 2)) (Bland and
            Altman, Stat Methods Med Res 8 (1999) 135).
        lower_high: Upper end of its interval.
        upper: Upper limit of agreement, bias + 1.96 SD.
        upper_low: Lower end of its interval.
        upper_high: Upper end of its interval.
        rmse: Root of the mean squared difference.
        r: Pearson's correlation coefficient.
        icc: Intraclass correlation coefficient ICC(2,1), see :func:`intraclass_correlation`.
        icc_low: Lower end of its interval.
        icc_high: Upper end of its interval.
        ccc: Lin's concordance correlation coefficient (Lin, Biometrics 45 (1989) 255).
        slope: Slope of the difference on the mean of both values; other than 0 it shows a proportional bias.
        slope_p: Two-sided p of slope 0.
    """

    n: int
    bias: float | None = None
    bias_low: float | None = None
    bias_high: float | None = None
    lower: float | None = None
    lower_low: float | None = None
    lower_high: float | None = None
    upper: float | None = None
    upper_low: float | None = None
    upper_high: float | None = None
    rmse: float | None = None
    r: float | None = None
    icc: float | None = None
    icc_low: float | None = None
    icc_high: float | None = None
    ccc: float | None = None
    slope: float | None = None
    slope_p: float | None = None


def agreement(estimate: Sequence[float | None], reference: Sequence[float | None]) -> Agreement:
    """Compare two series over the subjects that have both values.

    Raises:
        ValueError: The series differ in length.
    """
    found, expected = _complete_pairs(estimate, reference)
    n = len(found)
    if n == 0:
        return Agreement(0)
    difference = found - expected
    bias, rmse = float(difference.mean()), math.sqrt(float((difference**2).mean()))
    if n == 1:
        return Agreement(1, bias=bias, rmse=rmse)
    sd, t = float(difference.std(ddof=1)), float(scipy.stats.t.ppf(0.975, n - 1))
    bias_half = t * sd / math.sqrt(n)
    limit_half = t * sd * math.sqrt(1 / n + 1.96**2 / (2 * (n - 1)))
    lower, upper = bias - 1.96 * sd, bias + 1.96 * sd
    icc = intraclass_correlation(np.stack([found, expected], axis=1))
    slope, slope_p = _proportional_bias(found, expected)
    return Agreement(
        n,
        bias=bias,
        bias_low=bias - bias_half,
        bias_high=bias + bias_half,
        lower=lower,
        lower_low=lower - limit_half,
        lower_high=lower + limit_half,
        upper=upper,
        upper_low=upper - limit_half,
        upper_high=upper + limit_half,
        rmse=rmse,
        r=_pearson(found, expected),
        icc=icc.value if icc else None,
        icc_low=icc.low if icc else None,
        icc_high=icc.high if icc else None,
        ccc=_concordance(found, expected),
        slope=slope,
        slope_p=slope_p,
    )


@dataclass(frozen=True, slots=True)
class IntraclassCorrelation:
    """An intraclass correlation coefficient with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def intraclass_correlation(ratings: Float64[np.ndarray, "n k"]) -> IntraclassCorrelation | None:
    """ICC(2,1): two-way random effects, absolute agreement, single rater.

    ``(MS_R - MS_E) / (MS_R + (k - 1) MS_E + k (MS_C - MS_E) / n)`` with the mean squares of subjects, raters and error
    (Shrout and Fleiss, Psychol Bull 86 (1979) 420); the interval is that of McGraw and Wong, Psychol Methods 1 (1996)
    30, case 2A.

    Args:
        ratings: One row per subject, one column per rater.

    Returns:
        The coefficient, or None with fewer than three subjects or if no value varies.
    """
    n, k = ratings.shape
    if n < 3 or k < 2 or np.ptp(ratings) == 0:
        return None
    mean = ratings.mean()
    rows, columns = ratings.mean(axis=1) - mean, ratings.mean(axis=0) - mean
    ms_rows = k * float((rows**2).sum()) / (n - 1)
    ms_columns = n * float((columns**2).sum()) / (k - 1)
    residual = ratings - mean - rows[:, None] - columns[None]
    ms_error = float((residual**2).sum()) / ((n - 1) * (k - 1))
    value = (ms_rows - ms_error) / (ms_rows + (k - 1) * ms_error + k * (ms_columns - ms_error) / n)
    # With perfect agreement up to rounding the degrees of freedom of the interval are undefined.
    if 1 - value < 1e-12:
        return IntraclassCorrelation(1.0, 1.0, 1.0)
    a = k * value / (n * (1 - value))
    b = 1 + k * value * (n - 1) / (n * (1 - value))
    freedom = (a * ms_columns + b * ms_error) ** 2 / (
        (a * ms_columns) ** 2 / (k - 1) + (b * ms_error) ** 2 / ((n - 1) * (k - 1))
    )
    f_low, f_high = float(scipy.stats.f.ppf(0.975, n - 1, freedom)), float(scipy.stats.f.ppf(0.975, freedom, n - 1))
    error = k * ms_columns + (k * n - k - n) * ms_error
    low = n * (ms_rows - f_low * ms_error) / (f_low * error + n * ms_rows)
    high = n * (f_high * ms_rows - ms_error) / (error + n * f_high * ms_rows)
    return IntraclassCorrelation(value, low, high)


@dataclass(frozen=True, slots=True)
class WithinSubject:
    """Variation of a quantity between visits of the same subject; None where no subject has two visits.

    Attributes:
        repeat_subjects: Number of subjects with a value at two visits or more.
        within_sd: Within-subject standard deviation: the root of the mean square within subjects.
        within_cv_pct: Within-subject coefficient of variation in %, ``100 within_sd / |mean|``.
    """

    repeat_subjects: int
    within_sd: float | None = None
    within_cv_pct: float | None = None


def within_subject(values: Sequence[float | None], subjects: Sequence[str]) -> WithinSubject:
    """Estimate the variation between visits by a one-way analysis of variance.

    Bland and Altman, BMJ 313 (1996) 744: the difference of two visits is below 2.77 ``within_sd`` in 95 % of subjects.

    Args:
        values: One per visit.
        subjects: The subject of each visit.

    Raises:
        ValueError: The series differ in length.
    """
    visits: dict[str, list[float]] = {}
    for value, subject in zip(values, subjects, strict=True):
        if value is not None and math.isfinite(value):
            visits.setdefault(subject, []).append(value)
    repeated = [np.array(listed) for listed in visits.values() if len(listed) > 1]
    if not repeated:
        return WithinSubject(0)
    squares = sum(float(((listed - listed.mean()) ** 2).sum()) for listed in repeated)
    sd = math.sqrt(squares / sum(len(listed) - 1 for listed in repeated))
    mean = abs(float(np.concatenate(repeated).mean()))
    return WithinSubject(len(repeated), sd, 100 * sd / mean if mean > 0 else None)


def _concordance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """Lin's concordance correlation coefficient, ``2 s_xy / (s_x² + s_y² + (x̄ - ȳ)²)`` with divisor n."""
    scale = float(first.var() + second.var() + (first.mean() - second.mean()) ** 2)
    return 2 * float(np.cov(first, second, ddof=0)[0, 1]) / scale if scale > 0 else None


def _proportional_bias(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Slope of the difference on the mean, and its p."""
    mean = (first + second) / 2
    if len(mean) < 3 or np.ptp(mean) == 0:
        return None, None
    fit: Any = scipy.stats.linregress(mean, first - second)
    return float(fit.slope), float(fit.pvalue)


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
    t_test: Any = scipy.stats.ttest_1samp(difference, 0.0) if np.ptp(difference) > 0 else None
    wilcoxon: Any = scipy.stats.wilcoxon(difference)
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
