"""From draws to intervals, and the factor that makes 95 % mean 95 %.

A network's own doubt is about voxels that look ambiguous; it knows nothing of hearts unlike those it was trained on.
The spread over draws is therefore multiplied by a factor, one for each family of quantities, fitted on hearts with
known values that took no part in training (``benchmarks/coverage.py --fit``). The factors of shipped weights lie beside
them, in ``weights/<name>.calibration.json``, with where they come from; they hold for these weights alone.
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
"""Half the width of a 95 % interval in standard deviations."""

CALIBRATION_SUFFIX = ".calibration.json"
_THICKNESS = ("wall_thickness_ed_mm", "wall_thickness_es_mm", "wall_thickening_pct")
_NEVER_BELOW_0 = ("lvedv_ml", "lvesv_ml", "lvm_g", "rvedv_ml", "rvesv_ml", *_THICKNESS[:2])
_TIMES = "time_to_peak_"
_ONE_SD = (15.87, 84.13)
"""Percentiles of a normal distribution one standard deviation below and above its middle."""


class Family(StrEnum):
    """Quantities whose intervals share a factor, since the same doubt is behind them.

    Masks show how far the wall moves around the cavity, less of how it thickens, and next to nothing of how it shortens
    along the axis: one factor for all strain would be too wide for the first and too narrow for the last.
    """

    VOLUMES = "volumes"
    RADIAL = "radial"
    CIRCUMFERENTIAL = "circumferential"
    LONGITUDINAL = "longitudinal"
    TIMES = "times"
    MOTION = "motion"


_BEGINNINGS = {
    "time_to_peak": Family.TIMES,
    **dict.fromkeys(("grs", "err"), Family.RADIAL),
    **dict.fromkeys(("gcs", "ecc"), Family.CIRCUMFERENTIAL),
    **dict.fromkeys(("gls", "ell"), Family.LONGITUDINAL),
}


def family_of(quantity: str) -> Family:
    """Volumes, mass, ejection fractions and thickness rest on SegNet's doubt, all else on the motion's."""
    if quantity in {*_THICKNESS, *(item.name for item in fields(ClinicalIndices))}:
        return Family.VOLUMES
    found = (family for beginning, family in _BEGINNINGS.items() if quantity.startswith(f"{beginning}_"))
    return next(found, Family.MOTION)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The factors that belong to some weights.

    Attributes:
        digest: SHA-256 of the weights file.
        factors: By family; one that is missing was not fitted.
        provenance: Hearts, coverage before and after, and when, in plain values.
    """

    digest: str
    factors: Mapping[str, float]
    provenance: Mapping[str, object]

    def factor(self, quantity: str) -> float:
        """What the spread of a quantity is multiplied by; 1 where nothing was fitted."""
        return self.factors.get(family_of(quantity), 1.0)


def find_calibration(digest: str) -> Calibration | None:
    """The calibration of shipped weights, or None for weights that have none."""
    for path in sorted(WEIGHTS.glob(f"*{CALIBRATION_SUFFIX}")):
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["digest"] == digest:
            return Calibration(digest, values["factors"], values["provenance"])
    return None


def spread(draws: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """How far draws of each quantity lie apart; one that most draws do not know has none.

    Half of what lies between the 16th and 84th percentile, which is the standard deviation of a normal distribution.
    Some draws of a motion are rough, as no heart moves; the strain of one such among twenty would decide theirs.
    """
    known = {name: [draw[name] for draw in draws if draw.get(name) is not None] for name in draws[0]} if draws else {}
    enough = max(2, len(draws) // 2 + 1)
    return {name: _half_of_the_middle(_finite(values)) for name, values in known.items() if len(values) >= enough}


def _half_of_the_middle(values: Sequence[float]) -> float:
    lower, upper = np.percentile(values, _ONE_SD)
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
    """The ends ``<name>_lo`` and ``<name>_hi`` of ``value ± 1.96 × factor × SD``, for all values that have a spread.

    The spread of 20 draws is known to a fifth, their 2.5th percentile not at all. A time is known no better than within
    a frame of ``frame_ms``, and lies within the cycle of ``cycle_ms``, however wide its spread.
    """
    ends: dict[str, float] = {}
    for name, deviation in sd.items():
        value = values.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            is_time = name.startswith(_TIMES)
            sd_of_frames = frame_ms / math.sqrt(12.0) if is_time else 0.0
            half = Z_95 * math.hypot(deviation, sd_of_frames) * (calibration.factor(name) if calibration else 1.0)
            lower, upper = value - half, value + half
            ends[f"{name}_lo"] = max(lower, 0.0) if is_time or name in _NEVER_BELOW_0 else lower
            ends[f"{name}_hi"] = min(upper, cycle_ms) if is_time else upper
    return ends
