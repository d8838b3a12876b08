"""Calibration: standard deviations over samples, calibrated intervals, and families of quantities."""

import math

import pytest
import torch

from cmnet_core.uncertainty.calibration import Calibration, family_of, intervals, spread


def test_spread_is_a_standard_deviation_robust_against_one_outlier() -> None:
    values = (2.0 * torch.randn(2000, generator=torch.Generator().manual_seed(0))).tolist()
    assert spread([{"gcs_peak_pct": value} for value in values])["gcs_peak_pct"] == pytest.approx(2.0, rel=0.05)
    few = [{"gcs_peak_pct": value} for value in values[:20]]
    rough = [*few[:-1], {"gcs_peak_pct": 500.0}]
    assert spread(rough)["gcs_peak_pct"] < 1.5 * spread(few)["gcs_peak_pct"]


def test_intervals_are_1_96_calibrated_standard_deviations_wide() -> None:
    draws = [{"lvesv_ml": 1.0, "gcs": None}, {"lvesv_ml": 3.0, "gcs": None}, {"lvesv_ml": 2.0, "gcs": -20.0}]
    assert spread(draws).keys() == {"lvesv_ml"}
    sd = {"lvesv_ml": 1.0}
    calibration = Calibration("", {"volumes": 2.0, "circumferential": 5.0}, {})
    ends = intervals({"lvesv_ml": 10.0, "lvef_pct": 3.0}, sd | {"lvef_pct": 4.0, "gcs": 1.0}, calibration)
    assert ends["lvesv_ml_lo"] == pytest.approx(10 - 2 * 1.96, abs=1e-3)
    assert ends["lvesv_ml_hi"] == pytest.approx(10 + 2 * 1.96, abs=1e-3)
    assert ends["lvef_pct_lo"] < 0
    assert "gcs_lo" not in ends
    assert intervals({"lvesv_ml": 1.0}, sd, calibration)["lvesv_ml_lo"] == 0
    assert intervals({"lvesv_ml": None}, sd, None) == {}
    late = intervals({"time_to_peak_gcs_ms": 300.0}, {"time_to_peak_gcs_ms": 500.0}, None, cycle_ms=900.0)
    assert late == {"time_to_peak_gcs_ms_lo": 0.0, "time_to_peak_gcs_ms_hi": 900.0}
    quick = intervals({"time_to_peak_gcs_ms": 300.0}, {"time_to_peak_gcs_ms": 0.0}, None, frame_ms=40.0, cycle_ms=900.0)
    assert quick["time_to_peak_gcs_ms_hi"] == pytest.approx(300.0 + 1.96 * 40.0 / math.sqrt(12.0), abs=1e-2)
    assert spread([]) == {}


def test_family_of_each_quantity() -> None:
    named = {
        "volumes": ("rvef_pct", "wall_thickness_es_mm"),
        "radial": ("grs_peak_pct", "err_peak_pct"),
        "circumferential": ("gcs_systolic_rate_per_s", "ecc_peak_pct"),
        "longitudinal": ("gls_sax_es_pct", "ell_peak_pct"),
        "times": ("time_to_peak_gcs_ms", "time_to_peak_ell_ms"),
        "motion": ("twist_deg",),
    }
    for family, names in named.items():
        assert [family_of(name) for name in names] == [family] * len(names)
