"""What is read off a curve over the cycle: peak, value at ES, time to peak, rates.

A curve begins at ED, where it is 0 by definition, and ends where the next cycle begins. Neither end says anything
about the peak, but noise and drift are largest there, relative to the signal. The peak is therefore looked for between
ED and the middle of diastole, on a curve from which single frames that stand out are removed; its value is then that of
a quadratic fitted to the few frames around it, which flattens no peak.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

FRAMES_FOR_TIMES = 10
"""With fewer frames a cycle, neither rates nor times mean anything, and neighbours do not vouch for each other."""

SEGMENTS_FOR_DYSSYNCHRONY = 12

_HALF_WINDOW = 0.04  # of the cycle, on either side: 40 ms at 60 beats a minute
_EARLY_DIASTOLE = 0.5  # of the time from ES to the next ED: rapid filling, before the atrial kick


@dataclass(frozen=True, slots=True)
class Timing:
    """When the frames of a curve were taken.

    Attributes:
        ed: Position of ED in the curve, from 0.
        es: Position of ES in the curve.
        frame_ms: Time between two frames, or None where nobody knows.
    """

    ed: int
    es: int
    frame_ms: float | None


@dataclass(frozen=True, slots=True)
class CurveSummary:
    """A curve in five numbers, each None where it is not defined.

    Rates are in the curve's unit per second: divide those of a strain in % by 100 for 1/s.

    Attributes:
        peak: The largest deflection in the direction of contraction; it may have the other sign where a part of the
            wall never deflects that way.
        at_es: At ES.
        time_to_peak_ms: From ED to the peak, finer than a frame; None where the peak has the other sign.
        systolic_rate: The steepest slope in the direction of contraction between ED and ES.
        early_diastolic_rate: The steepest slope back, in the first half of the time from ES to the next ED.
    """

    peak: float | None
    at_es: float | None
    time_to_peak_ms: float | None
    systolic_rate: float | None
    early_diastolic_rate: float | None


UNKNOWN = CurveSummary(None, None, None, None, None)


def summarise(curve: Float[Tensor, " t"], timing: Timing, *, sign: float | None) -> CurveSummary:
    """Summarise one curve of a whole cycle, in the order of the input.

    Args:
        curve: All frames of the cycle; any NaN, and nothing is known.
        timing: Of the same cycle.
        sign: 1 if contraction raises the curve, -1 if it lowers it; None for whichever way it deflects more.
    """
    if bool(curve.isnan().any()) or len(curve) < 2:
        return UNKNOWN
    from_ed = curve.double().roll(-timing.ed)
    es = (timing.es - timing.ed) % len(curve)
    if sign is None:
        searched = _steady(from_ed)[1 : _last_for_peak(len(curve), es) + 1]
        sign = 1.0 if float(searched[searched.abs().argmax()]) >= 0 else -1.0
    upward = sign * from_ed
    peak, place = _peak(upward, es)
    known = timing.frame_ms is not None and len(curve) >= FRAMES_FOR_TIMES and es > 0
    rates = _rates(upward, es, timing.frame_ms) if known and timing.frame_ms else (None, None)
    return CurveSummary(
        peak=sign * peak,
        at_es=float(from_ed[es]),
        time_to_peak_ms=place * timing.frame_ms if known and timing.frame_ms and peak > 0 else None,
        systolic_rate=None if rates[0] is None else sign * rates[0],
        early_diastolic_rate=None if rates[1] is None else sign * rates[1],
    )


def _last_for_peak(frames: int, es: int) -> int:
    """The last frame, counted from ED, at which a peak may be: the middle of diastole."""
    return min(frames - 1, es + math.ceil(_EARLY_DIASTOLE * (frames - es)))


def _peak(curve: Float[Tensor, " t"], es: int) -> tuple[float, float]:
    """Value and place of the largest value, in frames from ED."""
    steady = _steady(curve)
    last = _last_for_peak(len(curve), es)
    frame = 1 + int(steady[1 : last + 1].argmax())
    # The smoothed curve of a short cycle may have its maximum one frame beside that of the curve itself.
    value = float(_local_quadratic(curve)[0][max(frame - 1, 1) : min(frame + 1, last) + 1].max())
    before, here, after = (float(steady[(frame + step) % len(curve)]) for step in (-1, 0, 1))
    bend = before - 2.0 * here + after
    shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return value, frame + min(max(shift, -0.5), 0.5)


def _steady(curve: Float[Tensor, " t"]) -> Float[Tensor, " t"]:
    """Median of three frames, then weights 1-2-1, over the closed cycle; a cycle of few frames as it is."""
    if len(curve) < FRAMES_FOR_TIMES:
        return curve
    median = torch.stack([curve.roll(1), curve, curve.roll(-1)]).median(dim=0).values
    smooth: Tensor = (median.roll(1) + 2.0 * median + median.roll(-1)) / 4.0
    return smooth


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
    # A fit across ED would take the drift of the last frames, which ED itself does not have, for a slope.
    start = min(_half_window(len(curve)), es)
    return float(slope[start : es + 1].max()), float(slope[es : _last_for_peak(len(curve), es) + 1].min())


def dyssynchrony_ms(times_ms: Sequence[float | None]) -> float | None:
    """Standard deviation of the segments' times to peak; None where fewer than 12 of them are known.

    Args:
        times_ms: Time to peak circumferential strain of each AHA segment.
    """
    known = torch.tensor([time for time in times_ms if time is not None], dtype=torch.float64)
    return float(known.std()) if len(known) >= SEGMENTS_FOR_DYSSYNCHRONY else None
