"""Calibrated 95 % intervals of indices from samples of the posterior.

The predictive uncertainty of a network reflects ambiguous voxels, but not the difference of a subject from the training
data. The standard deviation over the samples is therefore multiplied by a factor for each family of quantities. The
factors are fitted on subjects with known values that were not in the training data (``benchmarks/coverage.py --fit``).
Those of shipped weights are stored with their provenance in ``weights/<name>.calibration.json``, and are valid for
these weights only.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np

from cmnet_core.function.volumes import ClinicalIndices
from cmnet_core.models.checkpoint import WEIGHTS

Z_95 = 1.959964
"""Half-width of a 95 % interval in standard deviations."""

CALIBRATION_SUFFIX = ".calibration.json"
"""Suffix of the calibration file of shipped weights."""

_THICKNESS = ("wall_thickness_ed_mm", "wall_thickness_es_mm", "wall_thickening_pct")
_NON_NEGATIVE = ("lvedv_ml", "lvesv_ml", "lvm_g", "rvedv_ml", "rvesv_ml", *_THICKNESS[:2])
_TIME_PREFIX = "time_to_peak_"
_ONE_SD_PERCENTILES = (15.87, 84.13)
"""Percentiles of a normal distribution at one standard deviation below and above its mean."""


class Family(StrEnum):
    """A family of quantities with the same source of uncertainty and one calibration factor.

    Segmentations constrain circumferential strain well, radial strain less, and longitudinal strain hardly: one factor
    for all strain would be too large for the first and too small for the last.
    """

    VOLUMES = "volumes"
    RADIAL = "radial"
    CIRCUMFERENTIAL = "circumferential"
    LONGITUDINAL = "longitudinal"
    TIMES = "times"
    MOTION = "motion"


_FAMILY_OF_PREFIX = {
    "time_to_peak": Family.TIMES,
    **dict.fromkeys(("grs", "err"), Family.RADIAL),
    **dict.fromkeys(("gcs", "ecc"), Family.CIRCUMFERENTIAL),
    **dict.fromkeys(("gls", "ell"), Family.LONGITUDINAL),
}


def family_of(quantity: str) -> Family:
    """Return the family of a quantity.

    The uncertainty of volumes, mass, ejection fractions and wall thickness is that of the segmentation; the uncertainty
    of all other quantities is that of the motion.

    Args:
        quantity: Name of a column of the results.
    """
    if quantity in {*_THICKNESS, *(item.name for item in fields(ClinicalIndices))}:
        return Family.VOLUMES
    found = (family for prefix, family in _FAMILY_OF_PREFIX.items() if quantity.startswith(f"{prefix}_"))
    return next(found, Family.MOTION)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration factors of a weights file.

    Attributes:
        digest: SHA-256 of the weights file.
        factors: Factor of each family; a family that is missing was not fitted.
        provenance: Cohorts, coverage before and after calibration, and date, as plain values.
    """

    digest: str
    factors: Mapping[str, float]
    provenance: Mapping[str, object]

    def factor(self, quantity: str) -> float:
        """Return the factor of a quantity's standard deviation; 1 where none was fitted."""
        return self.factors.get(family_of(quantity), 1.0)


def find_calibration(digest: str) -> Calibration | None:
    """Return the calibration of shipped weights, or None for weights without one.

    Args:
        digest: SHA-256 of the weights file.
    """
    for path in sorted(WEIGHTS.glob(f"*{CALIBRATION_SUFFIX}")):
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["digest"] == digest:
            return Calibration(digest, values["factors"], values["provenance"])
    return None


def spread(draws: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Estimate the standard deviation of each quantity over samples of the posterior.

    It is half the distance between the 16th and the 84th percentile, which is robust against single samples of
    implausible motion. A quantity that at most half of the samples have is left out.

    Args:
        draws: The quantities of each sample.
    """
    known = {name: [draw[name] for draw in draws if draw.get(name) is not None] for name in draws[0]} if draws else {}
    enough = max(2, len(draws) // 2 + 1)
    return {name: _robust_sd(_finite(values)) for name, values in known.items() if len(values) >= enough}


def _robust_sd(values: Sequence[float]) -> float:
    lower, upper = np.percentile(values, _ONE_SD_PERCENTILES)
    return float(upper - lower) / 2.0


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def intervals(
    values: Mapping[str, object],
    sd: Mapping[str, float],
    calibration: Calibration | None,
    *,
    frame_ms: float = 0.0,
    cycle_ms: float = math.inf,
) -> dict[str, float]:
    """Compute the bounds ``<name>_lo`` and ``<name>_hi`` of ``value ± 1.96 × factor × SD``.

    20 samples give the standard deviation to about a fifth, but not the 2.5th percentile. The standard deviation of a
    time includes that of the frame interval, and its interval is limited to the cycle.

    Args:
        values: The quantities of a subject.
        sd: Standard deviation of each quantity, as :func:`spread` returns it.
        calibration: Calibration of the weights; None for factors of 1.
        frame_ms: Interval between two frames in ms.
        cycle_ms: Duration of the cycle in ms.

    Returns:
        The bounds of all quantities that have a finite value and a standard deviation.
    """
    ends: dict[str, float] = {}
    for name, deviation in sd.items():
        value = values.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            is_time = name.startswith(_TIME_PREFIX)
            sd_of_frames = frame_ms / math.sqrt(12.0) if is_time else 0.0
            half = Z_95 * math.hypot(deviation, sd_of_frames) * (calibration.factor(name) if calibration else 1.0)
            lower, upper = value - half, value + half
            ends[f"{name}_lo"] = max(lower, 0.0) if is_time or name in _NON_NEGATIVE else lower
            ends[f"{name}_hi"] = min(upper, cycle_ms) if is_time else upper
    return ends
