"""Calibration: spreads over samples, intervals of a row, and the file of a calibration."""

import math
from pathlib import Path

import pytest
import torch

from cmnet_core.errors import ManifestError
from cmnet_core.models.checkpoint import WEIGHTS, find_weights, load_checkpoint
from cmnet_core.uncertainty.calibration import (
    CALIBRATION_SUFFIX,
    Calibration,
    Limits,
    find_calibration,
    intervals,
    read_calibration,
    spread,
    without_calibration,
    write_calibration,
)
from cmnet_core.uncertainty.conformal import Coverage, QuantityCalibration


def test_spread_is_a_standard_deviation_robust_against_one_outlier() -> None:
    values = (2.0 * torch.randn(2000, generator=torch.Generator().manual_seed(0))).tolist()
    assert spread([{"gcs_peak_pct": value} for value in values])["gcs_peak_pct"] == pytest.approx(2.0, rel=0.05)
    few = [{"gcs_peak_pct": value} for value in values[:20]]
    rough = [*few[:-1], {"gcs_peak_pct": 500.0}]
    assert spread(rough)["gcs_peak_pct"] < 1.5 * spread(few)["gcs_peak_pct"]


def test_spread_leaves_out_what_few_samples_have() -> None:
    draws = [{"lvesv_ml": 1.0, "gcs": None}, {"lvesv_ml": 3.0, "gcs": None}, {"lvesv_ml": 2.0, "gcs": -20.0}]
    assert spread(draws).keys() == {"lvesv_ml"}
    assert spread([]) == {}


def test_intervals_are_the_half_width_around_the_value_within_limits() -> None:
    quantities = {
        "lvesv_ml": QuantityCalibration(2.0, typical_spread=3.0),
        "lvef_pct": QuantityCalibration(5.0),
        "time_to_peak_gcs_ms": QuantityCalibration(400.0),
        "gcs": QuantityCalibration(1.0),
    }
    values = {"lvesv_ml": 7.0, "lvef_pct": 3.0, "time_to_peak_gcs_ms": 300.0, "gcs": None}
    limits = {"lvesv_ml": Limits(0.0), "time_to_peak_gcs_ms": Limits(0.0, 900.0)}
    ends, uninformative = intervals(values, {"lvesv_ml": 4.0, "lvef_pct": 99.0}, quantities, limits)
    # 2 x the hypotenuse of 3 and 4.
    assert (ends["lvesv_ml_lo"], ends["lvesv_ml_hi"]) == (0.0, pytest.approx(17.0))
    assert (ends["lvef_pct_lo"], ends["lvef_pct_hi"]) == (-2.0, 8.0)
    assert (ends["time_to_peak_gcs_ms_lo"], ends["time_to_peak_gcs_ms_hi"]) == (0.0, 700.0)
    assert "gcs_lo" not in ends
    assert uninformative == ()


def test_interval_wider_than_half_of_the_range_is_left_out() -> None:
    quantities = {"twist_deg": QuantityCalibration(3.0, population_range=11.9), "lvm_g": QuantityCalibration(3.0)}
    ends, uninformative = intervals({"twist_deg": 8.0, "lvm_g": 90.0}, {}, quantities, {})
    assert uninformative == ("twist_deg",)
    assert ends.keys() == {"lvm_g_lo", "lvm_g_hi"}


def test_without_calibration_intervals_are_1_96_spreads_wide() -> None:
    ends, _ = intervals({"lvef_pct": 50.0}, {"lvef_pct": 2.0}, without_calibration({"lvef_pct": 2.0}), {})
    assert ends["lvef_pct_hi"] == pytest.approx(50 + 2 * 1.96, abs=1e-3)


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    quantity = QuantityCalibration(
        1.5, None, 40.0, "a population", 30, 30, None, -0.5, 2.0, 0.9, Coverage(90.0, 3.0), None
    )
    scaled = QuantityCalibration(
        1.25, 0.75, 10.0, "a population", 30, 480, 0.5, 0.0, 1.0, None, None, Coverage(95.0, 4.0)
    )
    written = Calibration("abc", {"indices": {"lvef_pct": quantity}, "segments": {"x": scaled}}, {"by": "a test"})
    write_calibration(tmp_path / "one.json", written)
    assert read_calibration(tmp_path / "one.json") == written
    assert written.uses_spread_of(["x"])
    assert not written.uses_spread_of(["lvef_pct"])


@pytest.mark.parametrize("text", ["", "[]", '{"format_version": 1}', '{"format_version": 2, "quantities": {"a": 1}}'])
def test_an_unusable_calibration_is_refused_with_its_path(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ManifestError, match=r"bad\.json"):
        read_calibration(path)


def test_shipped_calibration_belongs_to_the_shipped_weights() -> None:
    [path] = WEIGHTS.glob(f"*{CALIBRATION_SUFFIX}")
    calibration = find_calibration(load_checkpoint(find_weights("default")).digest)
    assert calibration == read_calibration(path)
    assert calibration is not None
    for quantity in (one for of_table in calibration.quantities.values() for one in of_table.values()):
        assert 0 < quantity.quantile < math.inf
        assert quantity.population
        assert quantity.subjects >= 19
    assert find_calibration("unknown") is None
