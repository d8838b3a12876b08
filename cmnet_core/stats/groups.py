"""Differences between two groups: effect size, Welch's test, and correction for multiple testing.

All functions start from counts, means and standard deviations, so that a group may be of any size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # scipy.stats takes a second to import, and is imported where it is first used
from numpy.typing import NDArray
from scipy.special import gammaln


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and standard deviation of a group.

    Attributes:
        n: Number of values.
        mean: Mean; NaN without values.
        sd: Standard deviation with divisor n - 1; NaN with fewer than two values.
    """

    n: int
    mean: float
    sd: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference of two groups, second minus first.

    Attributes:
        mean: Difference of the means, in the unit of the quantity.
        effect: Hedges' g: the difference in pooled standard deviations, corrected for small samples.
        effect_low: Lower end of its 95 % interval.
        effect_high: Upper end of its 95 % interval.
        p: Two-sided p of Welch's t-test.
    """

    mean: float
    effect: float
    effect_low: float
    effect_high: float
    p: float


def moments_of(values: NDArray[np.float64]) -> Moments:
    """Count, mean and standard deviation of the finite values."""
    finite = values[np.isfinite(values)]
    n = len(finite)
    mean = float(finite.mean()) if n else math.nan
    return Moments(n, mean, float(finite.std(ddof=1)) if n > 1 else math.nan)


def difference_between(first: Moments, second: Moments) -> Difference | None:
    """Compare two groups; None if a group has fewer than two values or no value varies.

    Hedges' g with the exact small-sample correction, and its variance as in Borenstein et al., Introduction to
    Meta-Analysis (2009), equations 4.18 to 4.24; Welch, Biometrika 34 (1947) 28.

    Example:
        >>> found = difference_between(Moments(50, 100.0, 4.5), Moments(50, 103.0, 5.5))
        >>> f"{found.effect:.4f}"
        '0.5924'
    """
    if min(first.n, second.n) < 2 or not first.sd + second.sd > 0:
        return None
    freedom = first.n + second.n - 2
    pooled = math.sqrt(((first.n - 1) * first.sd**2 + (second.n - 1) * second.sd**2) / freedom)
    mean = second.mean - first.mean
    d, correction = mean / pooled, _small_sample_correction(freedom)
    variance = (first.n + second.n) / (first.n * second.n) + d**2 / (2 * (first.n + second.n))
    half_width = 1.96 * correction * math.sqrt(variance)
    effect = correction * d
    return Difference(mean, effect, effect - half_width, effect + half_width, _welch(first, second))


def _small_sample_correction(freedom: int) -> float:
    """Hedges, Journal of Educational Statistics 6 (1981) 107: Γ(m/2) / (sqrt(m/2) Γ((m-1)/2))."""
    return math.exp(gammaln(freedom / 2) - 0.5 * math.log(freedom / 2) - gammaln((freedom - 1) / 2))


def _welch(first: Moments, second: Moments) -> float:
    test: Any = scipy.stats.ttest_ind_from_stats(
        second.mean, second.sd, second.n, first.mean, first.sd, first.n, equal_var=False
    )
    return float(test.pvalue)


def false_discovery(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values for multiple testing (Benjamini and Hochberg, J R Stat Soc B 57 (1995) 289), in the order given.

    If all values below q are called discoveries, a fraction q of the discoveries is expected to be false.
    """
    if not len(p_values):
        return ()
    adjusted: Any = scipy.stats.false_discovery_control(p_values)
    return tuple(float(q) for q in adjusted)
