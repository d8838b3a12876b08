"""Peaks, times and rates of curves that are known, and of the same curves with noise where it hurts most."""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from cmnet_core.mechanics import strain_curves
from cmnet_core.mechanics.strain_curves import UNKNOWN, Timing, dyssynchrony_ms, summarise, summarise_all

FRAMES, FRAME_MS = 50, 20.0
TIMING = Timing(ed=0, es=18, frame_ms=FRAME_MS)


def beat(*, peak: float = -20.0, at: float = 18.0, frames: int = FRAMES, ed: int = 0) -> Tensor:
    """A raised cosine down to the peak and back, 0 from ``2 at`` on."""
    time = torch.arange(frames, dtype=torch.float64)
    curve = peak * 0.5 * (1.0 - torch.cos(math.pi * time / at))
    return torch.where(time < 2.0 * at, curve, 0.0).roll(ed)


def test_summary_of_a_known_curve() -> None:
    found = summarise(beat(), TIMING, sign=-1.0)
    steepest = 20.0 * 0.5 * math.pi / (18.0 * FRAME_MS / 1000.0)
    assert found.peak == pytest.approx(-20.0, abs=0.05)
    assert found.at_es == pytest.approx(-20.0)
    assert found.time_to_peak_ms == pytest.approx(360.0, abs=2.0)
    assert found.systolic_rate == pytest.approx(-steepest, rel=0.02)
    assert found.early_diastolic_rate == pytest.approx(steepest, rel=0.02)


def test_time_to_peak_is_finer_than_a_frame() -> None:
    found = summarise(beat(at=17.4), TIMING, sign=-1.0)
    assert found.time_to_peak_ms == pytest.approx(348.0, abs=2.0)


@pytest.mark.parametrize("ed", [0, 3, 47])
def test_ed_need_not_be_the_first_frame(ed: int) -> None:
    timing = Timing(ed, (ed + 18) % FRAMES, FRAME_MS)
    moved, still = summarise(beat(ed=ed), timing, sign=-1.0), summarise(beat(), TIMING, sign=-1.0)
    assert moved.peak == pytest.approx(still.peak)
    assert moved.time_to_peak_ms == pytest.approx(still.time_to_peak_ms)
    assert moved.systolic_rate == pytest.approx(still.systolic_rate)


@pytest.mark.parametrize("frame", [1, 2, 25, 48, 49])
def test_one_outlying_frame_is_not_a_peak(frame: int) -> None:
    curve = beat()
    curve[frame] = -40.0
    assert summarise(curve, TIMING, sign=-1.0).peak == pytest.approx(-20.0, abs=0.1)


def test_drift_at_the_end_of_the_cycle_is_neither_peak_nor_rate() -> None:
    curve = beat(peak=-8.0) + torch.where(torch.arange(FRAMES) > 36, -1.0 * (torch.arange(FRAMES) - 36), 0.0)
    drifted, clean = summarise(curve, TIMING, sign=-1.0), summarise(beat(peak=-8.0), TIMING, sign=-1.0)
    assert curve.min() < -12
    assert drifted.peak == pytest.approx(clean.peak, rel=1e-3)
    assert drifted.systolic_rate == pytest.approx(clean.systolic_rate, rel=2e-2)


def test_noise_changes_the_peak_by_less_than_its_own_sd() -> None:
    generator = torch.Generator().manual_seed(3)
    noise = 0.5 * torch.randn(200, FRAMES, generator=generator, dtype=torch.float64)
    noise[:, 0] = 0.0
    errors = torch.tensor([(summarise(beat() + one, TIMING, sign=-1.0).peak or 0.0) + 20.0 for one in noise])
    assert float(errors.square().mean().sqrt()) < 0.5


VOLUME_ML = (150.0, 146.0, 125.0, 96.0, 70.0, 60.0, 67.0, 88.0, 110.0, 121.0, 126.0, 128.0, 131.0, 142.0, 149.0, 150.0)
VOLUME_AT = (0.0, 0.05, 0.12, 0.2, 0.28, 0.36, 0.42, 0.47, 0.52, 0.58, 0.66, 0.75, 0.83, 0.9, 0.95, 1.0)
"""An LV volume over the cycle: ejection, rapid filling, diastasis and atrial contraction."""


@pytest.mark.parametrize(
    ("frames", "noise_ml", "percent"), [(30, 0.0, 1.0), (30, 1.0, 6.0), (30, 2.0, 12.0), (50, 2.0, 9.0)]
)
def test_bias_of_ejection_and_filling_rate_under_noise(frames: int, noise_ml: float, percent: float) -> None:
    curve = CubicSpline(VOLUME_AT, VOLUME_ML, bc_type="periodic")
    slope = curve(np.linspace(0.0, 1.0, 5001), 1)
    es = round(0.36 * frames)
    generator = torch.Generator().manual_seed(1)
    noise = noise_ml * torch.randn(300, frames, generator=generator, dtype=torch.float64)
    found = summarise_all(
        torch.from_numpy(curve(np.arange(frames) / frames)) + noise, Timing(0, es, 1000.0 / frames), sign=-1.0
    )
    ejection = np.mean([one.systolic_rate for one in found]) / slope[:1800].min()
    filling = np.mean([one.early_diastolic_rate for one in found]) / slope[1800:3400].max()
    assert 100.0 * (ejection - 1.0) == pytest.approx(0.0, abs=percent)
    assert 100.0 * (filling - 1.0) == pytest.approx(0.0, abs=percent)


def test_curves_are_summarised_together_as_one_by_one() -> None:
    curves = torch.stack([beat(), beat(peak=9.0), torch.full((FRAMES,), torch.nan), beat(at=17.4)]).double()
    for sign in (-1.0, None):
        assert summarise_all(curves, TIMING, sign=sign) == [summarise(curve, TIMING, sign=sign) for curve in curves]


def test_curve_that_never_contracts_has_no_time_to_peak() -> None:
    found = summarise(beat(peak=6.0, at=25.0), TIMING, sign=-1.0)
    assert found.peak is not None
    assert found.peak > 0
    assert found.time_to_peak_ms is None


def test_without_a_sign_the_larger_deflection_is_the_peak() -> None:
    assert summarise(beat(peak=-9.0), TIMING, sign=None).peak == pytest.approx(-9.0, abs=0.05)
    assert summarise(beat(peak=9.0), TIMING, sign=None).peak == pytest.approx(9.0, abs=0.05)


def test_ten_frames_are_enough_for_a_spline() -> None:
    curve = beat(at=3.4, frames=10)
    peaks = {frames: summarise(curve[:frames], Timing(0, 3, 80.0), sign=-1.0).peak for frames in (9, 10)}
    assert peaks[9] == float(curve.min())
    assert peaks[10] == pytest.approx(-20.0, abs=0.2)
    assert peaks[10] < peaks[9]


@pytest.mark.parametrize("frames", [10, 11, 24])
def test_smoothing_maximises_the_restricted_likelihood_of_dense_matrices(frames: int) -> None:
    """Wahba 1985, with the penalty as a matrix: ``(n - 1) log yᵀ(I - S)y - log det⁺(I - S)`` is smallest."""
    time = torch.arange(frames, dtype=torch.float64)
    noise = torch.randn(40, frames, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    curves = torch.sin(2.0 * math.pi * time / frames) + 0.5 * noise
    unit = torch.eye(frames, dtype=torch.float64)
    frequency = 2.0 * math.pi * torch.fft.fftfreq(frames, dtype=torch.float64)
    bending = torch.fft.ifft(torch.fft.fft(unit, dim=0) * (frequency**6)[:, None], dim=0).real
    criteria, smoothed = [], []
    for penalty in strain_curves._PENALTIES:
        smoother = torch.linalg.inv(unit + penalty * bending)
        residual = torch.einsum("ni,ij,nj->n", curves, unit - smoother, curves)
        eigenvalues = penalty * torch.linalg.eigvalsh(bending)[1:]
        criteria.append((frames - 1) * residual.log() - (eigenvalues / (1.0 + eigenvalues)).log().sum())
        smoothed.append(curves @ smoother)
    best = torch.stack(criteria).argmin(0)
    found = torch.fft.irfft(strain_curves._smooth_modes(curves), n=frames)
    torch.testing.assert_close(found, torch.stack(smoothed)[best, torch.arange(len(curves))])


def test_two_frames_have_a_peak_and_no_times() -> None:
    found = summarise(torch.tensor([0.0, -17.0]), Timing(0, 1, 400.0), sign=-1.0)
    assert (found.peak, found.at_es) == (-17.0, -17.0)
    assert found.time_to_peak_ms is found.systolic_rate is found.early_diastolic_rate is None


def test_summary_of_nan_or_without_frame_time_is_none() -> None:
    assert summarise(torch.full((FRAMES,), torch.nan), TIMING, sign=-1.0) == UNKNOWN
    untimed = summarise(beat(), Timing(0, 18, None), sign=-1.0)
    assert untimed.peak is not None
    assert untimed.time_to_peak_ms is None


def test_dyssynchrony_is_the_sd_of_times_to_peak() -> None:
    times: list[float | None] = [300.0, 340.0] * 8
    assert dyssynchrony_ms(times) == pytest.approx(20.0 * math.sqrt(16 / 15))
    assert dyssynchrony_ms([*times[:11], *[None] * 5]) is None


def test_time_of_the_steepest_fall_is_counted_from_es() -> None:
    # A raised cosine falls most steeply halfway between its peak, ES, and its end.
    assert summarise(beat(), TIMING, sign=-1.0).es_to_filling_ms == pytest.approx(180.0, abs=5.0)
