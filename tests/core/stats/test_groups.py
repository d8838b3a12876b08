import math

import numpy as np
import pytest
from scipy import stats

from cmnet_core.stats.groups import Moments, difference_between, false_discovery, moments_of


def test_effect_size_and_its_interval_are_those_of_the_textbook():
    found = difference_between(Moments(50, 100.0, 4.5), Moments(50, 103.0, 5.5))
    assert found.mean == pytest.approx(3.0)
    assert found.effect == pytest.approx(0.5924, abs=5e-5)
    assert (found.effect_high - found.effect_low) / (2 * 1.96) == pytest.approx(math.sqrt(0.0411), abs=1e-3)


def test_the_p_value_is_that_of_the_test_on_the_values_themselves():
    generator = np.random.default_rng(2)
    first, second = generator.normal(60, 5, 24), generator.normal(55, 9, 41)
    found = difference_between(moments_of(np.append(first, math.nan)), moments_of(second))
    assert found.p == pytest.approx(stats.ttest_ind(second, first, equal_var=False).pvalue, rel=1e-9)
    assert found.effect < 0


def test_small_groups_are_pulled_towards_zero_without_bias():
    generator = np.random.default_rng(3)
    drawn = [
        difference_between(moments_of(generator.normal(0, 1, 4)), moments_of(generator.normal(0.8, 1, 4))).effect
        for _ in range(3000)
    ]
    assert np.mean(drawn) == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("second", [Moments(0, math.nan, math.nan), Moments(1, 3.0, math.nan), Moments(5, 3.0, 0.0)])
def test_groups_that_cannot_be_compared_are_not(second):
    assert difference_between(Moments(5, 3.0, 0.0), second) is None


def test_false_discoveries_are_adjusted_as_by_hand():
    # Largest first: 0.04 x 4/4; min(0.04, 0.03 x 4/3); 0.02 x 4/2; 0.005 x 4/1.
    assert false_discovery([0.02, 0.005, 0.03, 0.04]) == pytest.approx((0.04, 0.02, 0.04, 0.04))
    assert false_discovery([]) == ()
