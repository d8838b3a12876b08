"""Split conformal calibration of the intervals of one quantity.

The calibration subjects have known values and were not used in training. The score of a subject is |error| / scale, and
the interval of a new subject is ``value ± q × scale``, where q is the ``⌈(n + 1) · level⌉``-th smallest of the n scores
(Vovk et al. 2005; Lei et al., J Am Stat Assoc 113 (2018) 1094). It contains the true value with at least the
probability ``level`` if the new subject is drawn from the same population, whatever the distribution of the errors is.

The scale is √(sd² + t²), sd the spread of the subject's posterior samples and t its median over the calibration
subjects, if the spread is rank-correlated with |error|; else it is 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from scipy import stats

from cmnet_core.stats.agreement import intraclass_correlation

LEVEL = 0.95
"""Nominal coverage of the intervals of the tables."""

COMPARED_LEVEL = 0.90
"""A second level at which coverage and width are evaluated; at 95 % few subjects are outside their intervals."""

INFORMATIVE_RANK_CORRELATION = 0.1
"""Spearman's rank correlation of spread and |error| from which on the spread scales the intervals. It is low, because
the typical spread in the scale limits what a correlation by chance costs: in 20 patients of ACDC the mean half-width
changes by less than 3 %, and falls by 18 % for the RV's ejection fraction, whose correlation is 0.26."""

RANGE_SD = 2 * 1.96
"""Width of the population's range in standard deviations of the known values: mean ± 1.96 SD, as reference ranges."""

USABLE_FRACTION = 0.5
"""Largest width of an interval as a fraction of the population's range; a wider one is not reported."""


@dataclass(frozen=True, slots=True)
class CalibrationPair:
    """A value of one subject, or of one of its segments, and the known value.

    Attributes:
        subject: The subject; several pairs of one subject are not independent.
        value: The value that cmnet reports.
        true: The known value.
        spread: Spread of the value over samples of the posterior; None where it was not sampled.
    """

    subject: str
    value: float
    true: float
    spread: float | None


@dataclass(frozen=True, slots=True)
class Coverage:
    """Intervals of calibration subjects, each computed from the other subjects alone.

    Attributes:
        held_pct: Percentage of the pairs whose interval contains the known value.
        half_width: Mean half-width of the intervals.
    """

    held_pct: float
    half_width: float


@dataclass(frozen=True, slots=True)
class QuantityCalibration:
    """The calibration of one quantity, and its evaluation.

    Attributes:
        quantile: Conformal quantile q of the scores at the level :data:`LEVEL`.
        typical_spread: Median spread t of the calibration subjects; None where the spread does not scale the interval.
        population_range: Width of the population's range, mean ± 1.96 SD of the known values.
        population: The calibration subjects, in words.
        subjects: Number of subjects.
        pairs: Number of pairs.
        rank_correlation: Spearman's rank correlation of spread and |error|; None without spreads.
        bias: Mean error.
        rmse: Root mean square error.
        reliability: Intraclass correlation ICC(2,1) of the values and the known values: the fraction of the variance
            that is a difference between subjects, or between their segments.
        at_90: Cross-validated coverage and width at 90 %.
        at_95: The same at 95 %.
    """

    quantile: float
    typical_spread: float | None = None
    population_range: float = math.inf
    population: str = ""
    subjects: int = 0
    pairs: int = 0
    rank_correlation: float | None = None
    bias: float = 0.0
    rmse: float = 0.0
    reliability: float | None = None
    at_90: Coverage | None = None
    at_95: Coverage | None = None

    def half_width(self, spread: float | None) -> float:
        """Return the half-width of an interval.

        Args:
            spread: Spread of the value over samples of the posterior; the typical one where it is None.
        """
        return self.quantile * _scale(spread, self.typical_spread)

    @property
    def largest_half_width(self) -> float:
        """The half-width above which an interval is not reported."""
        return 0.5 * USABLE_FRACTION * self.population_range

    @property
    def is_informative(self) -> bool:
        """Whether the interval of a typical subject is reported."""
        return self.half_width(None) <= self.largest_half_width


def calibrate(pairs: Sequence[CalibrationPair], *, population: str) -> QuantityCalibration | None:
    """Calibrate one quantity; None where there are too few subjects for the level :data:`LEVEL`.

    Args:
        pairs: Values and known values of the calibration subjects.
        population: The calibration subjects, in words.
    """
    found = fit(pairs, LEVEL)
    if not math.isfinite(found.quantile):
        return None
    both = np.array([(pair.value, pair.true) for pair in pairs])
    errors = both[:, 0] - both[:, 1]
    correlation = intraclass_correlation(both)
    return replace(
        found,
        population_range=RANGE_SD * float(both[:, 1].std(ddof=1)),
        population=population,
        subjects=len({pair.subject for pair in pairs}),
        pairs=len(pairs),
        rank_correlation=_rank_correlation(pairs),
        bias=float(errors.mean()),
        rmse=float(np.sqrt(np.square(errors).mean())),
        reliability=correlation.value if correlation else None,
        at_90=cross_validate(pairs, COMPARED_LEVEL),
        at_95=cross_validate(pairs, LEVEL),
    )


def cross_validate(pairs: Sequence[CalibrationPair], level: float) -> Coverage | None:
    """Evaluate the intervals of each subject with a calibration on all other subjects.

    The choice of the scale is repeated without the subject, too. None where there are too few subjects.

    Args:
        pairs: Values and known values of the calibration subjects.
        level: Nominal coverage.
    """
    held, widths = [], []
    for _, own in _by_subject(pairs):
        fitted = fit([pair for pair in pairs if pair.subject != own[0].subject], level)
        widths += [fitted.half_width(pair.spread) for pair in own]
        held += [abs(pair.value - pair.true) <= fitted.half_width(pair.spread) for pair in own]
    width = float(np.mean(widths)) if widths else math.inf
    return Coverage(100.0 * float(np.mean(held)), width) if math.isfinite(width) else None


def conformal_quantile(scores: Sequence[Sequence[float]], level: float) -> float:
    """Return the conformal quantile of scores; infinite where there are too few subjects.

    With several scores per subject it is the quantile of the mean of the subjects' distributions (Dunn et al., J Am
    Stat Assoc 118 (2023) 2491). The correction for the number of subjects is then left out: with 20 subjects it would
    ask for the largest score of all.

    Args:
        scores: The scores of each subject.
        level: Nominal coverage.
    """
    if len(scores) < fewest_subjects(level):
        return math.inf
    pooled = any(len(own) > 1 for own in scores)
    # Rounding errors must not raise 0.95 x 20 to the next integer.
    rank = len(scores) * level if pooled else math.ceil((len(scores) + 1) * level - 1e-9)
    values = np.concatenate([np.asarray(own, dtype=float) for own in scores])
    weights = np.concatenate([np.full(len(own), 1.0 / len(own)) for own in scores])
    order = np.argsort(values)
    position = int(np.searchsorted(np.cumsum(weights[order]), rank - 1e-9))
    return float(values[order][min(position, len(values) - 1)])


def fewest_subjects(level: float) -> int:
    """Return the smallest number of calibration subjects with which intervals of a level are finite.

    >>> fewest_subjects(0.95)
    19
    """
    return math.ceil(level / (1.0 - level) - 1e-9)


def fit(pairs: Sequence[CalibrationPair], level: float) -> QuantityCalibration:
    """Choose the scale of the scores, and compute their conformal quantile; infinite with too few subjects.

    Args:
        pairs: Values and known values of the calibration subjects.
        level: Nominal coverage.
    """
    known = [pair.spread for pair in pairs if pair.spread is not None]
    correlation = _rank_correlation(pairs)
    informative = correlation is not None and correlation >= INFORMATIVE_RANK_CORRELATION
    typical = float(np.median(known)) if informative else None
    scores = [
        [abs(pair.value - pair.true) / _scale(pair.spread, typical) for pair in own] for _, own in _by_subject(pairs)
    ]
    return QuantityCalibration(conformal_quantile(scores, level), typical)


def _scale(spread: float | None, typical: float | None) -> float:
    return 1.0 if typical is None else math.hypot(typical if spread is None else spread, typical)


def _rank_correlation(pairs: Sequence[CalibrationPair]) -> float | None:
    """Spearman's rank correlation of spread and |error|; None where it is not defined."""
    known = [(pair.spread, abs(pair.value - pair.true)) for pair in pairs if pair.spread is not None]
    spreads, errors = (np.array(values) for values in zip(*known, strict=True)) if known else (np.zeros(0),) * 2
    if len(known) < 3 or np.ptp(spreads) == 0 or np.ptp(errors) == 0 or np.median(spreads) == 0:
        return None
    return float(stats.spearmanr(spreads, errors).statistic)


def _by_subject(pairs: Sequence[CalibrationPair]) -> list[tuple[str, list[CalibrationPair]]]:
    ordered = sorted(pairs, key=lambda pair: pair.subject)
    return [(subject, list(own)) for subject, own in groupby(ordered, key=lambda pair: pair.subject)]
