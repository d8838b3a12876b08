"""How far two groups of people differ: a difference in standard deviations, a test, and its correction for many tests.

Everything starts from counts, means and standard deviations, so that a group may be of any size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import gammaln


@dataclass(frozen=True, slots=True)
class Moments:
    """What is left of a group's values.

    Attributes:
        n: How many there are.
        mean: Their mean; NaN without values.
        sd: Their standard deviation, divisor n - 1; NaN with fewer than two.
    """

    n: int
    mean: float
    sd: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Second group minus first.

    Attributes:
        mean: Difference of the means, in the unit of the quantity.
        effect: Hedges' g: the difference in standard deviations of people, corrected for small groups.
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
    """Count, mean and standard deviation of the values that are known; a NaN is none."""
    known = values[np.isfinite(values)]
    n = len(known)
    mean = float(known.mean()) if n else math.nan
    return Moments(n, mean, float(known.std(ddof=1)) if n > 1 else math.nan)


def difference_between(first: Moments, second: Moments) -> Difference | None:
    """The difference of two groups, or None where a group has fewer than two values or nothing varies.

    Hedges' g with the exact correction for small groups, and its variance as in Borenstein et al., Introduction to
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
    reach = 1.96 * correction * math.sqrt(variance)
    effect = correction * d
    return Difference(mean, effect, effect - reach, effect + reach, _welch(first, second))


def _small_sample_correction(freedom: int) -> float:
    """Hedges, Journal of Educational Statistics 6 (1981) 107: Γ(m/2) / (sqrt(m/2) Γ((m-1)/2))."""
    return math.exp(gammaln(freedom / 2) - 0.5 * math.log(freedom / 2) - gammaln((freedom - 1) / 2))


def _welch(first: Moments, second: Moments) -> float:
    test: Any = stats.ttest_ind_from_stats(
        second.mean, second.sd, second.n, first.mean, first.sd, first.n, equal_var=False
    )
    return float(test.pvalue)


def false_discovery(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values for their number (Benjamini and Hochberg, J R Stat Soc B 57 (1995) 289), in the order given.

    Calling everything below q a discovery, a share q of the discoveries is expected to be false.
    """
    if not len(p_values):
        return ()
    adjusted: Any = stats.false_discovery_control(p_values)
    return tuple(float(q) for q in adjusted)
