"""Draws have the covariance that the posterior names, and intervals come out as wide as their errors."""

import math

import pytest
import torch

from cmnet_core.labels import Label
from cmnet_core.models.gaussian import MotionPosterior
from cmnet_core.types import Spacing
from cmnet_core.uncertainty.calibration import Calibration, family_of, intervals, spread
from cmnet_core.uncertainty.posterior import (
    POOLING_FACTOR,
    NoiseCorrelation,
    Posterior,
    draw_shapes,
    draw_velocities,
    indices_of_shapes,
    pool_posterior,
    smooth_noise,
)

SPACING = Spacing(z=10.0, y=3.0, x=3.0)
NEAR = NoiseCorrelation(in_plane_mm=20.0, through_plane_mm=15.0, in_time=0.9)


def test_noise_has_variance_1_and_the_correlation_that_was_asked_for() -> None:
    noise = smooth_noise((4000, 7, 1, 30), SPACING, NEAR, torch.Generator().manual_seed(1))
    assert float(noise.var(dim=0).mean()) == pytest.approx(1, abs=0.02)
    at, beside, above = noise[:, 3, 0, 13], noise[:, 3, 0, 17], noise[:, 4, 0, 13]
    assert float((at * beside).mean()) == pytest.approx(math.exp(-((4 * 3 / 20) ** 2) / 2), abs=0.05)
    assert float((at * above).mean()) == pytest.approx(math.exp(-((10 / 15) ** 2) / 2), abs=0.08)


def _posterior(steps: int = 3, *, sd: float = 0.5, factor: tuple[float, float, float] = (0.0, 0.0, 2.0)) -> Posterior:
    shapes = torch.full((2, 4, 2, 8, 8), 0.25)
    log_sd = torch.full((steps, 2, 4, 4), math.log(sd))
    return Posterior(shapes, log_sd, torch.tensor(factor).view(1, 3, 1, 1, 1, 1).expand(steps, 3, 1, 2, 4, 4))


def test_velocities_are_drawn_with_the_covariance_of_the_posterior_and_last() -> None:
    generator = torch.Generator().manual_seed(2)
    mean = torch.ones(3, 3, 2, 16, 16)
    draws = torch.stack([draw_velocities(mean, _posterior(), SPACING, generator, NEAR) for _ in range(1500)])
    centre = draws[:, :, :, 1, 9, 9] - 1
    variance = centre.var(dim=0)[0]
    # An eighth of a pooled voxel from its centre; halfway between two, interpolation takes a sixth away.
    torch.testing.assert_close(variance, torch.tensor([0.25, 0.25, 4.25]), rtol=0.12, atol=0)
    remembered = (centre[:, 0, 2] * centre[:, 1, 2]).mean() / variance[2]
    assert float(remembered) == pytest.approx(0.9, abs=0.05)


def test_pooling_keeps_the_size_of_a_factor_that_turns() -> None:
    factor = torch.zeros(2, 3, 1, 8, 8)
    factor[:, 2] = 2.0
    factor[:, 2, :, ::2] = -1.0
    log_sd, pooled = pool_posterior(MotionPosterior(torch.zeros(2, 3, 8, 8), torch.full((2, 1, 8, 8), -4.0), factor))
    assert pooled.shape == (3, 1, 2, 8 // POOLING_FACTOR, 8 // POOLING_FACTOR)
    torch.testing.assert_close(log_sd, torch.full((2, 2, 2), -2.0))
    torch.testing.assert_close(pooled[2], torch.full((1, 2, 2, 2), math.sqrt(2.5)))


def _shapes(*, sharp: float) -> Posterior:
    """An LV in its wall at both phases, whose boundary is ``sharp`` logits a voxel."""
    axis = torch.arange(32) - 15.5
    radius = axis[:, None].hypot(axis)
    planes = []
    for inner in (9.0, 6.0):
        lv, wall = sharp * (inner - radius), sharp * (inner + 4 - radius)
        planes.append(torch.stack([torch.zeros(32, 32), 2 * lv + sharp, wall, torch.full((32, 32), -9.0)]).softmax(0))
    shapes = torch.stack(planes)[:, :, None].expand(2, 4, 3, 32, 32)
    return Posterior(shapes, torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 1, 3, 2, 2))


def test_a_blurred_boundary_makes_a_wider_interval_about_the_volume() -> None:
    widths = []
    for sharp in (4.0, 1.0):
        draws = draw_shapes(_shapes(sharp=sharp), SPACING, torch.Generator().manual_seed(3))
        found = [indices_of_shapes(next(draws), SPACING) for _ in range(30)]
        volumes = torch.tensor([draw.lvedv_ml for draw in found])
        counted = float((_shapes(sharp=sharp).shapes[0].argmax(0) == Label.LV).sum()) * SPACING.voxel_ml
        assert float(volumes.mean()) == pytest.approx(counted, rel=0.15)
        widths.append(float(volumes.std()))
    assert widths[1] > 2 * widths[0] > 0


def test_the_spread_is_the_standard_deviation_whatever_one_rough_draw_does() -> None:
    values = (2.0 * torch.randn(2000, generator=torch.Generator().manual_seed(0))).tolist()
    assert spread([{"gcs_peak_pct": value} for value in values])["gcs_peak_pct"] == pytest.approx(2.0, rel=0.05)
    few = [{"gcs_peak_pct": value} for value in values[:20]]
    rough = [*few[:-1], {"gcs_peak_pct": 500.0}]
    assert spread(rough)["gcs_peak_pct"] < 1.5 * spread(few)["gcs_peak_pct"]


def test_intervals_are_1_96_sd_wide_times_the_factor() -> None:
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


def test_families_are_told_by_what_the_doubt_is_about() -> None:
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
