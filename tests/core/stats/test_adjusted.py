"""Adjusted differences between groups: against statsmodels, and where the model is not determined."""

import numpy as np
import pytest

from cmnet_core.stats.adjusted import adjusted_difference

STATSMODELS = (4.12316969931, 2.09605728552, 6.1502821131, 0.000194354768769)
"""Difference, interval and p of statsmodels 0.15.0, from the call in the test's docstring."""


def cohort() -> dict[str, np.ndarray]:
    """Forty subjects of two groups, every second of them at two visits; the older ones are in the second group."""
    generator = np.random.default_rng(7)
    subject = np.concatenate([np.arange(40), np.arange(0, 40, 2)])
    second = subject % 4 >= 2
    age = generator.normal(55, 8, 40)[subject] + 6 * second
    site = generator.integers(0, 3, 40)[subject]
    own = generator.normal(0, 4, 40)[subject]
    value = 100 - 0.5 * age + 3 * second + 2 * site + own + generator.normal(0, 1, len(subject))
    return {"value": value, "second": second, "age": age, "site": site, "subject": subject}


def test_adjusted_difference_is_that_of_statsmodels() -> None:
    """``ols("value ~ second + age + C(site)").fit(cov_type="cluster", cov_kwds={"groups": subject}, use_t=True)``."""
    rows = cohort()
    found = adjusted_difference(rows["value"], rows["second"], [rows["age"]], [rows["site"]], rows["subject"])
    assert found is not None
    assert (found.n, found.clusters) == (60, 40)
    assert (found.mean, found.low, found.high, found.p) == pytest.approx(STATSMODELS, rel=1e-6)


def test_rows_without_a_covariate_are_left_out_and_a_constant_one_is_ignored() -> None:
    rows = cohort()
    age = rows["age"].copy()
    age[:5] = np.nan
    found = adjusted_difference(rows["value"], rows["second"], [age, np.ones(60)], [], rows["subject"])
    expected = adjusted_difference(rows["value"][5:], rows["second"][5:], [age[5:]], [], rows["subject"][5:])
    assert found is not None
    assert found == expected


def test_groups_that_cannot_be_separated_from_a_covariate_have_no_difference() -> None:
    rows = cohort()
    of_group = rows["second"].astype(np.int64)
    assert adjusted_difference(rows["value"], rows["second"], [], [of_group], rows["subject"]) is None
    assert adjusted_difference(rows["value"], np.zeros(60, bool), [rows["age"]], [], rows["subject"]) is None
    assert adjusted_difference(rows["value"][:2], rows["second"][:2], [], [], rows["subject"][:2]) is None
