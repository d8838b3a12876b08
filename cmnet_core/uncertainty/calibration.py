"""Calibrated intervals of all quantities, and the file that holds their calibration.

The calibration of shipped weights is stored beside them in ``weights/<name>.calibration.json`` and is valid for these
weights only. ``benchmarks/coverage.py`` makes it, and ``cmnet calibrate`` makes one from a user's own read subjects.
Each quantity has its own conformal calibration (:mod:`cmnet_core.uncertainty.conformal`).
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmnet_core.errors import ErrorCode, ManifestError
from cmnet_core.io.atomic import write_text
from cmnet_core.models.checkpoint import WEIGHTS
from cmnet_core.uncertainty.conformal import Coverage, QuantityCalibration

Z_95 = 1.959964
"""Half-width of a 95 % interval of a normal distribution in standard deviations."""

CALIBRATION_SUFFIX = ".calibration.json"
"""Suffix of the calibration file of shipped weights."""

FORMAT_VERSION = 2

_ONE_SD_PERCENTILES = (15.87, 84.13)
"""Percentiles of a normal distribution at one standard deviation below and above its mean."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the ends of an interval.

    Attributes:
        lowest: The lower end is at least this.
        highest: The upper end is at most this.
    """

    lowest: float = -math.inf
    highest: float = math.inf


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration of a weights file.

    Attributes:
        digest: SHA-256 of the weights file.
        quantities: Calibration of each column, by table (``indices`` or ``segments``) and column. A column that is
            missing could not be calibrated and has no interval.
        provenance: Date and command, as plain values.
    """

    digest: str
    quantities: Mapping[str, Mapping[str, QuantityCalibration]]
    provenance: Mapping[str, object]

    def uses_spread_of(self, columns: Iterable[str]) -> bool:
        """Return whether the spread of any of these columns scales its interval, in any table.

        Args:
            columns: Names of columns.
        """
        wanted = set(columns)
        return any(
            found.typical_spread is not None
            for of_table in self.quantities.values()
            for name, found in of_table.items()
            if name in wanted
        )


def find_calibration(digest: str) -> Calibration | None:
    """Return the calibration of shipped weights, or None for weights without one.

    Args:
        digest: SHA-256 of the weights file.
    """
    for path in sorted(WEIGHTS.glob(f"*{CALIBRATION_SUFFIX}")):
        found = read_calibration(path)
        if found.digest == digest:
            return found
    return None


def read_calibration(path: Path) -> Calibration:
    """Read a calibration file.

    Args:
        path: The file that :func:`write_calibration` wrote.

    Raises:
        ManifestError: The file cannot be read, or is no calibration.
    """
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {stored['format_version']}, expected {FORMAT_VERSION}")
        quantities = {
            table: {name: _quantity(values) for name, values in of_table.items()}
            for table, of_table in stored["quantities"].items()
        }
        return Calibration(stored["digest"], quantities, stored["provenance"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(
            f"The calibration {path} cannot be used: {error}.",
            hint="Give the file that cmnet calibrate wrote with this version of cmnet.",
            code=ErrorCode.CONFIG,
        ) from error


def _quantity(values: dict[str, Any]) -> QuantityCalibration:
    evaluated = {name: Coverage(**values[name]) for name in ("at_90", "at_95") if values[name] is not None}
    return QuantityCalibration(**(values | evaluated))


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration file with six significant digits; the file appears only when it is complete."""
    plain = {"format_version": FORMAT_VERSION, **_rounded(asdict(calibration))}
    write_text(path, json.dumps(plain, indent=1, allow_nan=False) + "\n")


def _rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {name: _rounded(value) for name, value in values.items()}
    return float(f"{values:.6g}") if isinstance(values, float) else values


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


def without_calibration(spreads: Mapping[str, float]) -> dict[str, QuantityCalibration]:
    """Return calibrations by which an interval is ``value ± 1.96 × spread``, for weights without a calibration."""
    return {name: QuantityCalibration(Z_95, 0.0) for name in spreads}


def intervals(
    values: Mapping[str, object],
    spreads: Mapping[str, float],
    quantities: Mapping[str, QuantityCalibration],
    limits: Mapping[str, Limits],
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Compute the ends ``<name>_lo`` and ``<name>_hi`` of the intervals of a row.

    Args:
        values: The quantities of the row.
        spreads: Spread of each quantity, as :func:`spread` returns it.
        quantities: Calibration of each quantity.
        limits: Limits of the ends of quantities that have some.

    Returns:
        The ends of all intervals that can be used, and the quantities whose interval is too wide to be of use.
    """
    ends: dict[str, float] = {}
    uninformative = []
    for name, calibration in quantities.items():
        value = values.get(name)
        if not isinstance(value, int | float) or not math.isfinite(value):
            continue
        half, within = calibration.half_width(spreads.get(name)), limits.get(name, Limits())
        if half > calibration.largest_half_width:
            uninformative.append(name)
            continue
        ends[f"{name}_lo"] = max(value - half, within.lowest)
        ends[f"{name}_hi"] = min(value + half, within.highest)
    return ends, tuple(uninformative)
