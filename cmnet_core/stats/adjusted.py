"""Differences between two groups that are adjusted for covariates, with visits of one subject as a cluster."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # scipy.stats takes a second to import, and is imported where it is first used
from jaxtyping import Float64, Shaped


@dataclass(frozen=True, slots=True)
class AdjustedDifference:
    """Difference of two groups at equal covariates, second minus first.

    Attributes:
        mean: Difference in the unit of the quantity.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        p: Two-sided p of no difference.
        n: Number of rows with all values.
        clusters: Number of subjects among them.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int
    clusters: int


def adjusted_difference(
    values: Float64[np.ndarray, " n"],
    is_second: Shaped[np.ndarray, " n"],
    covariates: Sequence[Float64[np.ndarray, " n"]],
    categories: Sequence[Shaped[np.ndarray, " n"]],
    clusters: Shaped[np.ndarray, " n"],
) -> AdjustedDifference | None:
    """Fit a linear model ``value ~ group + covariates + categories``, and test the group.

    The covariance of the coefficients allows for any correlation within a cluster and for unequal variances (Liang and
    Zeger, Biometrika 73 (1986) 13), with the correction ``G / (G - 1) (n - 1) / (n - k)`` and the t distribution with
    G - 1 degrees of freedom, as in Stata and in statsmodels with ``cov_type="cluster"`` and ``use_t=True``.

    Args:
        values: One per row; rows without a value or without any covariate are left out.
        is_second: Whether a row belongs to the second group.
        covariates: Numbers, such as age in years; NaN where there is none.
        categories: Codes, such as that of the site; negative where there is none.
        clusters: Code of the subject of each row.

    Returns:
        The difference, or None where the model is not determined: a group is empty, groups and covariates cannot be
        separated, or there are too few subjects.
    """
    known = np.isfinite(values)
    for column in covariates:
        known &= np.isfinite(column)
    for codes in categories:
        known &= codes >= 0
    second = is_second[known].astype(np.float64)
    n = len(second)
    columns = [np.ones(n), second, *(_standardised(column[known]) for column in covariates)]
    for codes in categories:
        columns += [(codes[known] == code).astype(np.float64) for code in np.unique(codes[known])[1:]]
    # A covariate that no row differs in explains nothing.
    columns = columns[:2] + [column for column in columns[2:] if np.ptp(column) > 0]
    design = np.stack(columns, axis=1)
    subjects, subject = np.unique(clusters[known], return_inverse=True)
    groups = len(subjects)
    if n <= design.shape[1] or groups <= design.shape[1] or np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    bread = np.linalg.inv(design.T @ design)
    coefficients = bread @ design.T @ values[known]
    scores = np.zeros((groups, design.shape[1]))
    np.add.at(scores, subject, design * (values[known] - design @ coefficients)[:, None])
    correction = groups / (groups - 1) * (n - 1) / (n - design.shape[1])
    error = math.sqrt(correction * float((bread @ scores.T @ scores @ bread)[1, 1]))
    mean = float(coefficients[1])
    half = float(scipy.stats.t.ppf(0.975, groups - 1)) * error
    p = 2 * float(scipy.stats.t.sf(abs(mean) / error, groups - 1)) if error > 0 else math.nan
    return AdjustedDifference(mean, mean - half, mean + half, p, n, groups)


def _standardised(column: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """A covariate with mean 0 and SD 1, which keeps the normal equations well conditioned."""
    spread = float(column.std()) if len(column) else 0.0
    return (column - column.mean()) / spread if spread > 0 else column * 0.0
