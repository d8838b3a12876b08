"""Summary of a curve over the cardiac cycle: peak, value at ES, time to peak, systolic and early-diastolic rate.

A curve begins at ED, where it is 0 by definition, and ends where the next cycle begins. The peak is not expected at
either end, but noise and drift are largest there relative to the signal. It is therefore searched between ED and the
middle of diastole, on a smoothed curve without single outlying frames; its value is that of a quadratic fitted to the
few frames around it, which does not flatten the peak.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from cmnet_core.function.volumes import smooth_cyclic

FRAMES_FOR_TIMES = 10
"""Frames of a cycle from which on rates and times to peak are reported; with fewer of them they are too coarse."""

SEGMENTS_FOR_DYSSYNCHRONY = 12
"""Number of segments with a time to peak that dyssynchrony needs."""

_HALF_WINDOW = 0.04  # fraction of the cycle on either side: 40 ms at 60 beats per minute
_EARLY_DIASTOLE = 0.5  # fraction of the time from ES to the next ED: rapid filling, before atrial contraction


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
    """Five values of a curve, each None where it is not defined.

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
    """

    peak: float | None
    at_es: float | None
    time_to_peak_ms: float | None
    systolic_rate: float | None
    early_diastolic_rate: float | None


UNKNOWN = CurveSummary(None, None, None, None, None)


def summarise(curve: Float[Tensor, " t"], timing: Timing, *, sign: float | None) -> CurveSummary:
    """Summarise one curve over a whole cycle.

    Args:
        curve: Values in all frames of the cycle, in the order of the input; with any NaN every value is None.
        timing: Timing of the same cycle.
        sign: 1 if contraction raises the curve, -1 if it lowers it; None for the direction of the larger deflection.
    """
    if bool(curve.isnan().any()) or len(curve) < 2:
        return UNKNOWN
    from_ed = curve.double().roll(-timing.ed)
    es = (timing.es - timing.ed) % len(curve)
    if sign is None:
        searched = smooth_cyclic(from_ed)[1 : _last_for_peak(len(curve), es) + 1]
        sign = 1.0 if float(searched[searched.abs().argmax()]) >= 0 else -1.0
    upward = sign * from_ed
    peak, position = _peak(upward, es)
    has_times = timing.frame_ms is not None and len(curve) >= FRAMES_FOR_TIMES and es > 0
    rates = _rates(upward, es, timing.frame_ms) if has_times and timing.frame_ms else (None, None)
    return CurveSummary(
        peak=sign * peak,
        at_es=float(from_ed[es]),
        time_to_peak_ms=position * timing.frame_ms if has_times and timing.frame_ms and peak > 0 else None,
        systolic_rate=None if rates[0] is None else sign * rates[0],
        early_diastolic_rate=None if rates[1] is None else sign * rates[1],
    )


def _last_for_peak(frames: int, es: int) -> int:
    """Last frame, counted from ED, at which a peak is searched: the middle of diastole."""
    return min(frames - 1, es + math.ceil(_EARLY_DIASTOLE * (frames - es)))


def _peak(curve: Float[Tensor, " t"], es: int) -> tuple[float, float]:
    """Largest value, and its position in frames from ED."""
    smooth = smooth_cyclic(curve)
    last = _last_for_peak(len(curve), es)
    frame = 1 + int(smooth[1 : last + 1].argmax())
    # The smoothed curve of a short cycle may have its maximum one frame beside that of the curve itself.
    value = float(_local_quadratic(curve)[0][max(frame - 1, 1) : min(frame + 1, last) + 1].max())
    before, at_peak, after = (float(smooth[(frame + step) % len(curve)]) for step in (-1, 0, 1))
    curvature = before - 2.0 * at_peak + after
    shift = 0.5 * (before - after) / curvature if curvature < 0 else 0.0
    return value, frame + min(max(shift, -0.5), 0.5)


def _local_quadratic(curve: Float[Tensor, " t"]) -> tuple[Float[Tensor, " t"], Float[Tensor, " t"]]:
    """Value and slope per frame of a quadratic fitted around each frame (Savitzky and Golay, Anal. Chem. 36, 1964)."""
    half = _half_window(len(curve))
    if len(curve) < 2 * half + 1:
        return curve, torch.zeros_like(curve)
    steps = torch.arange(-half, half + 1, dtype=torch.float64)
    fit = torch.linalg.pinv(torch.stack([torch.ones_like(steps), steps, steps.square()], dim=1))
    around = torch.stack([curve.roll(-int(step)) for step in steps])
    value, slope, _ = fit @ around
    return value, slope


def _half_window(frames: int) -> int:
    return max(1, round(_HALF_WINDOW * frames))


def _rates(curve: Float[Tensor, " t"], es: int, frame_ms: float) -> tuple[float, float]:
    """Steepest rise in systole and steepest fall in early diastole, per second."""
    slope = _local_quadratic(curve)[1] * 1000.0 / frame_ms
    # A fit across ED would mistake the drift of the last frames, which ED itself does not have, for a slope.
    start = min(_half_window(len(curve)), es)
    return float(slope[start : es + 1].max()), float(slope[es : _last_for_peak(len(curve), es) + 1].min())


def dyssynchrony_ms(times_ms: Sequence[float | None]) -> float | None:
    """Compute the standard deviation of the segments' times to peak; None where fewer than 12 of them are known.

    Args:
        times_ms: Time to peak circumferential strain of each AHA segment, in ms.
    """
    known = torch.tensor([time for time in times_ms if time is not None], dtype=torch.float64)
    return float(known.std()) if len(known) >= SEGMENTS_FOR_DYSSYNCHRONY else None
