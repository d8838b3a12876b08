"""Conformal calibration: its coverage, its scale, several values of a subject, and what is too wide to be of use."""

import math

import numpy as np
import pytest

from cmnet_core.uncertainty.conformal import (
    CalibrationPair,
    QuantityCalibration,
    calibrate,
    conformal_quantile,
    cross_validate,
    fewest_subjects,
    fit,
)

POPULATION = "made for this test"


def pairs_of(errors: np.ndarray, spreads: np.ndarray | None = None, *, per_subject: int = 1) -> list[CalibrationPair]:
    """Pairs with true values from 0 to 100."""
    true = np.linspace(0.0, 100.0, len(errors))
    known = [None] * len(errors) if spreads is None else spreads.tolist()
    return [
        CalibrationPair(f"s{number // per_subject}", value + error, value, spread)
        for number, (value, error, spread) in enumerate(zip(true.tolist(), errors.tolist(), known, strict=True))
    ]


def test_quantile_is_the_score_of_the_conformal_rank() -> None:
    scores = [[float(score)] for score in np.random.default_rng(0).permutation(np.arange(1, 41))]
    assert conformal_quantile(scores, 0.90) == math.ceil(41 * 0.90)
    assert conformal_quantile(scores, 0.95) == math.ceil(41 * 0.95)
    # 0.95 x 20 is 19 exactly, although its floating-point product may be larger.
    assert conformal_quantile(scores[:19], 0.95) == max(scores[:19])[0]
    assert conformal_quantile(scores[:18], 0.95) == math.inf
    assert (fewest_subjects(0.90), fewest_subjects(0.95)) == (9, 19)


def test_new_subjects_are_within_their_interval_with_the_nominal_probability() -> None:
    rng = np.random.default_rng(1)
    held = []
    for _ in range(300):
        errors = rng.standard_t(3, 41)
        quantile = fit(pairs_of(errors[:40]), 0.9).quantile
        held.append(abs(errors[40]) <= quantile)
    # At least 90 %, and at most 1 / 41 more.
    assert np.mean(held) == pytest.approx(0.91, abs=0.035)


def test_several_scores_of_a_subject_count_as_one_subject() -> None:
    # One subject has 100 large scores, the 39 others one small score each: all but 1 of 40 subjects are below 2.
    scores = [[10.0] * 100, *([1.0 + number / 100] for number in range(39))]
    assert conformal_quantile(scores, 0.90) < 2
    # With segments, a whole subject is left out.
    errors = np.repeat(np.random.default_rng(2).normal(size=40), 16)
    found = cross_validate(pairs_of(errors, per_subject=16), 0.90)
    assert found is not None
    assert found.held_pct == pytest.approx(90.0, abs=2.6)


def test_cross_validated_coverage_is_that_of_the_rank() -> None:
    found = cross_validate(pairs_of(np.random.default_rng(3).normal(size=20)), 0.90)
    assert found is not None
    assert found.held_pct == pytest.approx(90.0)
    assert cross_validate(pairs_of(np.random.default_rng(3).normal(size=19)), 0.95) is None


def test_spread_scales_intervals_only_if_it_predicts_the_error() -> None:
    rng = np.random.default_rng(4)
    spreads = rng.uniform(0.2, 5.0, 60)
    predicted = calibrate(pairs_of(spreads * rng.normal(size=60), spreads), population=POPULATION)
    unrelated = calibrate(pairs_of((6.0 - spreads) * rng.normal(size=60), spreads), population=POPULATION)
    assert predicted is not None
    assert unrelated is not None
    assert predicted.typical_spread == pytest.approx(np.median(spreads))
    assert predicted.half_width(5.0) > 2 * predicted.half_width(0.2)
    assert predicted.half_width(None) == predicted.half_width(predicted.typical_spread)
    assert unrelated.typical_spread is None
    assert unrelated.half_width(5.0) == unrelated.half_width(None) == unrelated.quantile
    assert (unrelated.population, unrelated.subjects, unrelated.pairs) == (POPULATION, 60, 60)


def test_wide_intervals_are_not_reported() -> None:
    calibration = calibrate(pairs_of(np.random.default_rng(5).normal(size=60)), population=POPULATION)
    assert calibration is not None
    # Mean ± 1.96 SD of 60 values at equal distances from 0 to 100.
    population = 2 * 1.96 * np.linspace(0.0, 100.0, 60).std(ddof=1)
    assert calibration.population_range == pytest.approx(population)
    # The whole interval is at most half of the range.
    assert calibration.largest_half_width == pytest.approx(population / 4)
    assert calibration.half_width(None) < calibration.largest_half_width
    # Errors of variance 1 beside a variance of 100^2 / 12 between subjects.
    assert calibration.reliability == pytest.approx(1 / (1 + 1 / (100**2 / 12)), abs=1e-2)
    assert QuantityCalibration(1e9).largest_half_width == math.inf


def test_too_few_subjects_are_not_calibrated() -> None:
    assert calibrate(pairs_of(np.arange(18.0)), population=POPULATION) is None
    assert calibrate(pairs_of(np.arange(19.0)), population=POPULATION) is not None


def test_two_scores_of_a_subject_are_pooled_without_correction() -> None:
    once = [[float(score)] for score in range(1, 21)]
    assert conformal_quantile(once, 0.90) == 19
    assert conformal_quantile([own * 2 for own in once], 0.90) == 18


def test_card_of_a_calibration_has_its_errors_and_its_coverage() -> None:
    errors = np.random.default_rng(5).normal(0.7, 1.0, 60)
    pairs = pairs_of(errors)
    found = calibrate(pairs, population=POPULATION)
    assert found is not None
    assert (found.subjects, found.pairs, found.population) == (60, 60, POPULATION)
    assert found.bias == pytest.approx(errors.mean())
    assert found.rmse == pytest.approx(np.sqrt(np.square(errors).mean()))
    assert found.at_90 == cross_validate(pairs, 0.90)
    assert found.at_95 == cross_validate(pairs, 0.95)
