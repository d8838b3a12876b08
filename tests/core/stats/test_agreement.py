"""Agreement and paired tests against closed forms, published examples and simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from cmnet_core.stats.agreement import (
    WithinSubject,
    agreement,
    compare_paired,
    holm,
    intraclass_correlation,
    within_subject,
)

SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=np.float64
)
"""The example of Shrout and Fleiss 1979: six subjects, four raters."""


def test_agreement_follows_bland_and_altman() -> None:
    reference = [50.0, 60.0, 70.0, None, 40.0, 80.0]
    estimate = [52.0, 59.0, 73.0, 10.0, None, 84.0]
    found = agreement(estimate, reference)
    difference = np.array([2.0, -1.0, 3.0, 4.0])
    half = 1.96 * difference.std(ddof=1)
    assert found.n == 4
    assert (found.bias, found.lower, found.upper) == pytest.approx((2.0, 2.0 - half, 2.0 + half))
    assert found.rmse == pytest.approx(math.sqrt(7.5))
    assert found.r == pytest.approx(stats.pearsonr([52, 59, 73, 84], [50, 60, 70, 80]).statistic)


def test_agreement_of_too_few_subjects_is_undefined() -> None:
    assert agreement([None], [3.0]).n == 0
    assert agreement([4.0, math.nan], [3.0, 1.0]) == agreement([4.0], [3.0])
    alone = agreement([4.0], [3.0])
    assert (alone.bias, alone.lower, alone.r, alone.icc, alone.rmse) == (1.0, None, None, None, 1.0)
    assert agreement([4.0, 5.0], [3.0, 3.0]).r is None
    with pytest.raises(ValueError, match="zip"):
        agreement([1.0, 2.0], [1.0])


def test_within_subject_variation_is_the_root_mean_square_of_an_analysis_of_variance() -> None:
    values = [10.0, 12.0, 20.0, 26.0, 23.0, 50.0, None, 14.0]
    subjects = ["a", "a", "b", "b", "b", "c", "d", "d"]
    found = within_subject(values, subjects)
    assert found.repeat_subjects == 2
    assert found.within_sd == pytest.approx(math.sqrt((2.0 + 18.0) / 3))
    assert found.within_cv_pct == pytest.approx(100 * math.sqrt(20.0 / 3) / 18.2)
    assert within_subject([1.0, 2.0], ["a", "b"]) == WithinSubject(0)


def test_paired_comparison_agrees_with_scipy() -> None:
    generator = np.random.default_rng(1)
    a = generator.normal(90, 3, 20)
    b = a - generator.normal(1, 1, 20)
    found = compare_paired(list(a), list(b))
    assert found.t_test_p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert found.wilcoxon_p == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert found.mean_difference == pytest.approx((a - b).mean())


def test_paired_comparison_of_equal_or_too_few_values() -> None:
    same = compare_paired([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (same.mean_difference, same.t_test_p, same.wilcoxon_p) == (0.0, 1.0, 1.0)
    alone = compare_paired([1.0, None], [3.0, 2.0])
    assert (alone.mean_difference, alone.t_test_p, alone.wilcoxon_p, alone.n) == (-2.0, None, None, 1)


def test_holm_adjusts_as_in_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.6, 0.7]) == pytest.approx((1.0, 1.0))
    assert holm([]) == ()


def test_intraclass_correlation_is_that_of_the_published_example() -> None:
    found = intraclass_correlation(SHROUT_FLEISS)
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.2898, 0.0188, 0.7611), abs=5e-4)
    assert intraclass_correlation(np.ones((5, 2))) is None
    perfect = intraclass_correlation(np.arange(6.0)[:, None].repeat(2, axis=1))
    assert perfect is not None
    assert perfect.value == 1.0
    nearly = np.arange(6.0)[:, None].repeat(2, axis=1) * [1.0, 1.0 + 1e-15]
    assert intraclass_correlation(nearly) == perfect


def test_a_constant_bias_lowers_absolute_agreement_but_not_correlation() -> None:
    reference = np.linspace(40.0, 80.0, 30)
    found = agreement(list(reference + 10.0), list(reference))
    assert found.r == pytest.approx(1.0)
    variance = reference.var()
    assert found.ccc == pytest.approx(2 * variance / (2 * variance + 100.0))
    assert found.icc is not None
    assert found.icc < 0.8
    assert found.slope == pytest.approx(0.0, abs=1e-9)


def test_a_proportional_bias_is_the_slope_of_the_difference_on_the_mean() -> None:
    reference = np.linspace(40.0, 80.0, 30)
    found = agreement(list(1.1 * reference), list(reference))
    assert found.slope == pytest.approx(0.1 / 1.05)
    assert found.slope_p is not None
    assert found.slope_p < 1e-6


def test_intervals_of_bias_and_limits_hold_in_95_of_100_samples() -> None:
    generator = np.random.default_rng(7)
    bias, sd, held = 1.5, 4.0, np.zeros(2)
    samples = 1500
    for _ in range(samples):
        difference = generator.normal(bias, sd, 25)
        found = agreement(list(60.0 + difference), [60.0] * 25)
        assert found.bias_low is not None
        assert found.bias_high is not None
        assert found.upper_low is not None
        assert found.upper_high is not None
        held += [found.bias_low <= bias <= found.bias_high, found.upper_low <= bias + 1.96 * sd <= found.upper_high]
    assert held / samples == pytest.approx([0.95, 0.95], abs=0.02)
