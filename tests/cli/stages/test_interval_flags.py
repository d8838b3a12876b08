"""The flags of intervals that are too wide to be reported."""

from cmnet_cli.stages.intervals import width_flags
from cmnet_core.uncertainty.conformal import QuantityCalibration


def test_an_interval_that_is_always_too_wide_has_another_flag_than_one_of_this_subject() -> None:
    # At the typical spread half is 2 x 3 x sqrt(2); it may be a quarter of the range.
    quantities = {
        "usual": QuantityCalibration(2.0, typical_spread=3.0, population_range=34.0),
        "uncertain": QuantityCalibration(2.0, typical_spread=3.0, population_range=33.0),
        "constant": QuantityCalibration(8.0, population_range=31.0),
    }
    assert width_flags([], quantities) == []
    assert width_flags(["usual"], quantities) == ["interval-wide"]
    assert width_flags(["uncertain", "constant"], quantities) == ["interval-uninformative"]
    assert width_flags(["constant", "usual"], quantities) == ["interval-uninformative", "interval-wide"]
