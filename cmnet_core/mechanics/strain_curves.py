"""Summary of a curve over the cardiac cycle: peak, value at ES, time to peak, systolic and early-diastolic rate.

A curve begins at ED, where it is 0 by definition, and ends where the next cycle begins. From 10 frames on, peak, times
and rates are those of a periodic smoothing spline through it. Its smoothness is chosen for each curve by restricted
maximum likelihood, so that it follows a curve without noise and averages a noisy one; docs/strain.md gives its bias.
The peak is not expected at either end of the cycle, but noise and drift are largest there relative to the signal. It is
therefore searched between ED and the middle of diastole.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

FRAMES_FOR_TIMES = 10
"""Frames of a cycle from which on rates and times to peak are reported; with fewer of them they are too coarse."""

SEGMENTS_FOR_DYSSYNCHRONY = 12
"""Number of segments with a time to peak that dyssynchrony needs."""

_EARLY_DIASTOLE = 0.5  # fraction of the time from ES to the next ED: rapid filling, before atrial contraction
_AFTER_ED = 0.04  # fraction of the cycle; earlier slopes are those between ED, which has no error, and its neighbour
_POINTS_PER_FRAME = 10
_PENALTIES = tuple(10.0 ** (exponent / 4.0) for exponent in range(-16, 28))
_OUTLIER_SD, _OUTLIER_FRACTION = 6.0, 0.25  # robust SDs of the curve's residuals, and fraction of its range


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of the frames of a curve.

    Attributes:
        ed: Position of ED in the curve, from 0.
        es: Position of ES in the curve, from 0.
        frame_ms: Time between two frames in ms, or None where it is not known.
    """

    ed: int
    es: int
    frame_ms: float | None


@dataclass(frozen=True, slots=True)
class CurveSummary:
    """Six values of a curve, each None where it is not defined.

    Rates are in the curve's unit per second: divide those of a strain in % by 100 for 1/s.

    Attributes:
        peak: Largest deflection in the direction of contraction, in the curve's unit. It has the opposite sign where
            the curve never deflects in that direction.
        at_es: Value at ES, in the curve's unit.
        time_to_peak_ms: Time from ED to the peak with sub-frame resolution, in ms; None where the peak has the opposite
            sign.
        systolic_rate: Steepest slope in the direction of contraction between ED and ES.
        early_diastolic_rate: Steepest slope in the opposite direction in the first half of the time from ES to the next
            ED.
        es_to_filling_ms: Time from ES to the steepest slope of early diastole, in ms.
    """

    peak: float | None
    at_es: float | None
    time_to_peak_ms: float | None
    systolic_rate: float | None
    early_diastolic_rate: float | None
    es_to_filling_ms: float | None


UNKNOWN = CurveSummary(None, None, None, None, None, None)


def summarise(curve: Float[Tensor, " t"], timing: Timing, *, sign: float | None) -> CurveSummary:
    """Summarise one curve over a whole cycle, as :func:`summarise_all` does.

    Args:
        curve: Values in all frames of the cycle, in the order of the input; with any NaN every value is None.
        timing: Timing of the same cycle.
        sign: 1 if contraction raises the curve, -1 if it lowers it; None for the direction of the larger deflection.
    """
    return summarise_all(curve[None], timing, sign=sign)[0]


def summarise_all(curves: Float[Tensor, "n t"], timing: Timing, *, sign: float | None) -> list[CurveSummary]:
    """Summarise curves over the same cycle.

    Args:
        curves: Values in all frames of the cycle, in the order of the input; with any NaN every value of a curve is
            None.
        timing: Timing of the cycle.
        sign: 1 if contraction raises the curves, -1 if it lowers them; None for the direction of the larger deflection
            of each.
    """
    frames = curves.shape[1]
    known = ~curves.isnan().any(1)
    summaries = [UNKNOWN] * len(curves)
    if frames < 2 or not bool(known.any()):
        return summaries
    from_ed, es = curves[known].double().roll(-timing.ed, dims=1), (timing.es - timing.ed) % frames
    found = _measure(from_ed, es, sign)
    has_times = timing.frame_ms is not None and frames >= FRAMES_FOR_TIMES and es > 0
    frame_ms = timing.frame_ms if has_times and timing.frame_ms else math.nan
    rows = zip(
        known.nonzero()[:, 0].tolist(),
        (found.sign * found.peak).tolist(),
        from_ed[:, es].tolist(),
        torch.where(found.peak > 0, found.position * frame_ms, torch.nan).tolist(),
        (found.sign * found.rise * 1000.0 / frame_ms).tolist(),
        (found.sign * found.fall * 1000.0 / frame_ms).tolist(),
        (found.fall_after_es * frame_ms).tolist(),
        strict=True,
    )
    for number, *values in rows:
        summaries[number] = CurveSummary(*(None if math.isnan(value) else value for value in values))
    return summaries


@dataclass(frozen=True, slots=True, eq=False)
class _Measured:
    """Values of curves in the direction of contraction, and that direction.

    Attributes:
        sign: 1 where contraction raises the curve, else -1.
        peak: Largest value.
        position: Position of the peak in frames from ED.
        rise: Steepest rise from ED to ES, per frame.
        fall: Steepest fall from ES to mid-diastole, per frame.
        fall_after_es: Position of the steepest fall in frames from ES.
    """

    sign: Float[Tensor, " n"]
    peak: Float[Tensor, " n"]
    position: Float[Tensor, " n"]
    rise: Float[Tensor, " n"]
    fall: Float[Tensor, " n"]
    fall_after_es: Float[Tensor, " n"]


def _measure(from_ed: Float[Tensor, "n t"], es: int, sign: float | None) -> _Measured:
    frames = from_ed.shape[1]
    last = min(frames - 1, es + math.ceil(_EARLY_DIASTOLE * (frames - es)))
    smooth = frames >= FRAMES_FOR_TIMES
    points = _POINTS_PER_FRAME if smooth else 1
    value, slope = _spline(from_ed, last) if smooth else (from_ed, torch.full_like(from_ed, torch.nan))
    searched = value[:, points : points * last + 1]
    signs = _deflection(searched) if sign is None else torch.full_like(from_ed[:, 0], sign)
    peak, at = (signs[:, None] * searched).max(1)
    slope = signs[:, None] * slope
    start = min(round(_AFTER_ED * frames), es) * points
    fall, fall_at = slope[:, es * points : last * points + 1].min(1)
    return _Measured(
        sign=signs,
        peak=peak,
        position=1.0 + at.double() / points,
        rise=slope[:, start : es * points + 1].amax(1),
        fall=fall,
        fall_after_es=fall_at.double() / points,
    )


def _deflection(values: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """1 where the larger deflection of a curve is upwards, else -1."""
    largest = values.gather(1, values.abs().argmax(1, keepdim=True))[:, 0]
    return torch.where(largest >= 0, 1.0, -1.0).double()


# ── periodic smoothing ───────────────────────────────────────────────────────────────────────────────────────────


def _spline(curves: Float[Tensor, "n t"], diastole: int) -> tuple[Float[Tensor, "n k"], Float[Tensor, "n k"]]:
    """Value, and slope per frame, of a periodic smoothing spline through each curve, at ten points per frame.

    Args:
        curves: Values from ED on.
        diastole: Frame from which on drift over the cycle is removed.
    """
    frames = curves.shape[1]
    smooth = _smooth_modes(_without_drift(_without_outliers(curves), diastole))
    order = torch.arange(smooth.shape[1], dtype=torch.float64)
    # A derivative has no defined value in the highest mode of an even number of frames.
    rotation = 2j * math.pi * order / frames * (order < frames / 2)
    fine, scale = frames * _POINTS_PER_FRAME, float(_POINTS_PER_FRAME)
    return torch.fft.irfft(smooth, n=fine) * scale, torch.fft.irfft(smooth * rotation, n=fine) * scale


def _smooth_modes(curves: Float[Tensor, "n t"]) -> Tensor:
    """Fourier modes of the periodic quintic smoothing spline of each curve, with the most likely penalty.

    The spline minimises ``Σ (y - f)² + λ ∫ |d³f/dt³|²``; on equidistant frames it multiplies mode ω by
    ``1 / (1 + λ ω⁶)``. λ maximises the restricted likelihood of the curve (Wahba, Ann. Statist. 13 (1985) 1378).
    """
    frames = curves.shape[1]
    modes = torch.fft.rfft(curves, dim=1)
    order = torch.arange(modes.shape[1], dtype=torch.float64)
    # Every mode but the mean, and the highest one of an even number of frames, stands for two.
    count = torch.where((order == 0) | (2 * order == frames), 1.0, 2.0).double()
    energy = (modes.abs().square() * count / frames)[:, 1:]
    penalties = torch.tensor(_PENALTIES, dtype=torch.float64)
    kept = 1.0 / (1.0 + penalties[:, None] * (2.0 * math.pi * order / frames) ** 6)
    lost = 1.0 - kept[:, 1:]
    likelihood = (energy @ lost.T).clamp_min(1e-300).log() * count[1:].sum() - (lost.log() @ count[1:])
    smooth: Tensor = modes * kept[likelihood.argmin(1)]
    return smooth


def _without_outliers(curves: Float[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """Curves in which a frame far from the cubic through its four neighbours has the mean of the nearer two."""
    near, far = (curves.roll(step, dims=1) + curves.roll(-step, dims=1) for step in (1, 2))
    expected = (4.0 * near - far) / 6.0
    residual = (curves - expected).abs()
    spread = 1.4826 * residual.median(dim=1, keepdim=True).values
    extent = curves.quantile(0.9, dim=1, keepdim=True) - curves.quantile(0.1, dim=1, keepdim=True)
    limit = torch.maximum(_OUTLIER_SD * spread, _OUTLIER_FRACTION * extent)
    # The neighbours of an outlier have a residual of two thirds of its own.
    is_outlier = (residual > limit) & (residual == residual.amax(1, keepdim=True))
    is_outlier[:, 0] = False  # by definition a curve is 0 at ED
    return torch.where(is_outlier, 0.5 * near, curves)


def _without_drift(curves: Float[Tensor, "n t"], start: int) -> Float[Tensor, "n t"]:
    """Curves whose last frames lead back to their value at ED.

    The drift over the cycle is the value at the next ED by a line through the last three frames. It is removed by a
    ramp that begins in mid-diastole, after everything that is measured.
    """
    frames = curves.shape[1]
    drift = curves[:, -3:].mean(1) + (curves[:, -1] - curves[:, -3]) - curves[:, 0]
    along = ((torch.arange(frames, dtype=torch.float64) - start) / (frames - start)).clamp_min(0.0)
    ramp = along**3 * (10.0 - 15.0 * along + 6.0 * along**2)
    without: Tensor = curves - drift[:, None] * ramp
    return without


def dyssynchrony_ms(times_ms: Sequence[float | None]) -> float | None:
    """Compute the standard deviation of the segments' times to peak; None where fewer than 12 of them are known.

    Args:
        times_ms: Time to peak circumferential strain of each AHA segment, in ms.
    """
    known = torch.tensor([time for time in times_ms if time is not None], dtype=torch.float64)
    return float(known.std()) if len(known) >= SEGMENTS_FOR_DYSSYNCHRONY else None
